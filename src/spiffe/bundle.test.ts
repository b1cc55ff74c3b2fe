import { createPublicKey, type webcrypto } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { type Certificate, parseCertificates, parsePemCertificates } from '../x509/certificate.ts';
import { Bundle, bundleToSpiffeJwks, parseSpiffeJwks } from './bundle.ts';
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

describe('a bundle', () => {
  it('has each certificate once, in the order given, tainted if it is so anywhere', () => {
    const authorities = [
      { certificate: b, tainted: false },
      { certificate: a, tainted: false },
      { certificate: b, tainted: true },
    ];
    const bundle = new Bundle({
      trustDomain: td,
      x509Authorities: authorities,
      sequence: 0,
      refreshHintSeconds: 0,
    });
    expect(bundle.x509Authorities.map(({ certificate, tainted }) => [base64(certificate), tainted])).toEqual([
      [base64(b), true],
      [base64(a), false],
    ]);
  });

  it('is written as PEM and as DER that read back', () => {
    const bundle = bundleOf([a, b]);
    expect(parsePemCertificates(bundle.toPem()).map(base64)).toEqual([base64(a), base64(b)]);
    expect(parseCertificates(bundle.concatenatedDer()).map(base64)).toEqual([base64(a), base64(b)]);
    expect([bundleOf([]).toPem(), bundleOf([]).concatenatedDer().length]).toEqual(['', 0]);
  });

  it('equals another by content, whatever the order and the sequence', () => {
    expect(bundleOf([a, b], 1).equals(bundleOf([b, a], 2))).toBe(true);
  });

  it('differs from another by any part of its content', () => {
    const bundle = bundleOf([a]);
    const others = [
      bundleOf([]),
      bundleOf([b]),
      bundleOf([a, b]),
      bundleOf([a], 1, 60),
      new Bundle({ ...bundle, trustDomain: TrustDomain.parse('other') }),
      new Bundle({ ...bundle, x509Authorities: [{ certificate: a, tainted: true }] }),
    ];
    expect(others.map((other) => [bundle.equals(other), other.equals(bundle)])).toEqual(
      others.map(() => [false, false]),
    );
  });

  it('grows by an authority, with the next sequence', () => {
    const bundle = bundleOf([a], 7);
    const grown = bundle.withAuthority(b);
    expect([grown.certificates(), grown.sequence, grown.refreshHintSeconds]).toEqual([[a, b], 8, 300]);
    expect(bundle.certificates()).toEqual([a]);
    expect(grown.withAuthority(a)).toBe(grown);
  });

  it('loses authorities by fingerprint, with the next sequence', () => {
    const bundle = bundleOf([a, b, rsa], 7);
    const shrunk = bundle.withoutAuthorities([a.fingerprint, rsa.fingerprint]);
    expect([shrunk.certificates(), shrunk.sequence]).toEqual([[b], 8]);
    expect(shrunk.withoutAuthorities([a.fingerprint])).toBe(shrunk);
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses the sequence and the refresh hint %d', (number) => {
    expect(() => bundleOf([], number)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    expect(() => bundleOf([], 0, number)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});

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

  it('reads back as the same bundle', () => {
    const some = fc.subarray([0, 1, 2]);
    fc.assert(
      fc.property(some, fc.maxSafeNat(), fc.maxSafeNat(), (indexes, sequence, hint) => {
        const bundle = bundleOf(
          indexes.flatMap((index) => [a, b, rsa][index] ?? []),
          sequence,
          hint,
        );
        const read = parseSpiffeJwks(bundleToSpiffeJwks(bundle), td);
        expect(read.equals(bundle)).toBe(true);
        expect([read.sequence, read.refreshHintSeconds]).toEqual([sequence, hint]);
        expect(read.toPem()).toBe(bundle.toPem());
      }),
      { numRuns: 30 },
    );
  });
});

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
          ...['sig', 'X509-SVID', 'jwt-svid', undefined, ['x509-svid']].map((use) => key(a, { use })),
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
    { name: 'more than a megabyte', text: () => `{"keys":[]${' '.repeat(1024 * 1024)}}` },
  ];
  it.each(refused)('is refused for $name', ({ text }) => {
    expect(() => parseSpiffeJwks(text(), td)).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining('"td"') }),
    );
  });

  it('does not round a sequence that it cannot hold', () => {
    expect(parseSpiffeJwks('{"keys":[],"spiffe_sequence":9007199254740991}', td).sequence).toBe(
      9007199254740991,
    );
    expect(() => parseSpiffeJwks('{"keys":[],"spiffe_sequence":9007199254740993}', td)).toThrow(
      '9007199254740993',
    );
  });

  it('is read or refused, never more, whatever it contains', () => {
    const value = fc.oneof(fc.jsonValue(), fc.constantFrom('x509-svid', 'EC', 'RSA'));
    const element = fc.record(
      { use: value, kty: value, x5c: fc.oneof(value, fc.array(value)) },
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
