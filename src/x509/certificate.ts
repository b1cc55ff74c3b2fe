import { hash } from 'node:crypto';
import { AppError, isAppError } from '../runtime/error.ts';
import { DerReader, malformed, tags } from './der-reader.ts';
import {
  type Extension,
  extensionOids,
  type KeyUsage,
  parseAuthorityKeyId,
  parseBasicConstraints,
  parseExtendedKeyUsage,
  parseKeyUsage,
  parseSubjectAltName,
  parseSubjectKeyId,
} from './extensions.ts';
import type { GeneralNameKind } from './general-names.ts';
import { type NameConstraints, parseNameConstraints } from './name-constraints.ts';
import { isEmptyName, parseName } from './names.ts';
import { encodePem, parsePem } from './pem.ts';
import { verifySignature } from './signature.ts';
import { readSigned } from './signed.ts';
import { readTbsCertificate } from './tbs-certificate.ts';

/** Bytes of one certificate; real ones have 0.5 to 8 KB. */
const MAX_CERTIFICATE_BYTES = 64 * 1024;
/** Bytes of a chain or a bundle. */
const MAX_CHAIN_BYTES = 4 * 1024 * 1024;

const knownExtensions: ReadonlySet<string> = new Set(Object.values(extensionOids));

/** A certificate that has been parsed, not one that is trusted: nothing here is verified (RFC 5280 §4.1). */
export class Certificate {
  /** All of it; a private copy, as are the views into it. */
  readonly der: Buffer;
  /** The signed part. */
  readonly tbs: Buffer;
  readonly signatureOid: string;
  readonly signature: Buffer;
  /** Lower-case hex without leading zero bytes. */
  readonly serialHex: string;
  /** Name, DER. */
  readonly issuer: Buffer;
  /** Name, DER. */
  readonly subject: Buffer;
  /** For people, such as `C=US,O=SPIRE`; safe to log. */
  readonly issuerText: string;
  /** For people, such as `C=US,O=SPIRE`; safe to log. */
  readonly subjectText: string;
  readonly notBeforeMs: number;
  /** The last moment of validity, to the second. */
  readonly notAfterMs: number;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  /** By OID, in the order of the certificate. */
  readonly extensions: ReadonlyMap<string, Extension>;
  readonly isCa: boolean;
  /** pathLenConstraint; undefined when nothing limits it. */
  readonly pathLength: number | undefined;
  /** Undefined when the extension is absent. */
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined;
  /** OIDs; undefined when the extension is absent. */
  readonly extendedKeyUsage: readonly string[] | undefined;
  /** URIs of subjectAltName, printable ASCII. */
  readonly uris: readonly string[];
  /** DNS names of subjectAltName, printable ASCII. */
  readonly dnsNames: readonly string[];
  /** Every kind of name in subjectAltName. */
  readonly nameKinds: ReadonlySet<GeneralNameKind>;
  /** Hex. */
  readonly subjectKeyId: string | undefined;
  /** Hex. */
  readonly authorityKeyId: string | undefined;
  readonly nameConstraints: NameConstraints | undefined;
  /** OIDs of critical extensions that this room cannot process: whoever relies on the certificate must refuse it. */
  readonly unknownCriticalExtensions: readonly string[];
  #fingerprint: string | undefined;

