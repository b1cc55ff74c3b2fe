import { AppError, isAppError } from '../runtime/error.ts';
import { contextTag, type DerElement, DerReader, malformed, tags } from './der-reader.ts';
import { element, oid, sequence, setOf, smallInteger } from './der-writer.ts';
import { extensionOids, parseSubjectAltName, readExtensions, subjectAltName } from './extensions.ts';
import { encodeName, isEmptyName, parseName } from './names.ts';
import {
  describeKey,
  type KeyType,
  keyTypeOfSpki,
  keyTypes,
  type Signer,
  verifySignature,
} from './signature.ts';
import { encodeSigned, readSigned } from './signed.ts';
import { parseSpki } from './spki.ts';

/** A parsed PKCS#10 request (RFC 2986). Its signature is unchecked until `verifyCsr`. */
export interface CertificateRequest {
  readonly der: Buffer;
  /** CertificationRequestInfo, the signed part. */
  readonly info: Buffer;
  /** Name, DER. */
  readonly subject: Buffer;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  /** Undefined for a key that Signet does not certify. */
  readonly keyType: KeyType | undefined;
  /** URIs of the requested subjectAltName. */
  readonly uris: readonly string[];
  /** DNS names of the requested subjectAltName. */
  readonly dnsNames: readonly string[];
  readonly signatureOid: string;
  readonly signature: Buffer;
}

/** A request with an RSA-4096 key has about 1.6 KB. */
const MAX_CSR_BYTES = 16 * 1024;
/** PKCS#9 extensionRequest (RFC 2985 §5.4.2). */
const EXTENSION_REQUEST = '1.2.840.113549.1.9.14';

/** Parses strict DER; throws AppError `invalid-argument`: `failed to parse CSR: …`. */
export function parseCsr(der: Uint8Array): CertificateRequest {
  try {
    if (der.length > MAX_CSR_BYTES) throw malformed(`longer than ${MAX_CSR_BYTES} bytes`);
    return readCsr(Buffer.from(der));
  } catch (error) {
    if (!isAppError(error)) throw error;
    throw new AppError(error.code, `failed to parse CSR: ${error.message}`);
  }
}

function readCsr(der: Buffer): CertificateRequest {
  const { content, algorithmOid, signature } = readSigned(der, 'request');
  return {
    der,
    info: content.encoded,
    signatureOid: algorithmOid,
    signature,
    ...readInfo(new DerReader(content.contents)),
  };
}

type RequestInfo = Pick<CertificateRequest, 'subject' | 'spki' | 'keyType' | 'uris' | 'dnsNames'>;

function readInfo(info: DerReader): RequestInfo {
  if (info.smallInteger('version') !== 0) throw malformed('version: expected 0');
  const subject = info.take(tags.sequence, 'subject').encoded;
  parseName(subject, 'subject');
  const spki = info.take(tags.sequence, 'public key').encoded;
  parseSpki(spki);
  const names = readAttributes(info.enter('attributes', contextTag(0, true)));
  info.end('certificationRequestInfo');
  return { subject, spki, keyType: keyTypeOfSpki(spki), ...names };
}

/** The names asked for; other attributes (such as a challenge password) and other extensions are not looked at. */
function readAttributes(attributes: DerReader): Pick<RequestInfo, 'uris' | 'dnsNames'> {
  let request: DerElement | undefined;
  while (!attributes.isAtEnd) {
    const attribute = attributes.enter('attribute');
    const type = attribute.oid('attribute type');
    const values = attribute.take(tags.set, `attribute ${type}`);
    attribute.end(`attribute ${type}`);
    if (type !== EXTENSION_REQUEST) continue;
    // With two of them, whoever looks at the first and issues the second has been tricked.
    if (request !== undefined) throw malformed('extensionRequest: present twice');
    request = values;
  }
  return request === undefined ? { uris: [], dnsNames: [] } : readRequestedNames(attributes.inside(request));
}

function readRequestedNames(values: DerReader): Pick<RequestInfo, 'uris' | 'dnsNames'> {
  const extensions = readExtensions(values.enter('extensionRequest'));
  values.end('extensionRequest');
  const extension = extensions.get(extensionOids.subjectAltName);
  if (extension === undefined) return { uris: [], dnsNames: [] };
  const { uris, dnsNames } = parseSubjectAltName(extension.value);
  return { uris, dnsNames };
}

/** Proof of possession (RFC 4211 §4) by a key we certify; throws AppError `invalid-argument`. */
export function verifyCsr(csr: CertificateRequest): void {
  if (csr.keyType === undefined) throw new AppError('invalid-argument', refusedKey(describeKey(csr.spki)));
  const { spki, signatureOid: algorithmOid, info: data, signature } = csr;
  if (!verifySignature({ spki, algorithmOid, data, signature }))
    throw new AppError('invalid-argument', 'invalid CSR signature');
}

function refusedKey(name: string): string {
  const rsaBits = /^RSA-([0-9]+)$/.exec(name)?.[1];
  if (rsaBits !== undefined && Number(rsaBits) < 2048)
    return `csr has an ${name} key; at least 2048 bits are required`;
  return `csr has a key of kind "${name}"; expected one of ${keyTypes.join(', ')}`;
}

/** Builds and signs a request for the signer's own key. Throws AppError `invalid-argument` for names not in ASCII. */
export async function buildCsr(options: {
  readonly signer: Signer;
  /** Name, DER; empty when left out. */
  readonly subject?: Uint8Array;
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
}): Promise<Buffer> {
  const { signer, subject = encodeName({}), uris = [], dnsNames = [] } = options;
  const names = { uris, dnsNames, critical: isEmptyName(subject) };
  const hasNames = uris.length + dnsNames.length > 0;
  const requests = hasNames ? [sequence(oid(EXTENSION_REQUEST), setOf(sequence(subjectAltName(names))))] : [];
  const attributes = element(contextTag(0, true), ...requests);
  const info = sequence(smallInteger(0), subject, signer.publicKey, attributes);
  const signature = await signer.sign(info);
  return encodeSigned(info, signer.type, signature);
}
