import { describe, expect, it } from 'vitest';
import { testStartMs } from '../testing/certificates.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../testing/trust-domain.ts';
import { isBelowTainted, taintedUrgency } from './tainted-svids.ts';

const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
const direct = await TestTrustDomain.create();
const deep = await TestTrustDomain.create('example.org', { withIntermediate: true });
const both = bundleOf('example.org', [direct.root.certificate, deep.root.certificate]);

describe('an SVID below a tainted root', () => {
  it.each([
    { name: 'that signed it', domain: direct },
    { name: 'above the certificate that signed it', domain: deep },
  ])('$name is to be replaced, others are not', async ({ domain }) => {
    const { svid } = await domain.sign(entry);
    const other = domain === direct ? deep : direct;
    const taint = (root: typeof domain) => both.withTainted([root.root.certificate.fingerprint]);
    expect(isBelowTainted(svid, both, testStartMs)).toBe(false);
    expect(isBelowTainted(svid, undefined, testStartMs)).toBe(false);
    expect(isBelowTainted(svid, taint(other), testStartMs)).toBe(false);
    expect(isBelowTainted(svid, taint(domain), testStartMs)).toBe(true);
  });

  it('is not replaced again and again when the server still signs with it', async () => {
    const { svid } = await direct.sign(entry, { issuedAtMs: testStartMs });
    const tainted = both.withTainted([direct.root.certificate.fingerprint]);
    expect(isBelowTainted(svid, tainted, testStartMs + 19_000)).toBe(false);
    expect(isBelowTainted(svid, tainted, testStartMs + 21_000)).toBe(true);
  });
});

it('the most used SVIDs are replaced first, after those that somebody waits for and before renewals', () => {
  const urgencies = [1000, 10, 1, 0].map(taintedUrgency);
  expect(urgencies).toEqual(urgencies.toSorted((a, b) => a - b));
  expect(Math.min(...urgencies)).toBeGreaterThan(1);
  expect(Math.max(...urgencies)).toBeLessThan(testStartMs);
});
