import { generateKeyPairSync } from 'node:crypto';
import type { JwtAuthority } from '../spiffe/jwt-authority.ts';

/** The kinds of keys that a JWT authority may have. */
export const jwtKeyKinds = ['rsa', 'P-256', 'P-384', 'P-521', 'ed25519'] as const;
export type JwtKeyKind = (typeof jwtKeyKinds)[number];

/** A new key under this id. */
export function jwtKey(keyId: string, kind: JwtKeyKind = 'P-256'): JwtAuthority {
  const spki = newKey(kind).export({ format: 'der', type: 'spki' });
  return { keyId, publicKey: spki, expiresAt: 0, tainted: false };
}

function newKey(kind: JwtKeyKind) {
  if (kind === 'rsa') return generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey;
  if (kind === 'ed25519') return generateKeyPairSync('ed25519').publicKey;
  return generateKeyPairSync('ec', { namedCurve: kind }).publicKey;
}
