import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EntryStore } from '../../plugin-api/data-store.ts';
import { type AppError, isAppError } from '../../runtime/error.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { Entries } from './entries.ts';
import { EntryIndex } from './entry-index.ts';

const trustDomain = TrustDomain.parse('example.org');
const id = (path: string) => SpiffeId.of(trustDomain, path);
const agent = { id: id('/spire/agent/test'), selectors: [] };
const now = 1_800_000_000;

function newEntry(fields: Parameters<typeof testEntry>[0] = {}): NewEntry {
  const { createdAt: _, revision: __, ...entry } = testEntry(fields);
  return entry;
}

async function registry(store?: EntryStore) {
  const kept = store ?? (await openTestStore()).entries;
  const index = new EntryIndex(trustDomain);
  const entries = new Entries({ trustDomain, store: kept, index });
  await entries.load();
  return { store: kept, index, entries };
}

/** The result of a batch of one; throws what it was refused with. */
async function only<T extends object>(results: Promise<readonly (T | AppError)[]>): Promise<T> {
  const [result] = await results;
  if (result === undefined || isAppError(result)) throw result;
  return result as T;
}

async function expectAgreement({ store, index }: { store: EntryStore; index: EntryIndex }) {
  const stored = await store.list();
  expect(stored.map((entry) => index.find(entry.id))).toEqual(stored);
  expect(index.size).toBe(stored.length);
}

const anyId = fc.constantFrom('a', 'b', 'c');
const anyWorkload = fc.constantFrom('spiffe://example.org/x', 'spiffe://example.org/y');
/** The server is no workload: some of these changes are refused. */
const anyFields = fc.record({
  spiffeId: fc.oneof({ weight: 9, arbitrary: anyWorkload }, fc.constant('spiffe://example.org/spire/server')),
  hint: fc.constantFrom('', 'one', 'two'),
});
const anyItems = fc.array(fc.record({ id: anyId, fields: anyFields }), { minLength: 1, maxLength: 4 });
const anyBatch = fc.record({
  kind: fc.constantFrom('create' as const, 'update' as const, 'delete' as const, 'adopt' as const),
  items: anyItems,
});

