import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import * as peculiar from '@peculiar/x509';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { openssl, opensslCsr } from '../testing/openssl.ts';
import { newSigner } from '../testing/test-authority.ts';
import { buildCsr, parseCsr, verifyCsr } from './csr.ts';
import { contextTag, DerReader } from './der-reader.ts';
import { element, octetString, oid, sequence, setOf, smallInteger } from './der-writer.ts';
import { subjectAltName } from './extensions.ts';
import { encodeName } from './names.ts';
import type { KeyType } from './signature.ts';

const signer = await newSigner();
const uris = ['spiffe://a.test/w'];
const der = await buildCsr({ signer, uris, dnsNames: ['a.test'] });

function outcome(check: () => unknown): string {
  try {
    check();
    return 'accepted';
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return error.message;
    throw error;
  }
}

const checked = (request: Uint8Array): string => outcome(() => verifyCsr(parseCsr(request)));

describe('a request we build', () => {
  it('is what openssl reads and verifies', async () => {
    const subject = encodeName({ country: ['US'], organization: ['SPIRE'] });
    const request = await buildCsr({ signer, subject, uris, dnsNames: ['a.test'] });
    const text = openssl(['req', '-inform', 'DER', '-noout', '-text', '-verify'], request).toString();
    expect(text).toMatch(/Subject: C = US, O = SPIRE/);
    expect(text).toMatch(/URI:spiffe:\/\/a.test\/w, DNS:a.test/);
    expect(openssl(['req', '-inform', 'DER', '-outform', 'DER'], request).equals(request)).toBe(true);
  });

  it('is what @peculiar/x509 reads and verifies', async () => {
    const theirs = new peculiar.Pkcs10CertificateRequest(der);
    expect(await theirs.verify()).toBe(true);
    const extension = theirs.getExtension('2.5.29.17');
    const names = new peculiar.SubjectAlternativeNameExtension(extension?.rawData ?? '').names.toJSON();
    expect(names).toEqual([
      { type: 'url', value: uris[0] },
      { type: 'dns', value: 'a.test' },
    ]);
  });

  it('is what we read and verify', () => {
    const csr = parseCsr(der);
    expect(csr).toMatchObject({ keyType: 'ec-p256', uris, dnsNames: ['a.test'] });
    expect(csr.spki.equals(signer.publicKey)).toBe(true);
    expect(csr.der.equals(der)).toBe(true);
    expect(checked(der)).toBe('accepted');
  });

  it('has critical names when its subject is empty (RFC 5280 §4.2.1.6)', async () => {
    const text = (request: Buffer) =>
      openssl(['req', '-inform', 'DER', '-noout', '-text'], request).toString();
    const subject = encodeName({ organization: ['SPIRE'] });
    expect(text(der)).toMatch(/Alternative Name: critical/);
    expect(text(await buildCsr({ signer, uris, subject }))).toMatch(/Alternative Name: \n/);
  });

  it('is kept as a copy that nobody can change afterwards', () => {
    const bytes = new Uint8Array(der);
    const csr = parseCsr(bytes);
    bytes.fill(0);
    expect(outcome(() => verifyCsr(csr))).toBe('accepted');
  });

  it.each(['ec-p384', 'rsa-2048'] satisfies KeyType[])(
    'may have a key of type %s and no names',
    async (type) => {
      const request = await buildCsr({ signer: await newSigner(type) });
      expect(parseCsr(request)).toMatchObject({ keyType: type, uris: [], dnsNames: [] });
      expect(checked(request)).toBe('accepted');
      openssl(['req', '-inform', 'DER', '-noout', '-verify'], request);
    },
  );
});

/** A request made by openssl. */
function opensslRequest(args: readonly string[]): Buffer {
  return opensslCsr([...args, '-addext', `subjectAltName=URI:${uris[0]}`]);
}

