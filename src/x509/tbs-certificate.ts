import { contextTag, type DerElement, DerReader, malformed, readTime, tags } from './der-reader.ts';
import { type Extension, readExtensions } from './extensions.ts';
import { parseSpki } from './spki.ts';

/** The fields of a TBSCertificate (RFC 5280 §4.1.2), extensions not yet interpreted. */
export interface TbsCertificate {
  /** Big-endian, without a sign byte. */
  readonly serial: Buffer;
  /** Name, DER. */
  readonly issuer: Buffer;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** Name, DER. */
  readonly subject: Buffer;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Buffer;
  readonly extensions: ReadonlyMap<string, Extension>;
}

/** RFC 5280 §4.1.2.2. */
const MAX_SERIAL_BYTES = 20;

/** Reads a TBSCertificate signed with `algorithm` (AlgorithmIdentifier DER); throws AppError `invalid-argument`. */
export function readTbsCertificate(tbs: DerElement, algorithm: Buffer): TbsCertificate {
  const fields = new DerReader(tbs.contents);
  const version = readVersion(fields);
  const serial = readSerial(fields);
  // RFC 5280 §4.1.1.2: else the algorithm that is read could be one that was not signed.
  if (!fields.take(tags.sequence, 'signature algorithm').encoded.equals(algorithm))
    throw malformed('the two signature algorithms differ');
  const issuer = fields.take(tags.sequence, 'issuer').encoded;
  const validity = fields.enter('validity');
  const notBeforeMs = readTime(validity.any('notBefore'), 'notBefore');
  const notAfterMs = readTime(validity.any('notAfter'), 'notAfter');
  validity.end('validity');
  const subject = fields.take(tags.sequence, 'subject').encoded;
  const spki = fields.take(tags.sequence, 'public key').encoded;
  parseSpki(spki);
  if (version >= 2) {
    fields.optional(contextTag(1), 'issuerUniqueID');
    fields.optional(contextTag(2), 'subjectUniqueID');
  }
  const extensions = version === 3 ? readOptionalExtensions(fields) : new Map<string, Extension>();
  fields.end('tbsCertificate');
  return { serial, issuer, notBeforeMs, notAfterMs, subject, spki, extensions };
}

/** 1, 2 or 3; version 1 is the default and so never written. */
function readVersion(fields: DerReader): number {
  const explicit = fields.optional(contextTag(0, true), 'version');
  if (explicit === undefined) return 1;
  const inner = fields.inside(explicit);
  const version = inner.smallInteger('version') + 1;
  inner.end('version');
  if (version !== 2 && version !== 3) throw malformed(`version ${version} is not supported`);
  return version;
}

function readSerial(fields: DerReader): Buffer {
  const serial = fields.integer('serialNumber');
  if (serial.length > MAX_SERIAL_BYTES)
    throw malformed(`serialNumber: longer than ${MAX_SERIAL_BYTES} bytes`);
  if ((serial[0] ?? 0) >= 0x80) throw malformed('serialNumber: negative');
  return serial[0] === 0 && serial.length > 1 ? serial.subarray(1) : serial;
}

function readOptionalExtensions(fields: DerReader): ReadonlyMap<string, Extension> {
  const explicit = fields.optional(contextTag(3, true), 'extensions');
  if (explicit === undefined) return new Map();
  const inner = fields.inside(explicit);
  const extensions = readExtensions(inner.enter('extensions'));
  inner.end('extensions');
  return extensions;
}
