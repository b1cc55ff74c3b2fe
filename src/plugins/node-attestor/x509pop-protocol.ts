import { constants, createPublicKey, type KeyObject, randomBytes, sign, verify } from 'node:crypto';
import { promisify } from 'node:util';
import { AppError } from '../../runtime/error.ts';
import { type KeyType, keyTypeOfSpki } from '../../x509/signature.ts';
import { base64, bytesOf, fieldOf, malformed, objectOf, parseJsonObject, toJson } from './json-message.ts';

/** What an agent without an identity may send at all. */
const payloadMaxBytes = 64 * 1024;
/** The signature of the largest key has 512 bytes. */
const messageMaxBytes = 8 * 1024;
/** Leaf, issuing authorities and, needlessly, the root. */
export const maxCertificates = 8;
const nonceBytes = 32;

/** Bytes of a coordinate on the curve, and so of r and s. */
const coordinateBytes = { 'ec-p256': 32, 'ec-p384': 48 } as const;

/** The members of challenge and response: one is set, the other null (SPIRE's `x509pop.Challenge`). */
type Member = 'rsa_signature' | 'ecdsa_signature';

/** SPIRE's `AttestationData`: certificates as DER, leaf first. */
export function encodePayload(certificates: readonly Uint8Array[]): Buffer {
  return toJson({ certificates: certificates.map(base64) });
}

/** The certificates of a payload, leaf first, not yet parsed; throws `invalid-argument`. */
export function parsePayload(payload: Uint8Array): readonly Buffer[] {
  if (payload.length === 0) throw malformed('missing attestation payload');
  return parsing('failed to unmarshal data', () => {
    const certificates = fieldOf(parseJsonObject(payload, payloadMaxBytes), 'certificates') ?? [];
    if (!Array.isArray(certificates)) throw malformed('"certificates": expected a list');
    if (certificates.length > maxCertificates)
      throw malformed(`expected at most ${maxCertificates} certificates, got ${certificates.length}`);
    return certificates.map((text: unknown, index) => bytesOf(text, `"certificates"[${index}]`));
  });
}

/** A new challenge for a key of this type: the message, and the nonce to check the response against. */
export function newChallenge(type: KeyType): { readonly message: Buffer; readonly nonce: Buffer } {
  const nonce = randomBytes(nonceBytes);
  return { nonce, message: message(memberOf(type), { nonce: base64(nonce) }) };
}

/**
 * The agent's answer: a nonce of its own and a signature over both, so that it never signs what another has chosen.
 * Throws `invalid-argument` for a challenge that is not one for its key.
 */
export async function respond(challenge: Uint8Array, key: KeyObject): Promise<Buffer> {
  const type = keyTypeOfSpki(createPublicKey(key).export({ format: 'der', type: 'spki' }));
  if (type === undefined) throw malformed('unsupported private key type');
  const theirs = parseChallenge(challenge, type);
  const ours = randomBytes(nonceBytes);
  // On the thread pool: RSA takes milliseconds.
  const signature = await promisify(sign)('sha256', Buffer.concat([theirs, ours]), {
    key,
    ...schemeOf(type),
  });
  return message(memberOf(type), { nonce: base64(ours), ...encodeSignature(type, signature) });
}

/** The nonce of a challenge for a key of this type. */
function parseChallenge(challenge: Uint8Array, type: KeyType): Buffer {
  return parsing('unable to unmarshal challenge', () => {
    const body = objectOf(parseJsonObject(challenge, messageMaxBytes), memberOf(type));
    if (body === undefined) throw malformed(`expecting ${familyOf(type)} challenge`);
    const nonce = bytesOf(fieldOf(body, 'nonce'), '"nonce"');
    if (nonce.length !== nonceBytes) throw malformed('invalid challenge nonce');
    return nonce;
  });
}

/**
 * Checks the response to `nonce` by the key of the certificate. Throws `invalid-argument` for what is not a response,
 * `permission-denied` for one that proves nothing; the texts are SPIRE's.
 */
