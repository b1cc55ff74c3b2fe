import { describe, expect, it } from 'vitest';
import { Bundle } from '../../spiffe/bundle.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { boom, emptyBundle, makeRoot, type OpenHarness, ours } from './samples.ts';

/** What every store of trust bundles must do. */
export function describeBundleStore(open: OpenHarness): void {
  describe('bundles', () => describesBundles(open));
}

function describesBundles(open: OpenHarness): void {
  it('come back as they were stored, also after a restart', async () => {
    const { store, reopen } = await open();
    const [first, second] = [await makeRoot('1'), await makeRoot('2')];
    const x509Authorities = [
      { certificate: second, tainted: false },
      { certificate: first, tainted: true },
    ];
    const bundle = new Bundle({ trustDomain: ours, x509Authorities, sequence: 41, refreshHintSeconds: 300 });
    expect(await store.bundles.update(ours, () => bundle)).toBe(bundle);
    const found = await (await reopen()).bundles.find(ours);
    expect(found?.x509Authorities.map(fingerprintAndTaint)).toEqual(x509Authorities.map(fingerprintAndTaint));
    expect(found).toMatchObject({ sequence: 41, refreshHintSeconds: 300 });
  });

  it('are kept apart by trust domain', async () => {
    const { store } = await open();
    await store.bundles.update(ours, () => emptyBundle());
    expect(await store.bundles.find(TrustDomain.parse('example.com'))).toBeUndefined();
    const wrong = store.bundles.update(TrustDomain.parse('example.com'), () => emptyBundle());
    await expect(wrong).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.bundles.find(TrustDomain.parse('example.com'))).toBeUndefined();
  });

  it('lose no authority when several are added at the same time', async () => {
    const { store } = await open();
    const roots = await Promise.all(['1', '2', '3', '4'].map(makeRoot));
    const add = (root: Certificate) =>
      store.bundles.update(ours, (current) => (current ?? emptyBundle()).withAuthority(root));
    await Promise.all(roots.map(add));
    const found = await store.bundles.find(ours);
    const fingerprints = (list: readonly Certificate[]) => new Set(list.map((c) => c.fingerprint));
    expect(fingerprints(found?.certificates() ?? [])).toEqual(fingerprints(roots));
    expect(found?.sequence).toBe(4);
  });

  it('stay as they were when the change throws', async () => {
    const { store } = await open();
    await store.bundles.update(ours, () => emptyBundle(3));
    await expect(store.bundles.update(ours, boom)).rejects.toMatchObject({ code: 'aborted' });
    expect((await store.bundles.find(ours))?.sequence).toBe(3);
  });
}

function fingerprintAndTaint(authority: { readonly certificate: Certificate; readonly tainted: boolean }) {
  return [authority.certificate.fingerprint, authority.tainted];
}
