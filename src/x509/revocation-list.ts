import { isAppError } from '../runtime/error.ts';
import type { Certificate } from './certificate.ts';
import { contextTag, DerReader, malformed, readTime, tags } from './der-reader.ts';
import { type Extension, extensionOids, parseAuthorityKeyId, readExtensions } from './extensions.ts';
import { parseName } from './names.ts';
import { parsePem } from './pem.ts';
import { verifySignature } from './signature.ts';
import { readSigned } from './signed.ts';

/** Room for about 100,000 entries. */
const MAX_LIST_BYTES = 4 * 1024 * 1024;
/** Lists in one file. */
const MAX_LISTS = 64;
/** RFC 5280 §5.2.4: holds only what changed since another list, so it must never stand alone. */
const DELTA_CRL_INDICATOR = '2.5.29.27';
/** RFC 5280 §5.2.5: may limit the list to some of the issuer's certificates. It must be critical, and not all obey. */
const ISSUING_DISTRIBUTION_POINT = '2.5.29.28';
/** RFC 5280 §4.1.2.2. */
const MAX_SERIAL_BYTES = 20;

/**
 * A certificate revocation list that has been parsed, not one that is trusted (RFC 5280 §5): signature, time and the
 * right to sign it are the caller's to check. Only complete lists of one issuer's own certificates are accepted:
 * delta, indirect and partitioned lists say so by extensions that are refused.
 */
export class RevocationList {
  /** Name, DER. */
  readonly issuer: Buffer;
  /** For people; safe to log. */
  readonly issuerText: string;
  readonly thisUpdateMs: number;
  readonly nextUpdateMs: number;
  /** Hex; undefined when the list does not say. */
  readonly authorityKeyId: string | undefined;
  readonly #tbs: Buffer;
  readonly #signatureOid: string;
  readonly #signature: Buffer;
  readonly #serials: ReadonlySet<string>;
  /** SubjectPublicKeyInfo of the key that is known to have signed it. */
  #signer: Buffer | undefined;

  private constructor(der: Buffer) {
    const signed = readSigned(der, 'revocation list');
    this.#tbs = signed.content.encoded;
    this.#signatureOid = signed.algorithmOid;
    this.#signature = signed.signature;
    const fields = new DerReader(signed.content.contents);
    const isVersion2 = readVersion2(fields);
    // As in certificates: else the algorithm that is read could be one that was not signed.
    if (!fields.take(tags.sequence, 'signature algorithm').encoded.equals(signed.algorithm))
      throw malformed('the two signature algorithms differ');
    this.issuer = fields.take(tags.sequence, 'issuer').encoded;
    this.issuerText = parseName(this.issuer, 'issuer');
    this.thisUpdateMs = readTime(fields.any('thisUpdate'), 'thisUpdate');
    this.nextUpdateMs = readNextUpdate(fields, this.thisUpdateMs);
    this.#serials = fields.nextTag === tags.sequence ? readEntries(fields, isVersion2) : new Set();
    const extensions = isVersion2 ? readListExtensions(fields) : new Map<string, Extension>();
    fields.end('revocation list content');
    const keyId = extensions.get(extensionOids.authorityKeyId);
    this.authorityKeyId = keyId === undefined ? undefined : parseAuthorityKeyId(keyId.value);
  }

  /** Exactly one list; throws AppError `invalid-argument` for anything that is not strict DER. */
  static parse(der: Uint8Array): RevocationList {
    try {
      if (der.length > MAX_LIST_BYTES) throw malformed(`longer than ${MAX_LIST_BYTES} bytes`);
      // Copied, so that nobody can change afterwards what has been checked.
      return new RevocationList(Buffer.from(der));
    } catch (error) {
      throw isAppError(error) ? malformed(`failed to parse revocation list: ${error.message}`) : error;
    }
  }

  /** How many certificates it revokes. */
  get size(): number {
    return this.#serials.size;
  }

  /** `serialHex` as `Certificate` has it. */
  revokes(serialHex: string): boolean {
    return this.#serials.has(serialHex);
  }

