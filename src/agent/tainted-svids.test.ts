import { describe, expect, it } from 'vitest';
import { testStartMs } from '../testing/certificates.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../testing/trust-domain.ts';
import { distrustedUrgency, isDistrusted } from './tainted-svids.ts';

const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
const direct = await TestTrustDomain.create();
const deep = await TestTrustDomain.create('example.org', { withIntermediate: true });
const both = bundleOf('example.org', [direct.root.certificate, deep.root.certificate]);
const printOf = (domain: TestTrustDomain) => domain.root.certificate.fingerprint;

describe.each([
  { name: 'a root that signed it', domain: direct, other: deep },
  { name: 'a root above the certificate that signed it', domain: deep, other: direct },
])('an SVID below $name', ({ domain, other }) => {
  it.each([
    { standing: 'is tainted', bundle: both.withTainted([printOf(domain)]), expected: true },
    { standing: 'is gone', bundle: both.withoutAuthorities([printOf(domain)]), expected: true },
    { standing: 'is sound', bundle: both, expected: false },
    { standing: 'is sound, another tainted', bundle: both.withTainted([printOf(other)]), expected: false },
    {
      standing: 'is sound, another gone',
      bundle: both.withoutAuthorities([printOf(other)]),
      expected: false,
    },
    { standing: 'is not known yet', bundle: undefined, expected: false },
  ])('that $standing is to be replaced: $expected', async ({ bundle, expected }) => {
    const { svid } = await domain.sign(entry);
    expect(isDistrusted(svid, bundle, testStartMs)).toBe(expected);
  });
});

it('an SVID that was signed before the bundle said so is replaced at once, however young it is', async () => {
  const { svid } = await direct.sign(entry, { issuedAtMs: testStartMs - 1_000 });
  expect(isDistrusted(svid, both.withTainted([printOf(direct)]), testStartMs)).toBe(true);
});

it('an SVID is not replaced again and again when the server still signs below that root', async () => {
  const tainted = both.withTainted([printOf(direct)]);
  const { svid: before } = await direct.sign(entry, { issuedAtMs: testStartMs - 1_000 });
  expect(isDistrusted(before, tainted, testStartMs)).toBe(true);
  const { svid } = await direct.sign(entry, { issuedAtMs: testStartMs + 1_000 });
  expect(isDistrusted(svid, tainted, testStartMs + 2_000)).toBe(false);
  expect(isDistrusted(svid, tainted, testStartMs + 20_000)).toBe(false);
  expect(isDistrusted(svid, tainted, testStartMs + 21_000)).toBe(true);
});

it('the most used SVIDs are replaced first, after those that somebody waits for and before renewals', () => {
  const urgencies = [1000, 10, 1, 0].map(distrustedUrgency);
  expect(urgencies).toEqual(urgencies.toSorted((a, b) => a - b));
  expect(Math.min(...urgencies)).toBeGreaterThan(1);
  expect(Math.max(...urgencies)).toBeLessThan(testStartMs);
});
