import { describe, expect, it } from 'vitest';
import type { DataStore, EntryCreation } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { boom, newEntry, type OpenHarness } from './samples.ts';

/** What every store of registration entries must do. */
export function describeEntryStore(open: OpenHarness): void {
  describe('entries', () => {
    describesEntryCreation(open);
    describesEntryChanges(open);
    describesEntryBatches(open);
    describesEntryLists(open);
  });
}

const web = SpiffeId.parse('spiffe://example.org/web');
const db = SpiffeId.parse('spiffe://example.org/db');
const otherAgent = SpiffeId.parse('spiffe://example.org/spire/agent/join_token/b');
const refusal = (code: string) => expect.objectContaining({ code });

/** The result of a batch of one; a refusal fails the test. */
function only<T extends object>(results: readonly (T | AppError)[]): T {
  const [result] = results;
  if (result === undefined || results.length > 1) throw new Error(`${results.length} results`);
  if (result instanceof AppError) throw result;
  return result as T;
}

const create = async (store: DataStore, entry: NewEntry): Promise<EntryCreation> =>
  only(await store.entries.create([entry]));

const update = async (
  store: DataStore,
  id: string,
  change: (current: RegistrationEntry) => NewEntry,
): Promise<RegistrationEntry> => only(await store.entries.update([{ id, change }]));

function describesEntryCreation(open: OpenHarness): void {
  it('come back as they were stored, also after a restart', async () => {
    const { store, reopen } = await open();
    const { entry, created } = await create(store, newEntry());
    expect(created).toBe(true);
    expect(entry).toEqual({ ...newEntry(), revision: 0, createdAt: entry.createdAt });
    expect(entry.createdAt).toBeGreaterThan(0);
    expect(await store.entries.list()).toEqual([entry]);
    expect(await (await reopen()).entries.list()).toEqual([entry]);
  });

  it('have their selectors in one order, each once', async () => {
    const { store } = await open();
    const selectors = ['b:1', 'a:1', 'b:1'].map(parseSelector);
    const { entry } = await create(store, newEntry({ selectors }));
    expect(entry.selectors).toEqual(['a:1', 'b:1'].map(parseSelector));
    const changed = await update(store, 'e1', (current) => ({
      ...current,
      selectors: [...selectors, ...selectors],
    }));
    expect(changed.selectors).toEqual(entry.selectors);
    expect(await store.entries.list()).toEqual([changed]);
  });

  it('are not stored twice: the first one is returned, whatever the order of selectors and the other fields', async () => {
    const { store } = await open();
    const { entry } = await create(store, newEntry());
    const again = newEntry({ id: 'e2', selectors: [...newEntry().selectors].reverse(), hint: 'other' });
    expect(await create(store, again)).toEqual({ entry, created: false });
    expect(await store.entries.list()).toEqual([entry]);
  });

  it.each<{ name: string; change: Partial<NewEntry> }>([
    { name: 'SPIFFE ID', change: { spiffeId: db } },
    { name: 'parent', change: { parentId: SpiffeId.parse('spiffe://example.org/spire/server') } },
    { name: 'selectors', change: { selectors: [parseSelector('unix:uid:1000')] } },
  ])('with another $name are other entries', async ({ change }) => {
    const { store } = await open();
    await create(store, newEntry());
    expect(await create(store, newEntry({ id: 'e2', ...change }))).toMatchObject({ created: true });
  });

  it('of which only one is stored when equal ones come at the same time', async () => {
    const { store } = await open();
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) => create(store, newEntry({ id: `e${i}` }))),
    );
    expect(results.filter(({ created }) => created)).toHaveLength(1);
    expect(new Set(results.map(({ entry }) => entry.id)).size).toBe(1);
  });

  it('are refused when the id is taken by another one', async () => {
    const { store } = await open();
    await create(store, newEntry());
    await expect(create(store, newEntry({ spiffeId: db }))).rejects.toMatchObject({ code: 'already-exists' });
  });
}

