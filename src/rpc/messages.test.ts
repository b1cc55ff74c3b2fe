import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { type JWTKey, Bundle as WireBundle } from '../gen/spire/api/types/bundle.ts';
import { Entry as WireEntry } from '../gen/spire/api/types/entry.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { jwtKey } from '../testing/jwt-keys.ts';
import { testEntry } from '../testing/registration-entry.ts';
import {
  bundleFromWire,
  bundleToWire,
  chainFromWire,
  entryFromWire,
  entryToWire,
  wholeNumber,
} from './messages.ts';

const invalid = expect.objectContaining({ code: 'invalid-argument' });

describe('an entry', () => {
  const word = fc.stringMatching(/^[a-z0-9]{1,8}$/);
  const seconds = fc.nat();
  const entries = fc
    .record({
      id: word,
      spiffeId: word.map((name) => `spiffe://example.org/${name}`),
      selectors: fc.array(
        fc.tuple(word, word).map((parts) => parts.join(':')),
        { maxLength: 4 },
      ),
      x509SvidTtlSeconds: seconds,
      jwtSvidTtlSeconds: seconds,
      federatesWith: fc.uniqueArray(word, { maxLength: 3 }),
      dnsNames: fc.array(word, { maxLength: 3 }),
      admin: fc.boolean(),
      downstream: fc.boolean(),
      storeSvid: fc.boolean(),
      hint: fc.string(),
      expiresAt: fc.maxSafeNat(),
      createdAt: fc.maxSafeNat(),
      revision: fc.maxSafeNat(),
      disableX509SvidPrefetch: fc.boolean(),
      jwtSvidIncludeJti: fc.boolean(),
    })
    .map(testEntry);

  it('is the same after a journey over the wire', () => {
    fc.assert(
      fc.property(entries, (entry) => {
        const bytes = WireEntry.encode(entryToWire(entry)).finish();
        const back = entryFromWire(WireEntry.decode(bytes));
        expect(JSON.stringify(back)).toBe(JSON.stringify({ ...back, ...entry }));
        expect(back.spiffeId.equals(entry.spiffeId)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it('gets its selectors in canonical order, each once', () => {
    const wire = entryToWire(testEntry());
    const selectors = ['b', 'a', 'b'].map((value) => ({ type: 'unix', value }));
    expect(entryFromWire({ ...wire, selectors }).selectors.map(({ value }) => value)).toEqual(['a', 'b']);
  });

  it.each<{ name: string; change: Partial<WireEntry> }>([
    { name: 'no SPIFFE ID', change: { spiffeId: undefined } },
    { name: 'no parent', change: { parentId: undefined } },
    {
      name: 'a SPIFFE ID with a bad path',
      change: { spiffeId: { trustDomain: 'example.org', path: '/a/../b' } },
    },
    { name: 'a trust domain with a scheme', change: { spiffeId: { trustDomain: 'spiffe://x', path: '/a' } } },
    { name: 'a selector without type', change: { selectors: [{ type: '', value: 'x' }] } },
    { name: 'a selector with a colon in its type', change: { selectors: [{ type: 'a:b', value: 'x' }] } },
    { name: 'a bad federated trust domain', change: { federatesWith: ['UPPER'] } },
    { name: 'a negative expiry', change: { expiresAt: -1n } },
    { name: 'a revision that a number cannot hold', change: { revisionNumber: 2n ** 60n } },
  ])('with $name is refused', ({ change }) => {
    expect(() => entryFromWire({ ...entryToWire(testEntry()), ...change })).toThrow(invalid);
  });
});

/** A good JWTKey with another key each time. */
function wireKey(changes: Partial<JWTKey> = {}): JWTKey {
  const publicKey = Buffer.from(jwtKey('k').publicKey);
  return { keyId: 'k', publicKey, expiresAt: 0n, tainted: false, ...changes };
}

describe('a bundle', () => {
  let first: TestIdentity;
  let second: TestIdentity;
  beforeAll(async () => {
    [first, second] = await Promise.all([TestIdentity.root('example.org'), TestIdentity.root('example.org')]);
  });

  it('is the same after a journey over the wire', () => {
    const bundle = new Bundle({
      trustDomain: TrustDomain.parse('example.org'),
      x509Authorities: [
        { certificate: first.certificate, tainted: false },
        { certificate: second.certificate, tainted: true },
      ],
      jwtAuthorities: [jwtKey('a', 'rsa'), { ...jwtKey('b'), expiresAt: 1_900_000_000, tainted: true }],
      sequence: 2n ** 64n - 1n,
      refreshHintSeconds: 300,
    });
    const back = bundleFromWire(WireBundle.decode(WireBundle.encode(bundleToWire(bundle)).finish()));
    expect(back.equals(bundle)).toBe(true);
    expect(back.sequence).toBe(2n ** 64n - 1n);
  });

  it('may carry several certificates in one authority', () => {
    const asn1 = Buffer.concat([first.certificate.der, second.certificate.der]);
    const wire = { ...WireBundle.decode(Buffer.alloc(0)), trustDomain: 'example.org' };
    const bundle = bundleFromWire({ ...wire, x509Authorities: [{ asn1, tainted: false }] });
    expect(bundle.certificates()).toHaveLength(2);
  });

  it.each([
    { name: 'without trust domain', change: { trustDomain: '' } },
    {
      name: 'with an empty authority',
      change: { x509Authorities: [{ asn1: Buffer.alloc(0), tainted: false }] },
    },
    { name: 'with a refresh hint below 0', change: { refreshHint: -1n } },
    { name: 'with a JWT authority without id', change: { jwtAuthorities: [wireKey({ keyId: '' })] } },
    {
      name: 'with a JWT authority whose key is none',
      change: { jwtAuthorities: [wireKey({ publicKey: Buffer.from('malformed') })] },
    },
    {
      name: 'with a JWT authority that expired before 1970',
      change: { jwtAuthorities: [wireKey({ expiresAt: -1n })] },
    },
    { name: 'with two JWT authorities of one id', change: { jwtAuthorities: [wireKey(), wireKey()] } },
  ])('$name is refused', ({ change }) => {
    const wire = { ...WireBundle.decode(Buffer.alloc(0)), trustDomain: 'example.org', ...change };
    expect(() => bundleFromWire(wire)).toThrow(invalid);
  });

  it('is refused when there is no chain in a chain', () => {
    expect(() => chainFromWire([])).toThrow(invalid);
    expect(() => chainFromWire([Buffer.from('no certificate')])).toThrow(invalid);
  });
});

it('numbers are exact or refused', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n }), (value) => {
      let number: number | undefined;
      try {
        number = wholeNumber(value, 'field');
      } catch (error) {
        expect(error).toEqual(invalid);
      }
      expect(number === undefined || BigInt(number) === value).toBe(true);
      expect(number === undefined).toBe(value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER));
    }),
  );
});