  /** True when the issuer's key made the signature. A success is remembered: hashing a large list takes its time. */
  verifySignedBy({ spki }: Certificate): boolean {
    if (this.#signer?.equals(spki) === true) return true;
    const algorithmOid = this.#signatureOid;
    const isGood = verifySignature({ spki, algorithmOid, data: this.#tbs, signature: this.#signature });
    if (isGood) this.#signer = spki;
    return isGood;
  }
}

/** One list as DER, or one or more PEM blocks `X509 CRL` and no others; throws AppError `invalid-argument`. */
export function parseRevocationLists(file: Buffer): readonly RevocationList[] {
  if (file[0] === tags.sequence) return [RevocationList.parse(file)];
  const blocks = parsePem(file.toString('latin1'));
  if (blocks.length === 0 || blocks.length > MAX_LISTS)
    throw malformed(`expected 1 to ${MAX_LISTS} PEM blocks "X509 CRL", got ${blocks.length}`);
  return blocks.map(({ label, der }, index) => {
    if (label !== 'X509 CRL') throw malformed(`PEM block ${index + 1}: expected "X509 CRL", got "${label}"`);
    return RevocationList.parse(der);
  });
}

/** Version 1 is never written, and has no extensions (RFC 5280 §5.1.2.1). */
function readVersion2(fields: DerReader): boolean {
  if (fields.nextTag !== tags.integer) return false;
  if (fields.smallInteger('version') !== 1) throw malformed('version: expected 2');
  return true;
}

/** RFC 5280 §5.1.2.5 demands it: a list without an end could be replayed for ever. */
function readNextUpdate(fields: DerReader, thisUpdateMs: number): number {
  if (fields.nextTag !== tags.utcTime && fields.nextTag !== tags.generalizedTime)
    throw malformed('nextUpdate: missing');
  const nextUpdateMs = readTime(fields.any('nextUpdate'), 'nextUpdate');
  if (nextUpdateMs < thisUpdateMs) throw malformed('nextUpdate lies before thisUpdate');
  return nextUpdateMs;
}

function readEntries(fields: DerReader, isVersion2: boolean): ReadonlySet<string> {
  const serials = new Set<string>();
  const list = fields.enter('revokedCertificates');
  while (!list.isAtEnd) {
    const entry = list.enter('revoked certificate');
    serials.add(readSerial(entry));
    readTime(entry.any('revocationDate'), 'revocationDate');
    // Critical ones move the entry to another issuer, or change what it means (§5.3).
    if (!entry.isAtEnd && isVersion2) refuseCritical(readExtensions(entry.enter('entry extensions')), []);
    entry.end('revoked certificate');
  }
  return serials;
}

/** As `Certificate.serialHex`: without a sign byte. */
function readSerial(entry: DerReader): string {
  const serial = entry.integer('userCertificate');
  if (serial.length > MAX_SERIAL_BYTES || (serial[0] ?? 0) >= 0x80)
    throw malformed(`userCertificate: expected a serial number of at most ${MAX_SERIAL_BYTES} bytes`);
  return (serial[0] === 0 && serial.length > 1 ? serial.subarray(1) : serial).toString('hex');
}

function readListExtensions(fields: DerReader): ReadonlyMap<string, Extension> {
  const explicit = fields.optional(contextTag(0, true), 'crlExtensions');
  if (explicit === undefined) return new Map();
  const inner = fields.inside(explicit);
  const extensions = readExtensions(inner.enter('crlExtensions'));
  inner.end('crlExtensions');
  if (extensions.has(DELTA_CRL_INDICATOR))
    throw malformed('a delta list is not supported; give complete lists');
  if (extensions.has(ISSUING_DISTRIBUTION_POINT))
    throw malformed(
      `an issuing distribution point (${ISSUING_DISTRIBUTION_POINT}) is not supported; give complete lists`,
    );
  refuseCritical(extensions, [extensionOids.authorityKeyId]);
  return extensions;
}

function refuseCritical(extensions: ReadonlyMap<string, Extension>, known: readonly string[]): void {
  const unknown = [...extensions.values()].filter(
    ({ oid, isCritical }) => isCritical && !known.includes(oid),
  );
  if (unknown.length === 0) return;
  throw malformed(`critical extensions that are not supported: ${unknown.map(({ oid }) => oid).join(', ')}`);
}