function describesEntryChanges(open: OpenHarness): void {
  it('count their changes and keep their creation time', async () => {
    const { store } = await open();
    const { entry } = await create(store, newEntry());
    const changed = await update(store, 'e1', (current) => ({ ...current, hint: 'new', dnsNames: [] }));
    expect(changed).toEqual({ ...entry, hint: 'new', dnsNames: [], revision: 1 });
    expect((await update(store, 'e1', (current) => current)).revision).toBe(2);
    expect(await store.entries.list()).toEqual([{ ...changed, revision: 2 }]);
  });

  it('lose no change when many come at the same time', async () => {
    const { store } = await open();
    await create(store, newEntry({ hint: '' }));
    const append = (n: number) => update(store, 'e1', (e) => ({ ...e, hint: `${e.hint}${n}` }));
    await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(append));
    const [{ hint, revision }] = (await store.entries.list()) as [RegistrationEntry];
    expect([...hint].sort().join('')).toBe('01234567');
    expect(revision).toBe(8);
  });

  it('cannot be changed into another entry, or when they are not there', async () => {
    const { store } = await open();
    await store.entries.create([newEntry(), newEntry({ id: 'e2', spiffeId: db })]);
    const before = await store.entries.list();
    const results = await store.entries.update([
      { id: 'e1', change: (current) => ({ ...current, spiffeId: db }) },
      { id: 'e1', change: (current) => ({ ...current, id: 'e3' }) },
      { id: 'e9', change: (current) => current },
    ]);
    expect(results).toEqual(['already-exists', 'invalid-argument', 'not-found'].map(refusal));
    expect(await store.entries.list()).toEqual(before);
  });

  it('are returned by their deletion, once', async () => {
    const { store } = await open();
    const { entry } = await create(store, newEntry());
    expect(await store.entries.delete(['e1', 'e1'])).toEqual([entry, undefined]);
    expect(await store.entries.delete(['e1'])).toEqual([undefined]);
    expect(await store.entries.list()).toEqual([]);
  });
}

function describesEntryBatches(open: OpenHarness): void {
  it('are stored in one batch, where those that cannot be do not disturb the others', async () => {
    const { store } = await open();
    const results = await store.entries.create([
      newEntry({ id: 'a' }),
      newEntry({ id: 'b' }),
      newEntry({ id: 'a', spiffeId: db }),
      newEntry({ id: 'c', spiffeId: db }),
    ]);
    const [a, c] = await store.entries.list();
    expect(results).toEqual([
      { entry: a, created: true },
      { entry: a, created: false },
      refusal('already-exists'),
      { entry: c, created: true },
    ]);
    expect([a?.id, c?.id]).toEqual(['a', 'c']);
    expect(await store.entries.create([])).toEqual([]);
  });

  it('see in one batch of changes what the ones before have done', async () => {
    const { store } = await open();
    await store.entries.create([newEntry({ id: 'a' }), newEntry({ id: 'b', spiffeId: db })]);
    const results = await store.entries.update([
      { id: 'a', change: (e) => ({ ...e, spiffeId: otherAgent }) },
      { id: 'b', change: (e) => ({ ...e, spiffeId: web, hint: 'moved' }) },
      { id: 'b', change: boom },
      { id: 'b', change: (e) => ({ ...e, hint: `${e.hint} twice` }) },
    ]);
    expect(results).toMatchObject([
      { id: 'a', revision: 1 },
      { id: 'b', revision: 1, hint: 'moved' },
      { code: 'aborted' },
      { id: 'b', revision: 2, hint: 'moved twice', spiffeId: web },
    ]);
    expect(await store.entries.list()).toEqual([results[0], results[3]]);
  });

  it('stay as they were, all of them, when something breaks in the middle', async () => {
    const { store } = await open();
    await create(store, newEntry());
    const before = await store.entries.list();
    const broken = store.entries.update([
      { id: 'e1', change: (current) => ({ ...current, hint: 'new' }) },
      { id: 'e1', change: () => JSON.parse('{') },
    ]);
    await expect(broken).rejects.toMatchObject({ code: 'internal' });
    expect(await store.entries.list()).toEqual(before);
  });
}

function describesEntryLists(open: OpenHarness): void {
  it.each([
    { name: 'all', query: {}, ids: ['A', 'a', 'b', 'c'] },
    { name: 'those below a parent', query: { parentId: otherAgent }, ids: ['c'] },
    { name: 'those below nobody', query: { parentId: web }, ids: [] },
  ])('are listed in order of id: $name', async ({ query, ids }) => {
    const { store } = await open();
    await store.entries.create([
      newEntry({ id: 'c', parentId: otherAgent }),
      newEntry({ id: 'a' }),
      newEntry({ id: 'b', spiffeId: db }),
      newEntry({ id: 'A', selectors: [parseSelector('a:b')] }),
    ]);
    expect((await store.entries.list(query)).map((entry) => entry.id)).toEqual(ids);
  });
}
