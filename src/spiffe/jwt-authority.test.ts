import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { jwtKey, jwtKeyKinds } from '../testing/jwt-keys.ts';
import { checkJwtAuthority, jwtAuthorityFromJwk, jwtAuthorityToJwk } from './jwt-authority.ts';

const spki = (key: KeyObject) => key.export({ format: 'der', type: 'spki' });
const good = jwtKey('k');

describe('a JWT authority', () => {
  it.each(jwtKeyKinds)('may be %s, and its JWK reads back as the same', (kind) => {
    const authority = jwtKey('kid', kind);
    expect(checkJwtAuthority(authority)).toBe(authority);
    expect(jwtAuthorityFromJwk({ ...jwtAuthorityToJwk(authority) })).toEqual(authority);
  });

  it.each<{ name: string; changes: () => object }>([
    { name: 'without key id', changes: () => ({ keyId: '' }) },
    { name: 'with a key id that is too long', changes: () => ({ keyId: 'k'.repeat(1025) }) },
    { name: 'that expires before 1970', changes: () => ({ expiresAt: -1 }) },
    { name: 'that expires at no whole second', changes: () => ({ expiresAt: 0.5 }) },
    { name: 'without key', changes: () => ({ publicKey: Buffer.alloc(0) }) },
    {
      name: 'with something else in place of its key',
      changes: () => ({ publicKey: Buffer.from('no key') }),
    },
    {
      name: 'with bytes behind its key',
      changes: () => ({ publicKey: Buffer.concat([good.publicKey, Buffer.of(0)]) }),
    },
    { name: 'with half of its key', changes: () => ({ publicKey: good.publicKey.subarray(0, 60) }) },
    { name: 'with a key of 5000 bytes', changes: () => ({ publicKey: Buffer.alloc(5000, 0x30) }) },
    {
      name: 'on a curve that JWT-SVIDs have no algorithm for',
      changes: () => ({ publicKey: spki(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).publicKey) }),
    },
    {
      name: 'with a key that cannot sign',
      changes: () => ({ publicKey: spki(generateKeyPairSync('x25519').publicKey) }),
    },
  ])('$name is refused', ({ changes }) => {
    expect(() => checkJwtAuthority({ ...good, ...changes() })).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  });

  it('is read or refused, never more, whatever its key is', () => {
    const mutated = fc
      .tuple(fc.nat({ max: good.publicKey.length - 1 }), fc.integer({ min: 0, max: 255 }))
      .map(([at, byte]) => Buffer.from(good.publicKey).fill(byte, at, at + 1));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 100 })), (publicKey) => {
        try {
          checkJwtAuthority({ ...good, publicKey });
        } catch (error) {
          expect(isAppError(error, 'invalid-argument')).toBe(true);
        }
      }),
    );
  });
});
