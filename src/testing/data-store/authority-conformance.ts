import { describe, expect, it } from 'vitest';
import type { AuthorityRecord, DataStore } from '../../plugin-api/data-store.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { boom, emptyBundle, makeRoot, type OpenHarness, ours } from './samples.ts';

/** What every journal of signing certificates must do. */
export function describeAuthorityStore(open: OpenHarness): void {
  describe('the authority journal', () => {
    describesPreparation(open);
    describesActivation(open);
    describesMarks(open);
    describesRetiredKeys(open);
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
    role: 'signing',
    chain: [],
    upstreamKeyId: '',
    taintedAtMs: undefined,
    revokedAtMs: undefined,
    svidsEndByMs: undefined,
  };
}

const addRoot = (record: AuthorityRecord) => (current: Bundle | undefined) =>
  (current ?? emptyBundle()).withAuthority(record.certificate);

function describesPreparation(open: OpenHarness): void {
  it('is written together with the bundle, and is there after a restart', async () => {
    const { store, reopen } = await open();
    const plain = await authority('1');
    const chain = [plain.certificate, await makeRoot('2')];
    const record: AuthorityRecord = { ...plain, chain, upstreamKeyId: 'ab', svidsEndByMs: 7 };
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

  it('keeps one active authority of each role', async () => {
    const { store } = await open();
    const signing = await authority('1');
    const root: AuthorityRecord = { ...(await authority('2')), role: 'root' };
    for (const record of [signing, root]) await store.authorities.prepare(record, ours, addRoot(record));
    await store.authorities.activate('id-1', 10);
    await store.authorities.activate('id-2', 20);
    expect((await states(store.authorities)).map(([, state]) => state)).toEqual(['active', 'active']);
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
    const both = store.forget(['id-2', 'id-1'], 1);
    await expect(both).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(await states(store)).toHaveLength(2);
    await store.forget(['id-2', 'id-3'], 1);
    expect((await states(store)).map(([id]) => id)).toEqual(['id-1']);
  });
}

function describesMarks(open: OpenHarness): void {
  it('takes taint and revocation together with the bundle, and no other change of a record', async () => {
    const { store } = await open();
    const record = await authority('1');
    await store.authorities.prepare(record, ours, addRoot(record));
    const tainted: AuthorityRecord = { ...record, keyId: 'other', taintedAtMs: 5, revokedAtMs: 6 };
    const foreign: AuthorityRecord = {
      ...(await authority('2')),
      role: 'root',
      state: 'old',
      keyId: '',
      taintedAtMs: 7,
    };
    const bundle = await store.authorities.mark([tainted, foreign], ours, () => emptyBundle(9));
    expect(bundle.sequence).toBe(9n);
    expect((await store.authorities.list()).map(comparable)).toEqual([
      comparable({ ...record, taintedAtMs: 5, revokedAtMs: 6 }),
      comparable(foreign),
    ]);
    const failing = store.authorities.mark([{ ...record, taintedAtMs: 8 }], ours, boom);
    await expect(failing).rejects.toMatchObject({ code: 'aborted' });
    expect((await store.authorities.list())[0]?.taintedAtMs).toBe(5);
  });

  it('remembers the latest end of what was signed, and does not invent one', async () => {
    const { store } = await open();
    const known = { ...(await authority('1')), svidsEndByMs: 100 };
    const unknown = await authority('2');
    for (const record of [known, unknown]) await store.authorities.prepare(record, ours, addRoot(record));
    for (const endByMs of [300, 200]) {
      await store.authorities.extendSvids('id-1', endByMs);
      await store.authorities.extendSvids('id-2', endByMs);
    }
    expect((await store.authorities.list()).map((record) => record.svidsEndByMs)).toEqual([300, undefined]);
  });
}

function describesRetiredKeys(open: OpenHarness): void {
  const keysOf = async (store: DataStore) =>
    (await store.keys.retired()).map(({ role, keyId, retiredAtMs }) => [role, keyId, retiredAtMs]);

  it('lists the key of a forgotten record in the same transaction, until it is destroyed', async () => {
    const { store, reopen } = await open();
    const record = await authority('1');
    await store.authorities.prepare(record, ours, addRoot(record));
    await expect(store.keys.retire({ ...record, retiredAtMs: 1 })).rejects.toMatchObject({
      code: 'failed-precondition',
    });
    await store.authorities.forget([record.id], 20);
    const again = await reopen();
    expect(await keysOf(again)).toEqual([['signing', 'x509-ca-a', 20]]);
    await again.keys.retire({ ...record, retiredAtMs: 30 });
    expect(await keysOf(again)).toEqual([['signing', 'x509-ca-a', 20]]);
    await again.keys.noteDestroyed({ role: 'root', publicKey: record.publicKey });
    expect(await keysOf(again)).toHaveLength(1);
    await again.keys.noteDestroyed(record);
    expect(await keysOf(again)).toEqual([]);
  });

  it("has nothing to list for a record whose key is somebody else's", async () => {
    const { store } = await open();
    const foreign: AuthorityRecord = { ...(await authority('1')), role: 'root', state: 'old', keyId: '' };
    await store.authorities.mark([foreign], ours, () => emptyBundle());
    await store.authorities.forget([foreign.id], 20);
    expect(await keysOf(store)).toEqual([]);
  });
}

function comparable({ certificate, publicKey, chain, ...rest }: AuthorityRecord) {
  const fingerprints = [certificate, ...chain].map(({ fingerprint }) => fingerprint);
  return { ...rest, fingerprints, publicKey: Buffer.from(publicKey).toString('hex') };
}
