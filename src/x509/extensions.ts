import { hash } from 'node:crypto';
import { contextTag, DerReader, malformed, readNamedBits, tags } from './der-reader.ts';
import { booleanTrue, element, namedBits, octetString, oid, sequence, smallInteger } from './der-writer.ts';
import { encodeGeneralName, type GeneralNameKind, readGeneralName } from './general-names.ts';
import { parseSpki } from './spki.ts';

/** The extensions this room understands (RFC 5280 §4.2.1). */
export const extensionOids = {
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  nameConstraints: '2.5.29.30',
  authorityKeyId: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
} as const;

/** Key purposes of TLS (RFC 5280 §4.2.1.12). */
export const keyPurposes = { serverAuth: '1.3.6.1.5.5.7.3.1', clientAuth: '1.3.6.1.5.5.7.3.2' } as const;

/** One extension as it stands in a certificate: `value` is the contents of extnValue. */
export interface Extension {
  readonly oid: string;
  readonly isCritical: boolean;
  readonly value: Buffer;
}

/** More extensions than any certificate has; each costs an entry in a map. */
const MAX_EXTENSIONS = 64;

/** Reads Extensions (RFC 5280 §4.1.2.9): at least one, none twice. Throws AppError `invalid-argument`. */
export function readExtensions(list: DerReader): ReadonlyMap<string, Extension> {
  const extensions = new Map<string, Extension>();
  while (!list.isAtEnd) {
    const fields = list.enter('extension');
    const type = fields.oid('extension type');
    const isCritical = fields.nextTag === tags.boolean && readTrue(fields, `critical of extension ${type}`);
    const value = fields.take(tags.octetString, `extension ${type}`).contents;
    fields.end(`extension ${type}`);
    // RFC 5280 §4.2: with two of a kind, one reader would obey the first and another the second.
    if (extensions.has(type)) throw malformed(`extension ${type}: present twice`);
    if (extensions.size === MAX_EXTENSIONS) throw malformed(`more than ${MAX_EXTENSIONS} extensions`);
    extensions.set(type, { oid: type, isCritical, value });
  }
  if (extensions.size === 0) throw malformed('extensions: empty list');
  return extensions;
}

/** Encodes an Extension around the DER of its value. */
export function encodeExtension(type: string, isCritical: boolean, value: Uint8Array): Buffer {
  return isCritical
    ? sequence(oid(type), booleanTrue, octetString(value))
    : sequence(oid(type), octetString(value));
}

/** RFC 5280 §4.2.1.9; always critical. */
export function basicConstraints({
  ca,
  pathLength,
}: {
  readonly ca: boolean;
  readonly pathLength?: number;
}): Buffer {
  const fields = ca ? [booleanTrue, ...(pathLength === undefined ? [] : [smallInteger(pathLength)])] : [];
  return encodeExtension(extensionOids.basicConstraints, true, sequence(...fields));
}

/** Reads the value of basicConstraints; `pathLength` is undefined when nothing limits it. */
export function parseBasicConstraints(value: Buffer): { ca: boolean; pathLength: number | undefined } {
  const fields = enterValue(value, 'basicConstraints');
  const ca = fields.nextTag === tags.boolean && readTrue(fields, 'basicConstraints cA');
  const pathLength = fields.isAtEnd ? undefined : fields.smallInteger('pathLenConstraint');
  fields.end('basicConstraints');
  if (pathLength !== undefined && !ca) throw malformed('basicConstraints: pathLenConstraint without cA');
  return { ca, pathLength };
}

/** The bits of keyUsage in their order (RFC 5280 §4.2.1.3). */
export const keyUsages = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const;
/** One bit of keyUsage. */
export type KeyUsage = (typeof keyUsages)[number];

/** RFC 5280 §4.2.1.3; always critical. */
export function keyUsage(usages: Iterable<KeyUsage>): Buffer {
  const bits = [...new Set(usages)].map((usage) => keyUsages.indexOf(usage));
  return encodeExtension(extensionOids.keyUsage, true, namedBits(bits));
}

/** Reads the value of keyUsage; bits without a name are ignored. */
export function parseKeyUsage(value: Buffer): ReadonlySet<KeyUsage> {
  const reader = new DerReader(value);
  const bits = readNamedBits(reader.take(tags.bitString, 'keyUsage'), 'keyUsage');
  reader.end('keyUsage');
  return new Set(keyUsages.filter((_, bit) => bits[bit]));
}

/** RFC 5280 §4.2.1.12; not critical unless asked. */
export function extendedKeyUsage(
  purposes: readonly (keyof typeof keyPurposes)[],
  { critical = false } = {},
): Buffer {
  const oids = purposes.map((purpose) => oid(keyPurposes[purpose]));
  return encodeExtension(extensionOids.extendedKeyUsage, critical, sequence(...oids));
}

