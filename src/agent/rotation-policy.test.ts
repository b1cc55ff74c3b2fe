import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { testEntry } from '../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../testing/trust-domain.ts';
import { drawRenewalMs, dueSvids, type SvidState } from './rotation-policy.ts';

const windows = { first: [0.1, 0.6], later: [0.4, 0.6] } as const;
const hourMs = 3_600_000;
const issuedAtMs = Date.UTC(2026, 0, 1);
const notAfterMs = issuedAtMs + hourMs;

describe('the moment of renewal', () => {
  test.each([
    { name: 'a first SVID, at the earliest', isFirst: true, random: 0, share: 0.1 },
    { name: 'a first SVID, at the latest', isFirst: true, random: 0.999_999_9, share: 0.6 },
    { name: 'a later SVID, at the earliest', isFirst: false, random: 0, share: 0.4 },
    { name: 'a later SVID, in the middle', isFirst: false, random: 0.5, share: 0.5 },
  ])('of $name is at $share of its lifetime', ({ isFirst, random, share }) => {
    const renewAtMs = drawRenewalMs({ issuedAtMs, notAfterMs, isFirst, windows, random: () => random });
    expect((renewAtMs - issuedAtMs) / hourMs).toBeCloseTo(share, 5);
  });

  test('lies between issuance and expiry, whatever the times and the draw', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 1e13 }),
        fc.integer({ min: 0, max: 1e10 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        fc.boolean(),
        (issued, lifetime, random, isFirst) => {
          const options = { issuedAtMs: issued, notAfterMs: issued + lifetime, isFirst, windows };
          const renewAtMs = drawRenewalMs({ ...options, random: () => random });
          return renewAtMs >= issued && renewAtMs <= issued + lifetime;
        },
      ),
    );
  });

  test('spreads a bulk of first SVIDs evenly', () => {
    const draws = Array.from({ length: 2_000 }, () =>
      drawRenewalMs({ issuedAtMs, notAfterMs, isFirst: true, windows }),
    );
    const tenths = Array.from({ length: 5 }, (_, i) => {
      const from = issuedAtMs + (0.1 + i * 0.1) * hourMs;
      return draws.filter((at) => at >= from && at < from + 0.1 * hourMs).length;
    });
    for (const count of tenths) expect(count).toBeGreaterThan(300);
  });
});

describe('the SVIDs to sign', () => {
  let authority: TestTrustDomain;
  beforeAll(async () => {
    authority = await TestTrustDomain.create();
  });

  async function state(
    id: string,
    options: {
      expiresInMs?: number;
      renewInMs?: number;
      isWatched?: boolean;
      isVariant?: boolean;
      users?: number;
      by?: TestTrustDomain;
      entry?: Parameters<typeof testEntry>[0];
    } = {},
  ): Promise<SvidState> {
    const entry = testEntry({ id, ...options.entry });
    const { expiresInMs, renewInMs = hourMs, isWatched = false, isVariant = false, users = 0 } = options;
    const common = {
      entry,
      isWatched,
      isVariant,
      users,
      keyType: isVariant ? 'rsa-2048' : 'ec-p256',
    } as const;
    if (expiresInMs === undefined) return { ...common, held: undefined };
    const nowMs = issuedAtMs;
    const held = await (options.by ?? authority).sign(testEntry({ id }), {
      issuedAtMs: nowMs - hourMs,
      notAfterMs: nowMs + expiresInMs,
      renewAtMs: nowMs + renewInMs,
    });
    return { ...common, held };
  }

  test.each([
    { name: 'one that was never signed', options: {}, reason: 'missing' },
    { name: 'one that has expired', options: { expiresInMs: 0 }, reason: 'missing' },
    { name: 'one whose time has come', options: { expiresInMs: 1_000, renewInMs: 0 }, reason: 'renewal' },
    { name: 'one whose time has not come', options: { expiresInMs: 1_000, renewInMs: 1 }, reason: undefined },
    {
      name: 'one whose entry has other DNS names now',
      options: { expiresInMs: 1_000, entry: { dnsNames: ['a.example'] } },
      reason: 'changed',
    },
    {
      name: 'one whose entry has another lifetime now',
      options: { expiresInMs: 1_000, entry: { x509SvidTtlSeconds: 60 } },
      reason: 'changed',
    },
    {
      name: 'one whose entry changed in what is no part of the certificate',
      options: { expiresInMs: 1_000, entry: { hint: 'new', revision: 7, federatesWith: ['b.example'] } },
      reason: undefined,
    },
    { name: 'one for an SVID store', options: { entry: { storeSvid: true } }, reason: undefined },
    {
      name: 'one not made in advance that nobody watches',
      options: { entry: { disableX509SvidPrefetch: true } },
      reason: undefined,
    },
    {
      name: 'one not made in advance that somebody watches',
      options: { entry: { disableX509SvidPrefetch: true }, isWatched: true },
      reason: 'missing',
    },
  ])('$name: $reason', async ({ options, reason }) => {
    expect(dueSvids([await state('a', options)], issuedAtMs, undefined)[0]?.reason).toBe(reason);
  });

  test('are those below a tainted root too, the most used first, then by expiry, before those that would be renewed', async () => {
    const compromised = await TestTrustDomain.create();
    const by = compromised;
    const states = await Promise.all([
      state('renewal', { expiresInMs: 1_000, renewInMs: -1 }),
      state('unused-expires-late', { by, expiresInMs: 9_000 }),
      state('unused-expires-soon', { by, expiresInMs: 8_000 }),
      state('not-in-advance', { by, expiresInMs: 7_000, entry: { disableX509SvidPrefetch: true } }),
      state('changed-too', { by, expiresInMs: 9_000, users: 2, entry: { x509SvidTtlSeconds: 60 } }),
      state('expired', { by, expiresInMs: 0 }),
      state('sound', { expiresInMs: 9_000 }),
      state('used', { by, expiresInMs: 9_000, isWatched: true, users: 1 }),
      state('most-used', { by, expiresInMs: 9_000, isWatched: true, users: 7 }),
      state('waited-for', { isWatched: true, users: 1 }),
    ]);
    const both = bundleOf('example.org', [authority.root.certificate, compromised.root.certificate]);
    const bundle = both.withTainted([compromised.root.certificate.fingerprint]);
    expect(dueSvids(states, issuedAtMs, bundle).map(({ entry, reason }) => [entry.id, reason])).toEqual([
      ['waited-for', 'missing'],
      ['most-used', 'distrusted'],
      ['changed-too', 'distrusted'],
      ['used', 'distrusted'],
      ['not-in-advance', 'distrusted'],
      ['unused-expires-soon', 'distrusted'],
      ['unused-expires-late', 'distrusted'],
      ['renewal', 'renewal'],
      ['expired', 'missing'],
    ]);
  });

  test('come in the order of need: waited for, variants behind, then by expiry, then made in advance', async () => {
    const states = await Promise.all([
      state('in-advance'),
      state('variant', { isWatched: true, isVariant: true }),
      state('expires-late', { expiresInMs: 9_000, renewInMs: -1 }),
      state('waited-for', { isWatched: true }),
      state('expires-soon', { expiresInMs: 1_000, renewInMs: -1 }),
    ]);
    expect(dueSvids(states, issuedAtMs, undefined).map(({ entry }) => entry.id)).toEqual([
      'waited-for',
      'variant',
      'expires-soon',
      'expires-late',
      'in-advance',
    ]);
  });
});