export function verifyResponse(
  response: Uint8Array,
  { spki, type, nonce }: { readonly spki: Buffer; readonly type: KeyType; readonly nonce: Uint8Array },
): void {
  const fields = parsing('unable to unmarshal challenge response', () => {
    const body = objectOf(parseJsonObject(response, messageMaxBytes), memberOf(type));
    return body === undefined ? undefined : parseResponse(body, type);
  });
  if (fields === undefined) throw unproved(`expecting ${familyOf(type)} response`);
  if (fields.nonce.length !== nonceBytes) throw unproved('invalid response nonce');
  const data = Buffer.concat([nonce, fields.nonce]);
  const isGood = fields.signature !== undefined && isSignature(fields.signature, { data, spki, type });
  if (!isGood) throw unproved(`${familyOf(type)} signature verify failed`);
}

function isSignature(
  signature: Buffer,
  { data, spki, type }: { readonly data: Buffer; readonly spki: Buffer; readonly type: KeyType },
): boolean {
  try {
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    return verify('sha256', data, { key, ...schemeOf(type) }, signature);
  } catch {
    // An authority may have certified a point that is not on its curve.
    return false;
  }
}

/** `signature` is undefined when r or s cannot be one. */
function parseResponse(body: object, type: KeyType): { nonce: Buffer; signature: Buffer | undefined } {
  const nonce = bytesOf(fieldOf(body, 'nonce'), '"nonce"');
  if (!isEc(type)) return { nonce, signature: bytesOf(fieldOf(body, 'signature'), '"signature"') };
  const size = coordinateBytes[type];
  const [r, s] = [bytesOf(fieldOf(body, 'r'), '"r"'), bytesOf(fieldOf(body, 's'), '"s"')].map((n) =>
    padded(n, size),
  );
  return { nonce, signature: r === undefined || s === undefined ? undefined : Buffer.concat([r, s]) };
}

/** A big-endian integer at its full width; undefined when it is zero or too large for the curve. */
function padded(integer: Buffer, size: number): Buffer | undefined {
  const digits = withoutLeadingZeros(integer);
  if (digits.length === 0 || digits.length > size) return undefined;
  return Buffer.concat([Buffer.alloc(size - digits.length), digits]);
}

function encodeSignature(type: KeyType, signature: Buffer): Readonly<Record<string, string>> {
  if (!isEc(type)) return { signature: base64(signature) };
  const size = coordinateBytes[type];
  const [r, s] = [signature.subarray(0, size), signature.subarray(size)].map(withoutLeadingZeros);
  return { r: base64(r ?? Buffer.alloc(0)), s: base64(s ?? Buffer.alloc(0)) };
}

function withoutLeadingZeros(integer: Buffer): Buffer {
  const start = integer.findIndex((byte) => byte !== 0);
  return start === -1 ? Buffer.alloc(0) : integer.subarray(start);
}

function isEc(type: KeyType): type is keyof typeof coordinateBytes {
  return type in coordinateBytes;
}

function familyOf(type: KeyType): string {
  return isEc(type) ? 'ECDSA' : 'RSA';
}

function memberOf(type: KeyType): Member {
  return isEc(type) ? 'ecdsa_signature' : 'rsa_signature';
}

/** SHA-256 whatever the key. The salt is as long as it can be, as Go makes it; of any length when verified. */
function schemeOf(type: KeyType) {
  if (isEc(type)) return { dsaEncoding: 'ieee-p1363' } as const;
  return { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_AUTO } as const;
}

function message(member: Member, body: object): Buffer {
  return toJson({ rsa_signature: null, ecdsa_signature: null, [member]: body });
}

function parsing<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw error instanceof AppError ? malformed(`${what}: ${error.message}`) : error;
  }
}

function unproved(why: string): AppError {
  return new AppError('permission-denied', `challenge response verification failed: ${why}`);
}
