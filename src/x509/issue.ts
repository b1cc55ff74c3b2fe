import { randomBytes } from 'node:crypto';
import { AppError } from '../runtime/error.ts';
import { contextTag } from './der-reader.ts';
import { element, integer, sequence, smallInteger, time } from './der-writer.ts';
import { type KeyType, type Signer, signatureAlgorithmOf } from './signature.ts';
import { encodeSigned } from './signed.ts';

/** All that goes into a certificate but the signature; DER parts are taken as they are. */
export interface CertificateTemplate {
  /** Big-endian, at most 20 bytes, not zero; see `newSerial`. */
  readonly serial: Uint8Array;
  /** Name, DER: the subject of the signing certificate, byte for byte. */
  readonly issuer: Uint8Array;
  /** Name, DER. */
  readonly subject: Uint8Array;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array;
  /** Encoded by `extensions.ts`. */
  readonly extensions: readonly Uint8Array[];
}

const version3 = element(contextTag(0, true), smallInteger(2));
/** Tag and length included (RFC 5280 §4.1.2.2: 20 octets). */
const MAX_SERIAL_ELEMENT_BYTES = 22;

/** A TBSCertificate for a signer of this type (RFC 5280 §4.1.2). Throws AppError `invalid-argument`. */
export function toBeSigned(template: CertificateTemplate, type: KeyType): Buffer {
  const { notBeforeMs, notAfterMs, extensions } = template;
  if (!(notBeforeMs <= notAfterMs))
    throw new AppError('invalid-argument', 'certificate would expire before it begins');
  return sequence(
    version3,
    serialNumber(template.serial),
    signatureAlgorithmOf(type).identifier,
    template.issuer,
    sequence(time(notBeforeMs), time(notAfterMs)),
    template.subject,
    template.spki,
    ...(extensions.length === 0 ? [] : [element(contextTag(3, true), sequence(...extensions))]),
  );
}

function serialNumber(serial: Uint8Array): Buffer {
  const encoded = integer(serial);
  if (encoded.length > MAX_SERIAL_ELEMENT_BYTES || serial.every((byte) => byte === 0))
    throw new AppError('invalid-argument', 'serial number: expected 1 to 20 bytes, not all zero');
  return encoded;
}

/** A certificate, DER, from its parts: what is signed, the type of the key that signed it, the signature. */
export function assembleCertificate(tbs: Uint8Array, type: KeyType, signature: Uint8Array): Buffer {
  return encodeSigned(tbs, type, signature);
}

/** Signs the template: a certificate, DER. Throws AppError `invalid-argument`, and whatever the signer throws. */
export async function issueCertificate(template: CertificateTemplate, signer: Signer): Promise<Buffer> {
  const tbs = toBeSigned(template, signer.type);
  return assembleCertificate(tbs, signer.type, await signer.sign(tbs));
}

/** 127 random bits: positive in DER without a sign byte, leading zero bytes dropped. */
export function newSerial(): Buffer {
  const serial = randomBytes(16);
  serial.writeUInt8(serial.readUInt8(0) & 0x7f, 0);
  const start = serial.findIndex((byte) => byte !== 0);
  return start === -1 ? newSerial() : serial.subarray(start);
}
