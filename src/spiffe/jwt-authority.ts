import { createPublicKey, type JsonWebKeyInput, type KeyObject } from 'node:crypto';
import { AppError } from '../runtime/error.ts';
import { parseSpki } from '../x509/spki.ts';

/** The SPKI of an RSA key of 16384 bits has half of this. */
const maxKeyBytes = 4096;
const maxKeyIdLength = 1024;
const curves: readonly unknown[] = ['prime256v1', 'secp384r1', 'secp521r1'];
/** The public members of a JWK (RFC 7518 §6, RFC 8037 §2); whatever else it has is not looked at. */
const publicMembers = ['kty', 'crv', 'x', 'y', 'n', 'e'] as const;

/** A public key that signs JWT-SVIDs of a trust domain (SPIFFE JWT-SVID §6). */
export interface JwtAuthority {
  /** The `kid`, one key's only; never empty. */
  readonly keyId: string;
  /** SPKI, DER. */
  readonly publicKey: Uint8Array;
  /** Unix seconds; 0 = not said. */
  readonly expiresAt: number;
  /** Known to be compromised: still trusted until its removal. */
  readonly tainted: boolean;
}

/** A record that came from outside, checked; throws `invalid-argument`. */
export function checkJwtAuthority(authority: JwtAuthority): JwtAuthority {
  const { keyId, publicKey, expiresAt } = authority;
  checkKeyId(keyId);
  if (publicKey.length > maxKeyBytes) {
    throw invalid(keyId, `its key has ${publicKey.length} bytes; at most ${maxKeyBytes} are allowed`);
  }
  if (!Number.isSafeInteger(expiresAt) || expiresAt < 0) throw invalid(keyId, `it expires at ${expiresAt}`);
  publicKeyOf(authority);
  return authority;
}

/** The key as a JWK for `use: jwt-svid` (SPIFFE JWT-SVID §6.1). */
export function jwtAuthorityToJwk(authority: JwtAuthority): object {
  return { use: 'jwt-svid', kid: authority.keyId, ...publicKeyOf(authority).export({ format: 'jwk' }) };
}

/** The authority in a JWK with `use: jwt-svid` of a known `kty`; throws `invalid-argument`. */
export function jwtAuthorityFromJwk(jwk: Readonly<Record<string, unknown>>): JwtAuthority {
  const { kid } = jwk;
  if (typeof kid !== 'string') throw new AppError('invalid-argument', 'a jwt-svid key must have a "kid"');
  checkKeyId(kid);
  // Whoever reads the document could sign for the whole trust domain.
  if (jwk['d'] !== undefined) throw invalid(kid, 'it comes with its private key');
  const members = publicMembers.filter((name) => jwk[name] !== undefined).map((name) => [name, jwk[name]]);
  if (members.some(([, value]) => typeof value === 'string' && value.length > 2 * maxKeyBytes)) {
    throw invalid(kid, `its key is larger than ${maxKeyBytes} bytes`);
  }
  const key = imported(kid, { key: Object.fromEntries(members), format: 'jwk' });
  const publicKey = key.export({ format: 'der', type: 'spki' });
  return checkJwtAuthority({ keyId: kid, publicKey, expiresAt: 0, tainted: false });
}

/** True when both are the same key under the same id. */
export function isSameKey(a: JwtAuthority, b: JwtAuthority): boolean {
  return a.keyId === b.keyId && Buffer.compare(a.publicKey, b.publicKey) === 0;
}

/** The shortest form of all that says something of the authority, to compare it by. */
export function jwtAuthorityText({ keyId, publicKey, expiresAt, tainted }: JwtAuthority): string {
  return JSON.stringify([keyId, Buffer.from(publicKey).toString('base64'), expiresAt, tainted]);
}

function publicKeyOf({ keyId, publicKey }: JwtAuthority): KeyObject {
  // OpenSSL overlooks what follows the key.
  parseSpki(publicKey);
  const der = Buffer.from(publicKey.buffer, publicKey.byteOffset, publicKey.byteLength);
  return imported(keyId, { key: der, format: 'der', type: 'spki' });
}

function imported(keyId: string, input: Parameters<typeof createPublicKey>[0] | JsonWebKeyInput): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey(input);
  } catch {
    throw invalid(keyId, 'its key cannot be read');
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === 'rsa' || type === 'ed25519' || (type === 'ec' && curves.includes(details?.namedCurve)))
    return key;
  throw invalid(keyId, 'its key is none of RSA, P-256, P-384, P-521 and Ed25519');
}

function checkKeyId(keyId: string): void {
  if (keyId === '') throw new AppError('invalid-argument', 'missing key ID');
  if (keyId.length > maxKeyIdLength) {
    throw invalid(`${keyId.slice(0, 40)}…`, `its key id is longer than ${maxKeyIdLength} characters`);
  }
}

function invalid(keyId: string, problem: string): AppError {
  return new AppError('invalid-argument', `jwt authority "${keyId}": ${problem}`);
}
