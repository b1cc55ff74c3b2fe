import { type DerElement, DerReader, malformed } from './der-reader.ts';

/** An AlgorithmIdentifier taken apart (RFC 5280 §4.1.1.2). */
export interface AlgorithmIdentifier {
  /** OID. */
  readonly algorithm: string;
  /** Not looked into; undefined when absent. */
  readonly parameters: DerElement | undefined;
}

/** Reads the fields of an AlgorithmIdentifier; throws AppError `invalid-argument`. */
export function readAlgorithmIdentifier(fields: DerReader, what: string): AlgorithmIdentifier {
  const algorithm = fields.oid(what);
  const parameters = fields.isAtEnd ? undefined : fields.any(`${what} parameters`);
  fields.end(what);
  return { algorithm, parameters };
}

/** A SubjectPublicKeyInfo taken apart (RFC 5280 §4.1.2.7). */
export interface SubjectPublicKeyInfo extends AlgorithmIdentifier {
  /** The subjectPublicKey bits. */
  readonly key: Buffer;
}

/** Takes a SubjectPublicKeyInfo apart; throws AppError `invalid-argument`. */
export function parseSpki(spki: Uint8Array): SubjectPublicKeyInfo {
  const outer = new DerReader(Buffer.from(spki.buffer, spki.byteOffset, spki.byteLength));
  const info = outer.enter('public key');
  outer.end('public key');
  const identifier = info.enter('public key algorithm');
  const key = info.bitString('public key bits');
  info.end('public key');
  return { ...readAlgorithmIdentifier(identifier, 'public key algorithm'), key };
}

/** The facts of an RSAPublicKey (RFC 8017 §A.1.1). */
export interface RsaKey {
  readonly modulusBits: number;
  /** False for an even exponent, 1, or one over 32 bits: 1 makes every signature "valid", large ones only cost time. */
  readonly hasSoundExponent: boolean;
}

/** Reads an RSAPublicKey; throws AppError `invalid-argument`. */
export function parseRsaKey(key: Buffer): RsaKey {
  const outer = new DerReader(key);
  const fields = outer.enter('RSA public key');
  outer.end('RSA public key');
  const modulus = fields.integer('RSA modulus');
  const exponent = fields.integer('RSA exponent');
  fields.end('RSA public key');
  if ((modulus[0] ?? 0x80) >= 0x80 || (exponent[0] ?? 0x80) >= 0x80)
    throw malformed('RSA key: negative number');
  const exponentValue = exponent.length <= 5 ? exponent.readUIntBE(0, exponent.length) : 0;
  return { modulusBits: bitLength(modulus), hasSoundExponent: exponentValue >= 3 && exponentValue % 2 === 1 };
}

function bitLength(integer: Buffer): number {
  const digits = integer[0] === 0 ? integer.subarray(1) : integer;
  const first = digits[0];
  return first === undefined ? 0 : digits.length * 8 - (Math.clz32(first) - 24);
}