describe('a request of others', () => {
  it.each([
    { name: 'P-256', args: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'] },
    { name: 'P-384 with SHA-512', args: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384', '-sha512'] },
    { name: 'RSA-2048', args: ['-newkey', 'rsa:2048'] },
    { name: 'more extensions', args: ['-newkey', 'rsa:2048', '-addext', 'keyUsage=digitalSignature'] },
  ])('from openssl is accepted: $name', ({ args }) => {
    const request = opensslRequest(args);
    expect(checked(request)).toBe('accepted');
    expect(parseCsr(request).uris).toEqual(uris);
  });

  it('from @peculiar/x509 is accepted, with a challenge password too', async () => {
    const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
    const keys = await webcrypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
    const theirs = await peculiar.Pkcs10CertificateRequestGenerator.create(
      {
        name: 'CN=x',
        keys,
        signingAlgorithm,
        attributes: [new peculiar.ChallengePasswordAttribute('password')],
        extensions: [
          new peculiar.SubjectAlternativeNameExtension([{ type: 'url', value: 'spiffe://a.test/w' }]),
        ],
      },
      webcrypto as never,
    );
    const request = Buffer.from(theirs.rawData);
    expect(checked(request)).toBe('accepted');
    expect(parseCsr(request).uris).toEqual(uris);
  });
});

/** The request with its CertificationRequestInfo rebuilt from changed fields. */
function rebuilt(change: (fields: Buffer[]) => readonly Buffer[]): Buffer {
  const outer = new DerReader(der).enter('request');
  const inner = outer.enter('info');
  const fields: Buffer[] = [];
  while (!inner.isAtEnd) fields.push(inner.any('field').encoded);
  const rest: Buffer[] = [];
  while (!outer.isAtEnd) rest.push(outer.any('field').encoded);
  return sequence(sequence(...change(fields)), ...rest);
}

describe('proof of possession', () => {
  it('is needed for the key that is in the request', async () => {
    const other = (await newSigner()).publicKey;
    expect(checked(rebuilt((fields) => fields.with(2, Buffer.from(other))))).toBe('invalid CSR signature');
  });

  it('fails when anything that was signed or the signature is changed', () => {
    fc.assert(
      fc.property(fc.nat(der.length * 8 - 1), (bit) => {
        const damaged = Buffer.from(der);
        damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        expect(checked(damaged)).not.toBe('accepted');
      }),
      { numRuns: 2000 },
    );
  });
});

describe('parseCsr refuses', () => {
  const extensionRequest = oid('1.2.840.113549.1.9.14');
  const names = (...list: string[]): Buffer => subjectAltName({ uris: list });
  const request = (...extensions: Buffer[]): Buffer =>
    sequence(extensionRequest, setOf(sequence(...extensions)));
  const attributes = (...list: Buffer[]): Buffer =>
    rebuilt((f) => f.with(3, element(contextTag(0, true), ...list)));

  it.each([
    { name: 'version 2', request: rebuilt((fields) => fields.with(0, smallInteger(1))) },
    { name: 'a subject that is no name', request: rebuilt((fields) => fields.with(1, sequence(sequence()))) },
    { name: 'a key that is no key', request: rebuilt((fields) => fields.with(2, sequence())) },
    { name: 'missing attributes', request: rebuilt((fields) => fields.slice(0, 3)) },
    { name: 'fields after the attributes', request: rebuilt((fields) => [...fields, smallInteger(0)]) },
    { name: 'two extension requests', request: attributes(request(names('a:b')), request(names('c:d'))) },
    {
      name: 'an extension request with two values',
      request: attributes(sequence(extensionRequest, setOf(sequence(names('a:b')), sequence(names('c:d'))))),
    },
    {
      name: 'an extension request without a value',
      request: attributes(sequence(extensionRequest, setOf())),
    },
    { name: 'two extensions of alternative names', request: attributes(request(names('a:b'), names('c:d'))) },
    { name: 'an empty list of extensions', request: attributes(request()) },
    {
      name: 'alternative names that are none',
      request: attributes(request(sequence(oid('2.5.29.17'), octetString(Buffer.of(5, 0))))),
    },
    { name: 'an attribute that is no sequence', request: attributes(smallInteger(1)) },
    { name: 'a trailing byte', request: Buffer.concat([der, Buffer.of(0)]) },
    { name: 'nothing', request: Buffer.alloc(0) },
    {
      name: 'a certificate',
      request: openssl([
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-keyout',
        '/dev/null',
        '-subj',
        '/C=US',
        '-outform',
        'DER',
      ]),
    },
  ])('$name', ({ request: bytes }) => {
    expect(outcome(() => parseCsr(bytes))).toMatch(/^failed to parse CSR: /);
  });

  it('more than 16 KB before it looks at them', () => {
    expect(outcome(() => parseCsr(Buffer.alloc(16 * 1024 + 1)))).toContain('longer than 16384 bytes');
  });

  it('every truncation', () => {
    for (let length = 0; length < der.length; length += 1)
      expect(outcome(() => parseCsr(der.subarray(0, length)))).not.toBe('accepted');
  });

  it('random bytes, and damaged requests only with its own error', () => {
    const damaged = fc.array(fc.tuple(fc.nat(der.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), damaged, (bytes, changes) => {
        expect(outcome(() => parseCsr(bytes))).not.toBe('accepted');
        const changed = Buffer.from(der);
        for (const [offset, value] of changes) changed[offset] = value;
        checked(changed);
      }),
      { numRuns: 500 },
    );
  });
});
