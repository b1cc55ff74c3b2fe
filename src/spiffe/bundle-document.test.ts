import { createPublicKey, type webcrypto } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { type JwtKeyKind, jwtKey, jwtKeyKinds } from '../testing/jwt-keys.ts';
import type { Certificate } from '../x509/certificate.ts';
import { Bundle } from './bundle.ts';
import { bundleToSpiffeJwks, parseSpiffeJwks } from './bundle-document.ts';
import { jwtAuthorityToJwk } from './jwt-authority.ts';
import { TrustDomain } from './spiffe-id.ts';

const td = TrustDomain.parse('td');
let a: Certificate;
let b: Certificate;
let rsa: Certificate;
let leaf: Certificate;

beforeAll(async () => {
  const root = await TestIdentity.root('td');
  const second = await TestIdentity.root('td', { keyType: 'ec-p384' });
  [a, b] = [root.certificate, second.certificate];
  rsa = (await TestIdentity.root('td', { keyType: 'rsa-2048' })).certificate;
  leaf = (await root.issue('spiffe://td/w')).certificate;
});

function bundleOf(certificates: readonly Certificate[], sequence = 1, refreshHintSeconds = 300): Bundle {
  const x509Authorities = certificates.map((certificate) => ({ certificate, tainted: false }));
  return new Bundle({ trustDomain: td, x509Authorities, sequence, refreshHintSeconds });
}

const base64 = (certificate: Certificate) => certificate.der.toString('base64');
const key = (certificate: Certificate, changes: object = {}) => {
  return { use: 'x509-svid', kty: 'EC', x5c: [base64(certificate)], ...changes };
};
const authoritiesOf = (document: unknown) =>
  parseSpiffeJwks(JSON.stringify(document), td).certificates().map(base64);

describe('a bundle document that is written', () => {
  it('has one element per certificate and no members but those of the standard', () => {
    const document = JSON.parse(bundleToSpiffeJwks(bundleOf([a, b, rsa], 5))) as {
      keys: Record<string, unknown>[];
    };
    expect(Object.keys(document).sort()).toEqual(['keys', 'spiffe_refresh_hint', 'spiffe_sequence']);
    expect(document).toMatchObject({ spiffe_sequence: 5, spiffe_refresh_hint: 300 });
    expect(document.keys.map((jwk) => Object.keys(jwk).sort())).toEqual([
      ['crv', 'kty', 'use', 'x', 'x5c', 'y'],
      ['crv', 'kty', 'use', 'x', 'x5c', 'y'],
      ['e', 'kty', 'n', 'use', 'x5c'],
    ]);
    expect(document.keys.map((jwk) => [jwk['use'], jwk['kty'], jwk['x5c']])).toEqual([
      ['x509-svid', 'EC', [base64(a)]],
      ['x509-svid', 'EC', [base64(b)]],
      ['x509-svid', 'RSA', [base64(rsa)]],
    ]);
  });

  it('has key members that are the key of the certificate (X509-41)', () => {
    const document = JSON.parse(bundleToSpiffeJwks(bundleOf([a, rsa]))) as { keys: webcrypto.JsonWebKey[] };
    const keys = document.keys.map((jwk) =>
      createPublicKey({ key: jwk, format: 'jwk' }).export({ format: 'der', type: 'spki' }),
    );
    expect(keys).toEqual([a.spki, rsa.spki]);
  });

  it('has an empty list of keys when there are none (TDB-08)', () => {
    expect(JSON.parse(bundleToSpiffeJwks(bundleOf([], 0, 0)))).toEqual({ keys: [], spiffe_sequence: 0 });
  });

  it('has one element with key id and use per JWT authority (JWT-30, JWT-31)', () => {
    const jwtAuthorities = jwtKeyKinds.map((kind) => jwtKey(kind, kind));
    const text = bundleToSpiffeJwks(new Bundle({ ...bundleOf([]), jwtAuthorities }));
    const { keys } = JSON.parse(text) as { keys: Record<string, unknown>[] };
    expect(
      keys.map((jwk) => [jwk['use'], jwk['kid'], jwk['kty'], Object.keys(jwk).sort().join(' ')]),
    ).toEqual([
      ['jwt-svid', 'rsa', 'RSA', 'e kid kty n use'],
      ['jwt-svid', 'P-256', 'EC', 'crv kid kty use x y'],
      ['jwt-svid', 'P-384', 'EC', 'crv kid kty use x y'],
      ['jwt-svid', 'P-521', 'EC', 'crv kid kty use x y'],
      ['jwt-svid', 'ed25519', 'OKP', 'crv kid kty use x'],
    ]);
  });

  it('reads back as the same bundle, but for what it cannot say', () => {
    const some = fc.subarray([0, 1, 2]);
    const keys = fc.uniqueArray(
      fc.record({
        keyId: fc.string({ minLength: 1 }),
        kind: fc.constantFrom<JwtKeyKind>('P-256', 'ed25519'),
      }),
      { selector: ({ keyId }) => keyId, maxLength: 3 },
    );
    const sequence = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    fc.assert(
      fc.property(some, keys, sequence, fc.maxSafeNat(), (indexes, jwt, sequence, hint) => {
        const bundle = new Bundle({
          trustDomain: td,
          x509Authorities: bundleOf(indexes.flatMap((index) => [a, b, rsa][index] ?? [])).x509Authorities,
          jwtAuthorities: jwt.map(({ keyId, kind }) => jwtKey(keyId, kind)),
          sequence,
          refreshHintSeconds: hint,
        });
        const read = parseSpiffeJwks(bundleToSpiffeJwks(bundle), td);
        expect(read.equals(bundle)).toBe(true);
        expect([read.sequence, read.refreshHintSeconds]).toEqual([sequence, hint]);
        expect(read.toPem()).toBe(bundle.toPem());
      }),
      { numRuns: 30 },
    );
  });

  it('says neither what is tainted nor when keys expire', () => {
    const jwtAuthorities = [{ ...jwtKey('k'), tainted: true, expiresAt: 1_800_000_000 }];
    const bundle = new Bundle({ ...bundleOf([]), jwtAuthorities });
    const [read] = parseSpiffeJwks(bundleToSpiffeJwks(bundle), td).jwtAuthorities;
    expect(read).toMatchObject({ keyId: 'k', tainted: false, expiresAt: 0 });
  });
});

