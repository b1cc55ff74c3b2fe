import { describe, expect, it } from 'vitest';
import type { AuthorityRecord, DataStore } from '../../plugin-api/data-store.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { boom, emptyBundle, makeRoot, type OpenHarness, ours } from './samples.ts';

/** What every journal of signing certificates must do. */
export function describeAuthorityStore(open: OpenHarness): void {
  describe('the authority journal', () => {
    describesPreparation(open);
    describesActivation(open);
  });
}

async function authority(name: string): Promise<AuthorityRecord> {
  const certificate = await makeRoot(name);
  return {
    id: `id-${name}`,
    keyId: 'x509-ca-a',
    publicKey: certificate.spki,
    certificate,
    state: 'prepared',
    preparedAtMs: 1_700_000_000_123 + Number(name),
    activatedAtMs: undefined,
  };
}

const addRoot = (record: AuthorityRecord) => (current: Bundle | undefined) =>
  (current ?? emptyBundle()).withAuthority(record.certificate);

function describesPreparation(open: OpenHarness): void {
  it('is written together with the bundle, and is there after a restart', async () => {
    const { store, reopen } = await open();
    const record = await authority('1');
    const bundle = await store.authorities.prepare(record, ours, addRoot(record));
    expect(bundle.certificates().map((c) => c.fingerprint)).toEqual([record.certificate.fingerprint]);
    const again = await reopen();
    expect((await again.authorities.list()).map(comparable)).toEqual([comparable(record)]);
    expect((await again.bundles.find(ours))?.equals(bundle)).toBe(true);
  });

  it('has neither part when the other fails', async () => {
    const { store } = await open();
    const record = await authority('1');
    await expect(store.authorities.prepare(record, ours, boom)).rejects.toMatchObject({ code: 'aborted' });
    expect(await store.authorities.list()).toEqual([]);
    await store.authorities.prepare(record, ours, addRoot(record));
    const twice = store.authorities.prepare(record, ours, () => emptyBundle(9));
    await expect(twice).rejects.toMatchObject({ code: 'already-exists' });
    expect((await store.bundles.find(ours))?.sequence).toBe(1n);
  });

  it('takes only authorities that do not sign yet', async () => {
    const { store } = await open();
    const record: AuthorityRecord = { ...(await authority('1')), state: 'active', activatedAtMs: 1 };
    const active = store.authorities.prepare(record, ours, addRoot(record));
    await expect(active).rejects.toMatchObject({ code: 'invalid-argument' });
  });
}

function describesActivation(open: OpenHarness): void {
  async function withTwo() {
    const harness = await open();
    for (const name of ['2', '1']) {
      const record = await authority(name);
      await harness.store.authorities.prepare(record, ours, addRoot(record));
    }
    return harness.store.authorities;
  }
  const states = async (store: DataStore['authorities']) =>
    (await store.list()).map(({ id, state, activatedAtMs }) => [id, state, activatedAtMs]);

  it('makes the one that was active old; the list is in order of preparation', async () => {
    const store = await withTwo();
    await store.activate('id-1', 10);
    await store.activate('id-2', 20);
    expect(await states(store)).toEqual([
      ['id-1', 'old', 10],
      ['id-2', 'active', 20],
    ]);
    await store.activate('id-2', 30);
    expect((await states(store))[1]).toEqual(['id-2', 'active', 20]);
  });

  it('takes an old authority back, and refuses one that is not known', async () => {
    const store = await withTwo();
    await store.activate('id-1', 10);
    await store.activate('id-2', 20);
    await expect(store.activate('id-3', 30)).rejects.toMatchObject({ code: 'not-found' });
    await store.activate('id-1', 30);
    expect((await states(store)).map(([, state]) => state)).toEqual(['active', 'old']);
  });

  it('forgets records, but never the active one', async () => {
    const store = await withTwo();
    await store.activate('id-1', 10);
    const both = store.forget(['id-2', 'id-1']);
    await expect(both).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(await states(store)).toHaveLength(2);
    await store.forget(['id-2', 'id-3']);
    expect((await states(store)).map(([id]) => id)).toEqual(['id-1']);
  });
}

function comparable({ certificate, publicKey, ...rest }: AuthorityRecord) {
  return { ...rest, fingerprint: certificate.fingerprint, publicKey: Buffer.from(publicKey).toString('hex') };
}
