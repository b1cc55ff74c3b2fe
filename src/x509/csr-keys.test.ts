import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { openssl, opensslCsr } from '../testing/openssl.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { newSigner } from '../testing/test-authority.ts';
import { buildCsr, parseCsr, verifyCsr } from './csr.ts';
import { DerReader, tags } from './der-reader.ts';
import { bitString, element, integer, oid, sequence } from './der-writer.ts';
import { keyTypes } from './signature.ts';

function verdict(request: Uint8Array): string {
  try {
    verifyCsr(parseCsr(request));
    return 'accepted';
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return error.message;
    throw error;
  }
}

const ofKind = (kind: string) => `csr has a key of kind "${kind}"; expected one of ${keyTypes.join(', ')}`;
const tooShort = (bits: number) => `csr has an RSA-${bits} key; at least 2048 bits are required`;
const ec = (curve: string) => ['-newkey', 'ec', '-pkeyopt', `ec_paramgen_curve:${curve}`];
const pss = ['-sigopt', 'rsa_padding_mode:pss'];

describe('a request whose key and signature openssl finds sound', () => {
  it.each([
    { name: 'P-256 with SHA-384', args: [...ec('P-256'), '-sha384'] },
    { name: 'P-256 with SHA-512', args: [...ec('P-256'), '-sha512'] },
    { name: 'P-384 with SHA-256', args: [...ec('P-384'), '-sha256'] },
    { name: 'RSA-2048 with SHA-384', args: ['-newkey', 'rsa:2048', '-sha384'] },
    { name: 'RSA-2048 with SHA-512', args: ['-newkey', 'rsa:2048', '-sha512'] },
    { name: 'RSA-3072', args: ['-newkey', 'rsa:3072'] },
  ])('is accepted with $name', ({ args }) => {
    expect(verdict(opensslCsr(args))).toBe('accepted');
  });

  it.each([
    { name: 'RSA-1024', args: ['-newkey', 'rsa:1024'], says: tooShort(1024) },
    { name: 'RSA-2040', args: ['-newkey', 'rsa:2040'], says: tooShort(2040) },
    { name: 'RSA-2056', args: ['-newkey', 'rsa:2056'], says: ofKind('RSA-2056') },
    { name: 'P-224', args: ec('secp224r1'), says: ofKind('EC (unknown curve)') },
    { name: 'P-521', args: ec('P-521'), says: ofKind('EC P-521') },
    { name: 'secp256k1', args: ec('secp256k1'), says: ofKind('EC (unknown curve)') },
    { name: 'brainpoolP256r1', args: ec('brainpoolP256r1'), says: ofKind('EC (unknown curve)') },
    {
      name: 'the parameters of P-256 written out',
      args: [...ec('P-256'), '-pkeyopt', 'ec_param_enc:explicit'],
      says: ofKind('EC (unknown curve)'),
    },
    { name: 'Ed25519', args: ['-newkey', 'ed25519'], says: ofKind('Ed25519') },
    { name: 'Ed448', args: ['-newkey', 'ed448'], says: ofKind('Ed448') },
    {
      name: 'a key for RSASSA-PSS only',
      args: ['-newkey', 'rsa-pss', '-pkeyopt', 'rsa_keygen_bits:2048'],
      says: ofKind('RSASSA-PSS'),
    },
    { name: 'RSA and SHA-1', args: ['-newkey', 'rsa:2048', '-sha1'], says: 'invalid CSR signature' },
    { name: 'RSA and MD5', args: ['-newkey', 'rsa:2048', '-md5'], says: 'invalid CSR signature' },
    { name: 'RSA and SHA-224', args: ['-newkey', 'rsa:2048', '-sha224'], says: 'invalid CSR signature' },
    { name: 'RSA and SHA3-256', args: ['-newkey', 'rsa:2048', '-sha3-256'], says: 'invalid CSR signature' },
    { name: 'RSA and PSS padding', args: ['-newkey', 'rsa:2048', ...pss], says: 'invalid CSR signature' },
    { name: 'ECDSA and SHA-1', args: [...ec('P-256'), '-sha1'], says: 'invalid CSR signature' },
    { name: 'ECDSA and SHA-224', args: [...ec('P-256'), '-sha224'], says: 'invalid CSR signature' },
  ])('is refused with $name', ({ args, says }) => {
    const request = opensslCsr(args);
    // Else it would be refused for a reason that has nothing to do with the case.
    openssl(['req', '-inform', 'DER', '-noout', '-verify'], request);
    expect(verdict(request)).toBe(says);
  });

  it('is refused with a DSA key', () => {
    const { privateKey } = generateKeyPairSync('dsa', { modulusLength: 1024, divisorLength: 160 });
    expect(verdict(requestOf(privateKey))).toBe(ofKind('DSA'));
  });

  it('is refused with a compressed point', () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const request = requestOf(privateKey, ['ec', '-conv_form', 'compressed']);
    expect(verdict(request)).toBe(ofKind('EC P-256 (not an uncompressed point)'));
  });
});

/** A request for this key, which another openssl command may write anew before. */
function requestOf(key: KeyObject, rewrite?: readonly string[]): Buffer {
  const file = join(tempDir(), 'key.pem');
  const pem = key.export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(file, rewrite === undefined ? pem : openssl(rewrite, pem));
  return openssl(['req', '-new', '-key', file, '-subj', '/C=US', '-outform', 'DER']);
}

const rsaEncryption = sequence(oid('1.2.840.113549.1.1.1'), element(tags.null));
const p256 = sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7'));
const rsaKey = (modulus: Uint8Array, exponent: Uint8Array): Buffer =>
  sequence(rsaEncryption, bitString(sequence(integer(modulus), integer(exponent))));
