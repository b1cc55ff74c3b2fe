import { createPublicKey, generateKeyPairSync, hash, type KeyObject, sign } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { bitString, element, integer, oid, sequence } from './der-writer.ts';
import {
  createSoftwareSigner,
  describeKey,
  findSignatureAlgorithm,
  generatePrivateKey,
  keyTypeOfSpki,
  keyTypes,
  signatureAlgorithmOf,
  verifySignature,
} from './signature.ts';

const data = Buffer.from('signed');
const spkiOf = (key: KeyObject): Buffer => createPublicKey(key).export({ format: 'der', type: 'spki' });
const ecKey = (namedCurve: string): KeyObject => generateKeyPairSync('ec', { namedCurve }).privateKey;
const rsaKey = (modulusLength: number): KeyObject => generateKeyPairSync('rsa', { modulusLength }).privateKey;

/** An RSA key of this size and exponent that nobody can sign with; its numbers need only look right. */
function rsaSpki(
  bits: number,
  exponent: Buffer,
  parameters: Uint8Array = element(0x05),
  more: Uint8Array = Buffer.alloc(0),
): Buffer {
  const modulus = Buffer.alloc(bits / 8, 0xff);
  const key = sequence(integer(modulus), integer(exponent), more);
  return sequence(sequence(oid('1.2.840.113549.1.1.1'), parameters), bitString(key));
}
const e65537 = Buffer.of(1, 0, 1);

describe('keys', () => {
  it.each(keyTypes.filter((type) => type !== 'rsa-4096' && type !== 'rsa-3072'))(
    'of type %s are made, recognised, and sign what verifies',
    async (type) => {
      const key = await generatePrivateKey(type);
      const signer = createSoftwareSigner(key);
      expect(signer.type).toBe(type);
      expect(keyTypeOfSpki(signer.publicKey)).toBe(type);
      const signature = await signer.sign(data);
      const algorithmOid = signatureAlgorithmOf(type).oid;
      for (const spki of [signer.publicKey, createPublicKey(key)]) {
        expect(verifySignature({ spki, algorithmOid, data, signature })).toBe(true);
        expect(verifySignature({ spki, algorithmOid, data: Buffer.from('other'), signature })).toBe(false);
      }
    },
  );

  it.each([
    { name: 'RSA-3072', spki: rsaSpki(3072, e65537), type: 'rsa-3072' },
    { name: 'RSA-4096', spki: rsaSpki(4096, e65537), type: 'rsa-4096' },
    { name: 'RSA-1024', spki: rsaSpki(1024, e65537) },
    { name: 'RSA-16384', spki: rsaSpki(16_384, e65537) },
    { name: 'RSA-2048 (unsound parameters)', spki: rsaSpki(2048, Buffer.of(1)) },
    { name: 'RSA-2048 (unsound parameters)', spki: rsaSpki(2048, Buffer.of(1, 0, 0)) },
    { name: 'RSA-2048 (unsound parameters)', spki: rsaSpki(2048, Buffer.alloc(9, 0x7f)) },
    { name: 'RSA-2048 (unsound parameters)', spki: rsaSpki(2048, e65537, Buffer.alloc(0)) },
    { name: 'RSA-2048 (unsound parameters)', spki: rsaSpki(2048, e65537, sequence()) },
    { name: 'EC P-521', spki: spkiOf(ecKey('P-521')) },
    { name: 'EC (unknown curve)', spki: spkiOf(ecKey('secp256k1')) },
    { name: 'Ed25519', spki: spkiOf(generateKeyPairSync('ed25519').privateKey) },
    { name: 'unreadable', spki: Buffer.from('30', 'hex') },
  ])('are described as $name and have their type only when it is supported', ({ name, spki, type }) => {
    expect(describeKey(spki)).toBe(name);
    expect(keyTypeOfSpki(spki)).toBe(type);
  });

  it('in compressed form and with explicit curve parameters are not accepted', () => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      paramEncoding: 'explicit',
    });
    const explicit = publicKey.export({ format: 'der', type: 'spki' });
    expect(describeKey(explicit)).toBe('EC (unknown curve)');
    const signature = sign('sha256', data, privateKey);
    expect(verifySignature({ spki: explicit, algorithmOid: '1.2.840.10045.4.3.2', data, signature })).toBe(
      false,
    );
    const point = spkiOf(ecKey('P-256')).subarray(26);
    const curve = sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7'));
    const hybrid = sequence(curve, bitString(Buffer.concat([Buffer.of(6), point.subarray(1)])));
    expect(describeKey(hybrid)).toBe('EC P-256 (not an uncompressed point)');
    const compressed = sequence(curve, bitString(Buffer.concat([Buffer.of(2), point.subarray(1, 33)])));
    expect(describeKey(compressed)).toBe('EC P-256 (not an uncompressed point)');
  });

  it.each([
    {
      name: 'after the algorithm',
      spki: sequence(sequence(oid('1.3.101.112'), element(0x05), element(0x05)), bitString(e65537)),
    },
    { name: 'after the key', spki: sequence(sequence(oid('1.3.101.112')), bitString(e65537), element(0x05)) },
    { name: 'after everything', spki: Buffer.concat([rsaSpki(2048, e65537), Buffer.of(0)]) },
    {
      name: 'inside the RSA key',
      spki: rsaSpki(2048, e65537, element(0x05), element(0x05)),
    },
  ])('with bytes $name are unreadable', ({ spki }) => {
    expect(describeKey(spki)).toBe('unreadable');
  });

  it('that are public or of another kind cannot be made a signer', () => {
    const refused = expect.toSatisfy((error) => isAppError(error, 'invalid-argument'));
    expect(() => createSoftwareSigner(createPublicKey(ecKey('P-256')))).toThrow(refused);
    expect(() => createSoftwareSigner(ecKey('P-521'))).toThrow(refused);
    expect(() => createSoftwareSigner(rsaKey(1024))).toThrow(refused);
  });
});