const jwk = (keyId: string): Record<string, unknown> => ({ ...jwtAuthorityToJwk(jwtKey(keyId)) });
const jwtRefusals: readonly { readonly name: string; readonly changes: object }[] = [
  { name: 'without key id', changes: { kid: undefined } },
  { name: 'with an empty key id', changes: { kid: '' } },
  { name: 'with a number as key id', changes: { kid: 1 } },
  { name: 'with a key id that is too long', changes: { kid: 'k'.repeat(1025) } },
  { name: 'that brings its private key', changes: { d: 'AAAA' } },
  { name: 'that lacks part of its key', changes: { y: undefined } },
  { name: 'whose key is no text', changes: { x: 1 } },
  { name: 'whose point is not on the curve', changes: { x: 'A'.repeat(43) } },
  { name: 'on another curve', changes: { crv: 'secp256k1' } },
  { name: 'with a key of a megabyte', changes: { kty: 'RSA', n: 'A'.repeat(900_000), e: 'AQAB' } },
];

describe('a bundle document that is read', () => {
  const accepted: readonly {
    readonly name: string;
    readonly document: () => object;
    readonly expected: () => Certificate[];
  }[] = [
    {
      name: 'two authorities (X509-44)',
      document: () => ({ keys: [key(a), key(b)] }),
      expected: () => [a, b],
    },
    { name: 'no authority (TDB-12)', document: () => ({ keys: [] }), expected: () => [] },
    {
      name: 'elements without x5c, left out (X509-42)',
      document: () => ({ keys: [key(a, { x5c: undefined }), key(a, { x5c: [] }), key(b)] }),
      expected: () => [b],
    },
    {
      name: 'only the first of several x5c values (X509-43)',
      document: () => ({
        keys: [key(a, { x5c: [base64(a), base64(b)] }), key(rsa, { x5c: [base64(rsa), 'no base64'] })],
      }),
      expected: () => [a, rsa],
    },
    {
      name: 'elements of unknown kty or without one, left out (TDB-10)',
      document: () => ({
        keys: [key(a, { kty: 'XYZ', x5c: ['junk'] }), key(a, { kty: undefined }), key(a, { kty: 1 }), key(b)],
      }),
      expected: () => [b],
    },
    {
      name: 'elements of unknown use or without one, left out (TDB-11)',
      document: () => ({
        keys: [
          ...['sig', 'X509-SVID', 'wit-svid', undefined, ['x509-svid']].map((use) => key(a, { use })),
          key(b),
        ],
      }),
      expected: () => [b],
    },
    {
      name: 'elements that are no objects, left out',
      document: () => ({ keys: [null, 1, 'x', [], key(b)] }),
      expected: () => [b],
    },
    {
      name: 'unknown members (TDB-02)',
      document: () => ({ keys: [key(a, { kid: 'x', more: 1 })], more: { b: 1 } }),
      expected: () => [a],
    },
  ];
  it.each(accepted)('may have $name', ({ document, expected }) => {
    expect(authoritiesOf(document())).toEqual(expected().map(base64));
  });

  const refused: readonly { readonly name: string; readonly text: () => string }[] = [
    ...['', '{}', '{"keys":null}', '{"keys":{}}', '[]', '"x"', 'null', '{"keys":[]'].map((text) => ({
      name: `${text || 'nothing'} (TDB-09)`,
      text: () => text,
    })),
    { name: 'a key given twice', text: () => '{"keys":[],"keys":[]}' },
    {
      name: 'a key given twice in an element',
      text: () => `{"keys":[{"use":"x509-svid","kty":"EC","x5c":["${base64(a)}"],"x5c":["${base64(b)}"]}]}`,
    },
    ...['"1"', '-1', '1.5', 'null', '18446744073709551616', '1e400', 'true'].map((value) => ({
      name: `the sequence ${value}`,
      text: () => `{"keys":[],"spiffe_sequence":${value}}`,
    })),
    ...['"300"', '-1', '1.5', 'null'].map((value) => ({
      name: `the refresh hint ${value}`,
      text: () => `{"keys":[],"spiffe_refresh_hint":${value}}`,
    })),
    {
      name: 'base64url in x5c',
      text: () => JSON.stringify({ keys: [key(a, { x5c: [a.der.toString('base64url')] })] }),
    },
    {
      name: 'base64 with a line end',
      text: () => JSON.stringify({ keys: [key(a, { x5c: [`${base64(a)}\n`] })] }),
    },
    {
      name: 'base64 that is cut',
      text: () => JSON.stringify({ keys: [key(a, { x5c: [base64(a).slice(0, -1)] })] }),
    },
    { name: 'an empty certificate', text: () => JSON.stringify({ keys: [key(a, { x5c: [''] })] }) },
    {
      name: 'a text in place of the list',
      text: () => JSON.stringify({ keys: [key(a, { x5c: base64(a) })] }),
    },
    { name: 'no text in the list', text: () => JSON.stringify({ keys: [key(a, { x5c: [1] })] }) },
    {
      name: 'two certificates in one text',
      text: () =>
        JSON.stringify({ keys: [key(a, { x5c: [Buffer.concat([a.der, b.der]).toString('base64')] })] }),
    },
    ...jwtRefusals.map(({ name, changes }) => ({
      name: `a JWT authority ${name}`,
      text: () => JSON.stringify({ keys: [{ ...jwk('k'), ...changes }] }),
    })),
    {
      name: 'two keys with one key id',
      text: () => JSON.stringify({ keys: [jwk('k'), jwk('k')] }),
    },
    { name: 'more than a megabyte', text: () => `{"keys":[]${' '.repeat(1024 * 1024)}}` },
  ];
  it.each(refused)('is refused for $name', ({ text }) => {
    expect(() => parseSpiffeJwks(text(), td)).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining('"td"') }),
    );
  });

  it.each([9007199254740993n, 2n ** 64n - 1n])('does not round the sequence %d (TDB-05)', (sequence) => {
    const text = `{"keys":[],"spiffe_sequence":${sequence}}`;
    expect(parseSpiffeJwks(text, td).sequence).toBe(sequence);
  });

  it('never has the private key in its refusal', () => {
    const text = JSON.stringify({ keys: [{ ...jwk('k'), d: 'c2VjcmV0' }] });
    expect(() => parseSpiffeJwks(text, td)).not.toThrow('c2VjcmV0');
    expect(() => parseSpiffeJwks(text, td)).toThrow('private key');
  });

  it('keeps an X.509 authority and a JWT authority apart, whatever their keys (JWT-32)', () => {
    const { keys } = JSON.parse(bundleToSpiffeJwks(bundleOf([a]))) as { keys: object[] };
    const both = [...keys, { ...keys[0], use: 'jwt-svid', kid: 'k', x5c: undefined }];
    const bundle = parseSpiffeJwks(JSON.stringify({ keys: both }), td);
    expect([bundle.certificates().length, bundle.jwtAuthorities.length]).toEqual([1, 1]);
  });

  it('is read or refused, never more, whatever it contains', () => {
    const value = fc.oneof(fc.jsonValue(), fc.constantFrom('x509-svid', 'jwt-svid', 'EC', 'RSA', 'OKP'));
    const coordinate = fc.oneof(value, fc.base64String(), fc.constantFrom('P-256', 'Ed25519', 'AQAB'));
    const members = {
      kid: coordinate,
      crv: coordinate,
      x: coordinate,
      y: coordinate,
      n: coordinate,
      e: coordinate,
    };
    const element = fc.record(
      { use: value, kty: value, x5c: fc.oneof(value, fc.array(value)), ...members },
      { requiredKeys: [] },
    );
    const document = fc.record({ keys: fc.oneof(fc.array(element), value), spiffe_sequence: value });
    fc.assert(
      fc.property(
        fc.oneof(
          document.map((d) => JSON.stringify(d)),
          fc.string(),
        ),
        (text) => {
          try {
            parseSpiffeJwks(text, td);
          } catch (error) {
            expect(isAppError(error, 'invalid-argument')).toBe(true);
          }
        },
      ),
    );
  });

  it('takes an anchor that is no CA as it comes: path validation will not use it', () => {
    expect(authoritiesOf({ keys: [key(leaf)] })).toEqual([base64(leaf)]);
  });
});
