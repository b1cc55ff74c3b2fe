import { tags } from '../../x509/der-reader.ts';
import { bitString, element, integer, oid, sequence } from '../../x509/der-writer.ts';
import type { KeyType } from '../../x509/signature.ts';
import { ck } from './pkcs11-constants.ts';

/** What a token has to know of a kind of key. */
export interface TokenKeyType {
  readonly family: 'ec' | 'rsa';
  readonly bits: number;
}

/** By key type. */
export const tokenKeyTypes = {
  'ec-p256': { family: 'ec', bits: 256 },
  'ec-p384': { family: 'ec', bits: 384 },
  'rsa-2048': { family: 'rsa', bits: 2048 },
  'rsa-3072': { family: 'rsa', bits: 3072 },
  'rsa-4096': { family: 'rsa', bits: 4096 },
} as const satisfies Record<KeyType, TokenKeyType>;

const curves = {
  256: oid('1.2.840.10045.3.1.7'),
  384: oid('1.3.132.0.34'),
} as const;

/** What a public key consists of, beside its kind. */
export function publicTemplate(type: KeyType): readonly { type: number; value: number | Buffer }[] {
  const { family, bits } = tokenKeyTypes[type];
  if (family === 'ec') return [{ type: ck.CKA_EC_PARAMS, value: curves[bits] }];
  return [
    { type: ck.CKA_MODULUS_BITS, value: bits },
    { type: ck.CKA_PUBLIC_EXPONENT, value: Buffer.of(1, 0, 1) },
  ];
}

const ecPublicKey = oid('1.2.840.10045.2.1');
const rsaEncryption = sequence(oid('1.2.840.113549.1.1.1'), element(tags.null));

/**
 * SubjectPublicKeyInfo from CKA_EC_PARAMS and CKA_EC_POINT; undefined for a curve we do not use. The point should be
 * wrapped in an OCTET STRING, which some tokens leave out: its last bytes are the same either way.
 */
export function spkiOfPoint(parameters: Buffer, wrappedPoint: Buffer): Buffer | undefined {
  const bits = ([256, 384] as const).find((size) => curves[size].equals(parameters));
  if (bits === undefined) return undefined;
  const point = wrappedPoint.subarray(-(bits / 4 + 1));
  return sequence(sequence(ecPublicKey, curves[bits]), bitString(point));
}

/** SubjectPublicKeyInfo from CKA_MODULUS and CKA_PUBLIC_EXPONENT. */
export function spkiOfModulus(modulus: Buffer, exponent: Buffer): Buffer {
  return sequence(rsaEncryption, bitString(sequence(integer(modulus), integer(exponent))));
}

/** PKCS#11 gives r and s one after the other; certificates want them as a SEQUENCE (RFC 3279 §2.2.3). */
export function derOfEcSignature(raw: Buffer): Buffer {
  const half = raw.length / 2;
  return sequence(integer(raw.subarray(0, half)), integer(raw.subarray(half)));
}

/** What goes before a SHA-256 hash where the token only pads (RFC 8017 §9.2, note 1). */
export const sha256DigestInfo: Buffer = Buffer.from('3031300d060960864801650304020105000420', 'hex');