describe('a software signer', () => {
  it('lets other work have a turn while it signs on the calling thread', async () => {
    const signer = createSoftwareSigner(ecKey('P-256'));
    let turns = 0;
    const count = (): void => {
      turns += 1;
      if (turns < 100) setImmediate(count);
    };
    setImmediate(count);
    for (let i = 0; i < 64; i += 1) await signer.sign(data);
    expect(turns).toBeGreaterThanOrEqual(4);
    turns = 100;
  });
});

/**
 * A key of about `bits` bits with a valid signature that needed no private key: with exponent 3 and modulus s³ - m,
 * s is the signature of m.
 */
function madeUpRsa(bits: number): { spki: Buffer; signature: Buffer } {
  const bytes = Math.ceil(bits / 8);
  const digestInfo = sequence(
    sequence(oid('2.16.840.1.101.3.4.2.1'), element(0x05)),
    element(0x04, hash('sha256', data, 'buffer')),
  );
  const padding = Buffer.alloc(bytes - digestInfo.length - 3, 0xff);
  const message = BigInt(
    `0x${Buffer.concat([Buffer.of(0, 1), padding, Buffer.of(0), digestInfo]).toString('hex')}`,
  );
  const root = (1n << BigInt(Math.ceil(bits / 3))) - (message % 2n === 0n ? 1n : 2n);
  const toBytes = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex');
  const key = sequence(integer(toBytes(root ** 3n - message)), integer(Buffer.of(3)));
  const algorithm = sequence(oid('1.2.840.113549.1.1.1'), element(0x05));
  return { spki: sequence(algorithm, bitString(key)), signature: toBytes(root) };
}

describe('verifySignature', () => {
  it('refuses RSA keys so large that they only cost time', () => {
    const algorithmOid = '1.2.840.113549.1.1.11';
    expect(verifySignature({ ...madeUpRsa(4095), algorithmOid, data })).toBe(true);
    expect(verifySignature({ ...madeUpRsa(9000), algorithmOid, data })).toBe(false);
  });

  const p256 = ecKey('P-256');
  const rsa2048 = rsaKey(2048);

  it('accepts the stronger hashes and P-521, which others may use', () => {
    const p521 = ecKey('P-521');
    const bySha512 = {
      spki: spkiOf(p521),
      algorithmOid: '1.2.840.10045.4.3.4',
      data,
      signature: sign('sha512', data, p521),
    };
    expect(verifySignature(bySha512)).toBe(true);
    const bySha384 = {
      spki: spkiOf(rsa2048),
      algorithmOid: '1.2.840.113549.1.1.12',
      data,
      signature: sign('sha384', data, rsa2048),
    };
    expect(verifySignature(bySha384)).toBe(true);
  });

  it.each([
    { name: 'SHA-1 with RSA', oid: '1.2.840.113549.1.1.5', key: rsa2048, hash: 'sha1' },
    { name: 'SHA-1 with ECDSA', oid: '1.2.840.10045.4.1', key: p256, hash: 'sha1' },
    { name: 'MD5', oid: '1.2.840.113549.1.1.4', key: rsa2048, hash: 'md5' },
    { name: 'RSASSA-PSS', oid: '1.2.840.113549.1.1.10', key: rsa2048, hash: 'sha256' },
    { name: 'an RSA algorithm with an EC key', oid: '1.2.840.113549.1.1.11', key: p256, hash: 'sha256' },
    { name: 'an EC algorithm with an RSA key', oid: '1.2.840.10045.4.3.2', key: rsa2048, hash: 'sha256' },
    { name: 'an RSA key that is too short', oid: '1.2.840.113549.1.1.11', key: rsaKey(1024), hash: 'sha256' },
  ])('refuses $name, although the signature is right', ({ oid: algorithmOid, key, hash }) => {
    const signature = sign(hash, data, key);
    expect(verifySignature({ spki: spkiOf(key), algorithmOid, data, signature })).toBe(false);
  });

  it('is false, never an error, for bytes of any kind', () => {
    const spki = spkiOf(p256);
    const algorithmOid = '1.2.840.10045.4.3.2';
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), (first, second) => {
        expect(verifySignature({ spki: first, algorithmOid, data, signature: second })).toBe(false);
        expect(verifySignature({ spki, algorithmOid, data, signature: second })).toBe(false);
      }),
    );
  });

  it('is false for a point that is not on the curve', () => {
    const spki = Buffer.from(spkiOf(p256));
    spki.writeUInt8(spki.readUInt8(spki.length - 1) ^ 1, spki.length - 1);
    const signature = sign('sha256', data, p256);
    expect(verifySignature({ spki, algorithmOid: '1.2.840.10045.4.3.2', data, signature })).toBe(false);
  });

  it('knows nothing of algorithms that are not in its table', () => {
    expect(findSignatureAlgorithm('1.2.840.10045.4.3.2')?.name).toBe('ecdsa-with-SHA256');
    expect(findSignatureAlgorithm('1.2.840.113549.1.1.5')).toBeUndefined();
  });
});