/** Reads the value of extendedKeyUsage: OIDs in their order. */
export function parseExtendedKeyUsage(value: Buffer): readonly string[] {
  const list = enterValue(value, 'extendedKeyUsage');
  const purposes: string[] = [];
  while (!list.isAtEnd) purposes.push(list.oid('extendedKeyUsage'));
  if (purposes.length === 0) throw malformed('extendedKeyUsage: empty list');
  return purposes;
}

/** The names a certificate or a request carries in subjectAltName. */
export interface SubjectAltNames {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Every kind that occurs, those we do not read too. */
  readonly kinds: ReadonlySet<GeneralNameKind>;
}

/** RFC 5280 §4.2.1.6, URIs first; `critical` must be set when the subject is empty. At least one name. */
export function subjectAltName(names: {
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
  readonly critical?: boolean;
}): Buffer {
  const uris = (names.uris ?? []).map((uri) => encodeGeneralName('uniformResourceIdentifier', uri));
  const dnsNames = (names.dnsNames ?? []).map((name) => encodeGeneralName('dNSName', name));
  if (uris.length + dnsNames.length === 0) throw malformed('subjectAltName: at least one name is required');
  return encodeExtension(
    extensionOids.subjectAltName,
    names.critical ?? false,
    sequence(...uris, ...dnsNames),
  );
}

/** Reads the value of subjectAltName; URIs and DNS names are printable ASCII, not checked further. */
export function parseSubjectAltName(value: Buffer): SubjectAltNames {
  const list = enterValue(value, 'subjectAltName');
  const uris: string[] = [];
  const dnsNames: string[] = [];
  const kinds = new Set<GeneralNameKind>();
  while (!list.isAtEnd) {
    const name = readGeneralName(list, 'subjectAltName');
    kinds.add(name.kind);
    if (name.kind === 'uniformResourceIdentifier') uris.push(name.text);
    if (name.kind === 'dNSName') dnsNames.push(name.text);
  }
  if (kinds.size === 0) throw malformed('subjectAltName: empty list');
  return { uris, dnsNames, kinds };
}

/** The key identifier of RFC 5280 §4.2.1.2 method 1: SHA-1 of the subjectPublicKey bits. A name, not a protection. */
export function keyIdOfSpki(spki: Uint8Array): Buffer {
  return hash('sha1', parseSpki(spki).key, 'buffer');
}

/** RFC 5280 §4.2.1.2 for the key being certified; not critical. */
export function subjectKeyIdentifier(spki: Uint8Array): Buffer {
  return encodeExtension(extensionOids.subjectKeyId, false, octetString(keyIdOfSpki(spki)));
}

/** Reads the value of subjectKeyIdentifier: lower-case hex. */
export function parseSubjectKeyId(value: Buffer): string {
  const reader = new DerReader(value);
  const { contents } = reader.take(tags.octetString, 'subjectKeyIdentifier');
  reader.end('subjectKeyIdentifier');
  return contents.toString('hex');
}

/**
 * RFC 5280 §4.2.1.1 for certificates of this issuer; not critical. Its own subject key identifier counts, which need
 * not be a hash that we would compute.
 */
export function authorityKeyIdentifier(issuer: {
  readonly subjectKeyId: string | undefined;
  readonly spki: Uint8Array;
}): Buffer {
  const { subjectKeyId, spki } = issuer;
  const keyId = subjectKeyId === undefined ? keyIdOfSpki(spki) : Buffer.from(subjectKeyId, 'hex');
  return encodeExtension(extensionOids.authorityKeyId, false, sequence(element(contextTag(0), keyId)));
}

/** Reads the keyIdentifier of authorityKeyIdentifier: lower-case hex, or undefined when it names only a serial. */
export function parseAuthorityKeyId(value: Buffer): string | undefined {
  const fields = enterValue(value, 'authorityKeyIdentifier');
  const keyId = fields.optional(contextTag(0), 'keyIdentifier');
  fields.optional(contextTag(1, true), 'authorityCertIssuer');
  fields.optional(contextTag(2), 'authorityCertSerialNumber');
  fields.end('authorityKeyIdentifier');
  return keyId?.contents.toString('hex');
}

function enterValue(value: Buffer, what: string): DerReader {
  const reader = new DerReader(value);
  const fields = reader.enter(what);
  reader.end(what);
  return fields;
}

/** A BOOLEAN DEFAULT FALSE that is present must be TRUE (X.690 §11.5). */
function readTrue(reader: DerReader, what: string): boolean {
  if (!reader.boolean(what)) throw malformed(`${what}: a default value is not written in DER`);
  return true;
}