  private constructor(bytes: Uint8Array) {
    // Copied, so that nobody can change afterwards what has been checked.
    this.der = Buffer.from(bytes);
    const signed = readSigned(this.der, 'certificate');
    this.tbs = signed.content.encoded;
    this.signatureOid = signed.algorithmOid;
    this.signature = signed.signature;
    const fields = readTbsCertificate(signed.content, signed.algorithm);
    this.serialHex = fields.serial.toString('hex');
    this.issuer = fields.issuer;
    this.subject = fields.subject;
    this.issuerText = parseName(fields.issuer, 'issuer');
    this.subjectText = parseName(fields.subject, 'subject');
    this.notBeforeMs = fields.notBeforeMs;
    this.notAfterMs = fields.notAfterMs;
    this.spki = fields.spki;
    this.extensions = fields.extensions;
    const read = <T>(type: string, parse: (value: Buffer) => T): T | undefined => {
      const extension = fields.extensions.get(type);
      return extension === undefined ? undefined : parse(extension.value);
    };
    const constraints = read(extensionOids.basicConstraints, parseBasicConstraints);
    this.isCa = constraints?.ca ?? false;
    this.pathLength = constraints?.pathLength;
    this.keyUsage = read(extensionOids.keyUsage, parseKeyUsage);
    this.extendedKeyUsage = read(extensionOids.extendedKeyUsage, parseExtendedKeyUsage);
    const names = read(extensionOids.subjectAltName, parseSubjectAltName);
    this.uris = names?.uris ?? [];
    this.dnsNames = names?.dnsNames ?? [];
    this.nameKinds = names?.kinds ?? new Set();
    this.subjectKeyId = read(extensionOids.subjectKeyId, parseSubjectKeyId);
    this.authorityKeyId = read(extensionOids.authorityKeyId, parseAuthorityKeyId);
    this.nameConstraints = read(extensionOids.nameConstraints, parseNameConstraints);
    this.unknownCriticalExtensions = [...fields.extensions.values()]
      .filter((extension) => extension.isCritical && !knownExtensions.has(extension.oid))
      .map((extension) => extension.oid);
  }

  /** Exactly one certificate; throws AppError `invalid-argument` for anything that is not strict DER. */
  static parse(der: Uint8Array): Certificate {
    try {
      if (der.length > MAX_CERTIFICATE_BYTES) throw malformed(`longer than ${MAX_CERTIFICATE_BYTES} bytes`);
      return new Certificate(der);
    } catch (error) {
      if (!isAppError(error)) throw error;
      throw new AppError(error.code, `failed to parse certificate: ${error.message}`);
    }
  }

  /** The serial number in decimal. */
  get serialDecimal(): string {
    return BigInt(`0x${this.serialHex}`).toString();
  }

  /** SHA-256 of the certificate, lower-case hex. */
  get fingerprint(): string {
    this.#fingerprint ??= hash('sha256', this.der, 'hex');
    return this.#fingerprint;
  }

  /** True when the keyUsage extension is present and critical. */
  get keyUsageIsCritical(): boolean {
    return this.extensions.get(extensionOids.keyUsage)?.isCritical ?? false;
  }

  /** True when the subject has no attributes. */
  get hasEmptySubject(): boolean {
    return isEmptyName(this.subject);
  }

  /** True when issuer and subject are the same name, byte for byte (RFC 5280 §6.1). */
  get isSelfIssued(): boolean {
    return this.issuer.equals(this.subject);
  }

  /** True when the issuer's key made the signature; says nothing of names, time or the right to sign. */
  verifySignedBy(issuer: Certificate): boolean {
    const { signatureOid: algorithmOid, tbs: data, signature } = this;
    return verifySignature({ spki: issuer.spki, algorithmOid, data, signature });
  }

  /** One PEM block. */
  toPem(): string {
    return encodePem('CERTIFICATE', this.der);
  }
}

/** One or more certificates, one after another without anything between; throws AppError `invalid-argument`. */
export function parseCertificates(der: Uint8Array): Certificate[] {
  if (der.length > MAX_CHAIN_BYTES) throw malformed(`certificates: longer than ${MAX_CHAIN_BYTES} bytes`);
  const reader = new DerReader(Buffer.from(der.buffer, der.byteOffset, der.byteLength));
  const certificates: Certificate[] = [];
  do {
    certificates.push(
      Certificate.parse(reader.take(tags.sequence, `certificate ${certificates.length + 1}`).encoded),
    );
  } while (!reader.isAtEnd);
  return certificates;
}

/** One or more CERTIFICATE blocks and no others; throws AppError `invalid-argument` that names the block. */
export function parsePemCertificates(text: string): Certificate[] {
  const blocks = parsePem(text);
  if (blocks.length === 0) throw malformed('expected at least one PEM block "CERTIFICATE", got none');
  return blocks.map(({ label, der }, index) => {
    const where = `PEM block ${index + 1}`;
    if (label.endsWith('PRIVATE KEY'))
      throw malformed(
        `${where}: a private key among certificates; it may have leaked, move it to a file of its own`,
      );
    if (label !== 'CERTIFICATE') throw malformed(`${where}: expected "CERTIFICATE", got "${label}"`);
    try {
      return Certificate.parse(der);
    } catch (error) {
      throw isAppError(error) ? new AppError(error.code, `${where}: ${error.message}`) : error;
    }
  });
}