const ecKey = (point: Uint8Array): Buffer => sequence(p256, bitString(point));

/** An odd number of exactly this many bits. */
function modulusOf(bits: number): Buffer {
  const modulus = randomBytes(bits / 8);
  modulus.writeUInt8(modulus.readUInt8(0) | 0x80, 0);
  modulus.writeUInt8(modulus.readUInt8(modulus.length - 1) | 1, modulus.length - 1);
  return modulus;
}

/** A sound request in which another key stands. */
async function requestWith(spki: Buffer): Promise<Buffer> {
  const outer = new DerReader(await buildCsr({ signer: await newSigner() })).enter('request');
  const info = outer.enter('info');
  const [version, subject] = [info.any('version').encoded, info.any('subject').encoded];
  info.any('public key');
  const attributes = info.any('attributes').encoded;
  return sequence(
    sequence(version, subject, spki, attributes),
    outer.any('algorithm').encoded,
    outer.any('signature').encoded,
  );
}

describe('a request with a key that nobody would make by accident', () => {
  const e = Buffer.from([1, 0, 1]);
  const sound = modulusOf(2048);
  const off = Buffer.concat([Buffer.of(4), Buffer.alloc(64, 1)]);

  it.each([
    { name: 'RSA-8192', spki: rsaKey(modulusOf(8192), e), says: ofKind('RSA-8192') },
    { name: 'RSA-16384', spki: rsaKey(modulusOf(16_384), e), says: ofKind('RSA-16384') },
    { name: 'RSA-65536', spki: rsaKey(modulusOf(65_536), e), says: ofKind('RSA-65536') },
    { name: 'RSA-8', spki: rsaKey(Buffer.of(0x8f), e), says: tooShort(8) },
    { name: 'modulus 0', spki: rsaKey(Buffer.of(0), e), says: tooShort(0) },
    { name: 'exponent 0', spki: rsaKey(sound, Buffer.of(0)), says: unsound() },
    { name: 'exponent 1', spki: rsaKey(sound, Buffer.of(1)), says: unsound() },
    { name: 'exponent 2', spki: rsaKey(sound, Buffer.of(2)), says: unsound() },
    { name: 'exponent 65536', spki: rsaKey(sound, Buffer.from([1, 0, 0])), says: unsound() },
    { name: 'an exponent of 48 bits', spki: rsaKey(sound, Buffer.alloc(6, 0xff)), says: unsound() },
    { name: 'an exponent of 2048 bits', spki: rsaKey(sound, modulusOf(2048)), says: unsound() },
    {
      name: 'RSA without parameters',
      spki: sequence(sequence(oid('1.2.840.113549.1.1.1')), bitString(sequence(integer(sound), integer(e)))),
      says: unsound(),
    },
    { name: 'an even modulus', spki: rsaKey(sound.with(255, 0), e), says: 'invalid CSR signature' },
    { name: 'a point that is not on the curve', spki: ecKey(off), says: 'invalid CSR signature' },
    {
      name: 'the point at infinity',
      spki: ecKey(Buffer.of(0)),
      says: ofKind('EC P-256 (not an uncompressed point)'),
    },
    {
      name: 'a hybrid point',
      spki: ecKey(off.with(0, 6)),
      says: ofKind('EC P-256 (not an uncompressed point)'),
    },
    {
      name: 'a P-256 point on P-384',
      spki: sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.3.132.0.34')), bitString(off)),
      says: ofKind('EC P-384 (not an uncompressed point)'),
    },
    {
      name: 'no curve',
      spki: sequence(sequence(oid('1.2.840.10045.2.1')), bitString(off)),
      says: ofKind('EC (unknown curve)'),
    },
    {
      name: 'an algorithm that nobody knows',
      spki: sequence(sequence(oid('1.3.6.1.4.1.99999.1')), bitString(off)),
      says: ofKind('unknown (1.3.6.1.4.1.99999.1)'),
    },
    { name: 'an RSA key that is none', spki: sequence(rsaEncryption, bitString(off)), says: /unreadable/ },
  ])('is refused: $name', async ({ spki, says }) => {
    expect(verdict(await requestWith(Buffer.from(spki)))).toMatch(says);
  });

  function unsound(): string {
    return ofKind('RSA-2048 (unsound parameters)');
  }
});

describe('a signature', () => {
  const r = integer(Buffer.of(1));
  it.each([
    { name: 'zeros', signature: sequence(integer(Buffer.of(0)), integer(Buffer.of(0))) },
    { name: 'ones', signature: sequence(r, r) },
    { name: 'nothing', signature: Buffer.alloc(0) },
    { name: 'three numbers', signature: sequence(r, r, r) },
    { name: 'huge numbers', signature: sequence(integer(modulusOf(4096)), integer(modulusOf(4096))) },
    { name: 'no DER', signature: Buffer.alloc(64, 1) },
  ])('of $name proves nothing', async ({ signature }) => {
    const outer = new DerReader(await buildCsr({ signer: await newSigner() })).enter('request');
    const [info, algorithm] = [outer.any('info').encoded, outer.any('algorithm').encoded];
    expect(verdict(sequence(info, algorithm, bitString(signature)))).toBe('invalid CSR signature');
  });

  it.each(['1.2.840.113549.1.1.11', '1.2.840.113549.1.1.5', '1.3.101.112', '1.2.840.10045.4.1'])(
    'of a P-256 key does not count under the algorithm %s',
    async (algorithm) => {
      const outer = new DerReader(await buildCsr({ signer: await newSigner() })).enter('request');
      const info = outer.any('info').encoded;
      outer.any('algorithm');
      const request = sequence(info, sequence(oid(algorithm)), outer.any('signature').encoded);
      expect(verdict(request)).toBe('invalid CSR signature');
    },
  );
});