describe('the registry', () => {
  it('never lets store and index disagree, whatever changes come at the same time', async () => {
    const { store } = await registry();
    await fc.assert(
      fc.asyncProperty(fc.array(anyBatch, { minLength: 1, maxLength: 10 }), async (batches) => {
        const { entries, index } = await registry(store);
        const apply = ({ kind, items }: (typeof batches)[number]): Promise<unknown> => {
          switch (kind) {
            case 'create':
              return entries.create(items.map(({ id, fields }) => newEntry({ id, ...fields })));
            case 'update':
              return entries.update(
                items.map(({ id, fields }) => ({ id, change: () => newEntry({ id, ...fields }) })),
              );
            case 'delete':
              return entries.delete(items.map((item) => item.id));
            case 'adopt':
              return entries.adoptBelow(agent.id);
          }
        };
        await Promise.all(batches.map(apply));
        await expectAgreement({ store, index });
      }),
      { numRuns: 60 },
    );
  });

  it('takes over changes in the order of the store, even when an answer of the store is late', async () => {
    const { store } = await registry();
    const gate = Promise.withResolvers<void>();
    let isFirst = true;
    const slow: EntryStore = {
      create: (wanted) => store.create(wanted),
      delete: (ids) => store.delete(ids),
      list: (query) => store.list(query),
      update: async (changes) => {
        const wasFirst = isFirst;
        isFirst = false;
        const updated = await store.update(changes);
        if (wasFirst) await gate.promise;
        return updated;
      },
    };
    const { entries, index } = await registry(slow);
    await entries.create([newEntry()]);
    const first = entries.update([{ id: 'entry-1', change: (current) => ({ ...current, hint: 'first' }) }]);
    const second = entries.delete(['entry-1']);
    // SQLite answers within a turn: without order the deletion would be through by now.
    await nextTurn();
    gate.resolve();
    await Promise.all([first, second]);
    await expectAgreement({ store, index });
    expect(index.size).toBe(0);
  });

  it('knows after a restart what was stored', async () => {
    const before = await registry();
    await before.entries.create([newEntry()]);
    const after = await registry(before.store);
    expect(after.entries.get('entry-1')).toEqual(before.entries.get('entry-1'));
    expect(after.index.isAuthorized(agent, 'entry-1', now)).toBe(true);
  });

  describe('creates an entry', () => {
    it('with an id of its own when none is given, and selectors in canonical order', async () => {
      const { entries, index } = await registry();
      const selectors = ['unix:uid:2', 'unix:gid:1', 'unix:uid:2'].map(parseSelector);
      const { entry, created } = await only(entries.create([{ ...newEntry({ id: '' }), selectors }]));
      expect(created).toBe(true);
      expect(entry).toMatchObject({
        revision: 0,
        selectors: ['unix:gid:1', 'unix:uid:2'].map(parseSelector),
      });
      expect(entry.id).toMatch(/^[0-9a-f-]{36}$/);
      expect(index.find(entry.id)).toEqual(entry);
    });

    it('but returns the one that is equal, unchanged', async () => {
      const { entries, ...both } = await registry();
      const { entry } = await only(entries.create([newEntry({ hint: 'first' })]));
      const again = entries.create([newEntry({ id: '', hint: 'second' })]);
      expect(await again).toEqual([{ entry, created: false }]);
      await expectAgreement(both);
    });

    it('but not when its id is taken', async () => {
      const { entries, ...both } = await registry();
      await entries.create([newEntry()]);
      const other = newEntry({ spiffeId: 'spiffe://example.org/other' });
      expect(await entries.create([other])).toMatchObject([{ code: 'already-exists' }]);
      await expectAgreement(both);
    });

    it('but not when a rule forbids it', async () => {
      const { entries, store } = await registry();
      const results = await entries.create([newEntry({ selectors: [] }), newEntry({ id: 'good' })]);
      expect(results).toMatchObject([{ code: 'invalid-argument' }, { created: true }]);
      expect((await store.list()).map((entry) => entry.id)).toEqual(['good']);
    });
  });

  describe('updates an entry', () => {
    it('for the store and the agents alike, and counts its revision', async () => {
      const { entries, index, store } = await registry();
      await entries.create([newEntry()]);
      const move = (current: RegistrationEntry) => ({ ...current, parentId: id('/elsewhere') });
      const moved = await only(entries.update([{ id: 'entry-1', change: move }]));
      expect(moved).toMatchObject({ revision: 1, createdAt: entries.get('entry-1').createdAt });
      expect(index.isAuthorized(agent, 'entry-1', now)).toBe(false);
      await expectAgreement({ store, index });
    });

    it.each<{ name: string; change: Partial<NewEntry>; code: string }>([
      { name: 'it would equal another', change: { spiffeId: id('/other') }, code: 'already-exists' },
      { name: 'a rule forbids it', change: { spiffeId: id('/spire/server') }, code: 'invalid-argument' },
      { name: 'it would get another id', change: { id: 'entry-3' }, code: 'invalid-argument' },
    ])('but not when $name', async ({ change, code }) => {
      const { entries, index, store } = await registry();
      const { entry } = await only(entries.create([newEntry()]));
      await entries.create([newEntry({ id: 'entry-2', spiffeId: 'spiffe://example.org/other' })]);
      const update = entries.update([{ id: 'entry-1', change: (current) => ({ ...current, ...change }) }]);
      expect(await update).toMatchObject([{ code }]);
      expect(entries.get('entry-1')).toEqual(entry);
      await expectAgreement({ store, index });
    });
  });

  it('deletes an entry for good', async () => {
    const { entries, index, store } = await registry();
    const { entry } = await only(entries.create([newEntry()]));
    expect(await entries.delete(['entry-1'])).toEqual([entry]);
    expect(index.isAuthorized(agent, 'entry-1', now)).toBe(false);
    expect(await store.list()).toEqual([]);
  });

  it.each<{ name: string; change: (entries: Entries) => unknown }>([
    { name: 'getting', change: (entries) => entries.get('nobody') },
    { name: 'updating', change: (entries) => only(entries.update([{ id: 'nobody', change: (e) => e }])) },
    { name: 'deleting', change: (entries) => only(entries.delete(['nobody'])) },
  ])('answers not found to $name an entry that is not there, and goes on', async ({ change }) => {
    const { entries } = await registry();
    await expect(async () => change(entries)).rejects.toMatchObject({ code: 'not-found' });
    expect(await entries.create([newEntry()])).toMatchObject([{ created: true }]);
  });

  it('deletes entries that have expired, however many, and no others', async () => {
    const { store, index, entries } = await registry();
    const ending = (name: string, expiresAt: number) =>
      newEntry({ id: name, spiffeId: `spiffe://example.org/${name}`, expiresAt });
    await entries.create(Array.from({ length: 1203 }, (_, i) => ending(`e${i}`, now - i)));
    await entries.create([ending('ends-later', now + 1), ending('never-ends', 0)]);
    expect(await entries.prune(now)).toHaveLength(1203);
    expect((await store.list()).map(({ id }) => id).sort()).toEqual(['ends-later', 'never-ends']);
    await expectAgreement({ store, index });
  });

  it('keeps an expired entry whose end was put off before its turn', async () => {
    const { store, entries } = await registry();
    await entries.create([newEntry({ id: 'a', expiresAt: now })]);
    const later = newEntry({ id: 'a', expiresAt: now + 60 });
    const [, pruned] = await Promise.all([
      entries.update([{ id: 'a', change: () => later }]),
      entries.prune(now),
    ]);
    expect(pruned).toEqual([]);
    expect(await store.list()).toMatchObject([{ id: 'a' }]);
  });

  it('takes over what another transaction has stored below a parent', async () => {
    const { entries, index, store } = await registry();
    await store.create([newEntry()]);
    await store.create([newEntry({ id: 'elsewhere', parentId: id('/elsewhere') })]);
    await entries.adoptBelow(agent.id);
    expect(index.isAuthorized(agent, 'entry-1', now)).toBe(true);
    expect(index.size).toBe(1);
  });

  it('takes over what another room’s transaction did, in its turn', async () => {
    const { entries, index, store } = await registry();
    await entries.create([newEntry(), newEntry({ id: 'gone', spiffeId: 'spiffe://example.org/other' })]);
    const outcome = entries.changeWith(async () => {
      const changed = await store.update([{ id: 'entry-1', change: (e) => ({ ...e, hint: 'theirs' }) }]);
      await store.delete(['gone']);
      return {
        changed: changed.flatMap((result) => (isAppError(result) ? [] : result)),
        deletedIds: ['gone'],
        more: 1,
      };
    });
    const later = entries.update([
      { id: 'entry-1', change: (e) => ({ ...e, hint: `${e.hint}, then ours` }) },
    ]);
    expect(await outcome).toMatchObject({ deletedIds: ['gone'], more: 1 });
    expect(await later).toMatchObject([{ hint: 'theirs, then ours', revision: 2 }]);
    await expectAgreement({ store, index });
  });

  it('stays as it was when another room’s transaction fails, and goes on', async () => {
    const { entries, index, store } = await registry();
    const failed = entries.changeWith(() => Promise.reject(new Error('disk full')));
    await expect(failed).rejects.toThrow('disk full');
    await entries.create([newEntry()]);
    await expectAgreement({ store, index });
  });
});
