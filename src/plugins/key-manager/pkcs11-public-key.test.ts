import { createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ck } from './pkcs11-constants.ts';
import { derOfEcSignature, publicTemplate, spkiOfModulus, spkiOfPoint } from './pkcs11-public-key.ts';

const base64url = (text: string | undefined) => Buffer.from(text ?? '', 'base64url');

describe('what a token gives', () => {
  it.each([
    { type: 'ec-p256', curve: 'P-256', bytes: 65 },
    { type: 'ec-p384', curve: 'P-384', bytes: 97 },
  ] as const)('as a point on $curve becomes a public key, wrapped or not', ({ type, curve, bytes }) => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: curve });
    const { x, y } = publicKey.export({ format: 'jwk' });
    const point = Buffer.concat([Buffer.of(4), base64url(x), base64url(y)]);
    const [parameters] = publicTemplate(type);
    expect(parameters?.type).toBe(ck.CKA_EC_PARAMS);
    const expected = publicKey.export({ format: 'der', type: 'spki' });
    for (const given of [point, Buffer.concat([Buffer.of(4, bytes), point])]) {
      expect(spkiOfPoint(parameters?.value as Buffer, given)).toEqual(expected);
    }
  });

  it('as a point on another curve becomes nothing', () => {
    expect(spkiOfPoint(Buffer.from('06052b81040023', 'hex'), Buffer.alloc(133))).toBeUndefined();
  });

  it('as modulus and exponent becomes a public key, with leading zeros or not', () => {
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const { n, e } = publicKey.export({ format: 'jwk' });
    const expected = publicKey.export({ format: 'der', type: 'spki' });
    for (const zeros of [Buffer.alloc(0), Buffer.alloc(1), Buffer.alloc(4)]) {
      const spki = spkiOfModulus(Buffer.concat([zeros, base64url(n)]), Buffer.concat([zeros, base64url(e)]));
      expect(spki).toEqual(expected);
      expect(createPublicKey({ key: spki, format: 'der', type: 'spki' }).asymmetricKeyType).toBe('rsa');
    }
  });

  it('as r and s becomes what certificates want, whatever the first bits are', () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), (data) => {
        const raw = sign('sha256', data, { key: privateKey, dsaEncoding: 'ieee-p1363' });
        return verify('sha256', data, publicKey, derOfEcSignature(raw));
      }),
      { numRuns: 200 },
    );
  });
});
