import { beforeAll, describe, expect, it } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';
import { FederatedBundles } from './federated-bundles.ts';

const trustDomain = TrustDomain.parse('example.org');
const other = TrustDomain.parse('other.org');
let ours: TestTrustDomain;
let theirs: TestTrustDomain;

beforeAll(async () => {
  ours = await TestTrustDomain.create('example.org');
  theirs = await TestTrustDomain.create('other.org');
});

async function start(...stored: readonly Bundle[]) {
  const store = await openTestStore();
  for (const bundle of stored) await store.bundles.update(bundle.trustDomain, () => bundle);
  const load = () => FederatedBundles.load({ trustDomain, store: store.bundles, log: silentLogger });
  return { store, federated: await load(), load };
}

describe('the federated bundles', () => {
  it('are those that are stored, but for our own', async () => {
    const { federated } = await start(ours.bundle(), theirs.bundle());
    expect([...federated.byName.value.keys()]).toEqual(['other.org']);
    expect(federated.get(other).equals(theirs.bundle())).toBe(true);
    expect(() => federated.get(trustDomain)).toThrow('bundle not found');
  });

  it('are in memory what they are in the store, after changes that come at the same time', async () => {
    const { federated, load } = await start();
    const seen: number[] = [];
    federated.byName.subscribe(() => seen.push(federated.byName.value.size));
    await Promise.allSettled([
      federated.set(theirs.bundle(1)),
      federated.delete(other, 'restrict'),
      federated.create(theirs.bundle(2)),
      federated.create(theirs.bundle(3)),
      federated.update(other, (current) => current.withAuthority(ours.root.certificate)),
    ]);
    expect(federated.get(other).sequence).toBe(3n);
    expect((await load()).get(other).equals(federated.get(other))).toBe(true);
    expect(seen).toEqual([1, 0, 1, 1]);
  });

  it('stay as they are when a change fails', async () => {
    const { federated } = await start(theirs.bundle());
    const fails = federated.update(other, () => {
      throw new Error('no');
    });
    await expect(fails).rejects.toThrow('no');
    expect(federated.byName.version).toBe(0);
    await federated.set(theirs.bundle(5));
    expect(federated.get(other).sequence).toBe(5n);
  });

  it('never take the place of our own bundle', async () => {
    const { federated, store } = await start(ours.bundle(7));
    const refusal = { code: 'invalid-argument' };
    await expect(federated.set(ours.bundle(9))).rejects.toMatchObject(refusal);
    await expect(federated.create(ours.bundle(9))).rejects.toMatchObject(refusal);
    await expect(federated.update(trustDomain, (own) => own)).rejects.toMatchObject(refusal);
    await expect(federated.delete(trustDomain, 'delete')).rejects.toMatchObject(refusal);
    expect((await store.bundles.find(trustDomain))?.sequence).toBe(7n);
  });
});
