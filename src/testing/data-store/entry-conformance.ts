import { describe, expect, it } from 'vitest';
import type { NewEntry } from '../../spiffe/registration-entry.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { boom, newEntry, type OpenHarness } from './samples.ts';

/** What every store of registration entries must do. */
export function describeEntryStore(open: OpenHarness): void {
  describe('entries', () => {
    describesEntryCreation(open);
    describesEntryChanges(open);
    describesEntryLists(open);
  });
}

function describesEntryCreation(open: OpenHarness): void {
  it('come back as they were stored, also after a restart', async () => {
    const { store, reopen } = await open();
    const { entry, created } = await store.entries.create(newEntry());
    expect(created).toBe(true);
    expect(entry).toEqual({ ...newEntry(), revision: 0, createdAt: entry.createdAt });
    expect(entry.createdAt).toBeGreaterThan(0);
    expect(await store.entries.find('e1')).toEqual(entry);
    expect(await (await reopen()).entries.find('e1')).toEqual(entry);
  });

  it('are not stored twice: the first one is returned, whatever the order of selectors and the other fields', async () => {
    const { store } = await open();
    const { entry } = await store.entries.create(newEntry());
    const again = newEntry({ id: 'e2', selectors: [...newEntry().selectors].reverse(), hint: 'other' });
    expect(await store.entries.create(again)).toEqual({ entry, created: false });
    expect(await store.entries.list({})).toEqual([entry]);
  });

  it.each<{ name: string; change: Partial<NewEntry> }>([
    { name: 'SPIFFE ID', change: { spiffeId: SpiffeId.parse('spiffe://example.org/db') } },
    { name: 'parent', change: { parentId: SpiffeId.parse('spiffe://example.org/spire/server') } },
    { name: 'selectors', change: { selectors: [parseSelector('unix:uid:1000')] } },
  ])('with another $name are other entries', async ({ change }) => {
    const { store } = await open();
    await store.entries.create(newEntry());
    expect(await store.entries.create(newEntry({ id: 'e2', ...change }))).toMatchObject({ created: true });
  });

  it('of which only one is stored when equal ones come at the same time', async () => {
    const { store } = await open();
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, i) => store.entries.create(newEntry({ id: `e${i}` }))),
    );
    expect(results.filter(({ created }) => created)).toHaveLength(1);
    expect(new Set(results.map(({ entry }) => entry.id)).size).toBe(1);
  });

  it('are refused when the id is taken by another one', async () => {
    const { store } = await open();
    await store.entries.create(newEntry());
    const other = newEntry({ spiffeId: SpiffeId.parse('spiffe://example.org/db') });
    await expect(store.entries.create(other)).rejects.toMatchObject({ code: 'already-exists' });
  });
}

function describesEntryChanges(open: OpenHarness): void {
  it('count their changes and keep their creation time', async () => {
    const { store } = await open();
    const { entry } = await store.entries.create(newEntry());
    const changed = await store.entries.update('e1', (current) => ({
      ...current,
      hint: 'new',
      dnsNames: [],
    }));
    expect(changed).toEqual({ ...entry, hint: 'new', dnsNames: [], revision: 1 });
    expect((await store.entries.update('e1', (current) => current)).revision).toBe(2);
    expect(await store.entries.find('e1')).toEqual({ ...changed, revision: 2 });
  });

  it('lose no change when many come at the same time', async () => {
    const { store } = await open();
    await store.entries.create(newEntry({ hint: '' }));
    const append = (n: number) => store.entries.update('e1', (e) => ({ ...e, hint: `${e.hint}${n}` }));
    await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(append));
    const { hint = '', revision } = (await store.entries.find('e1')) ?? {};
    expect([...hint].sort().join('')).toBe('01234567');
    expect(revision).toBe(8);
  });

  it('cannot be changed into another entry, or when they are not there', async () => {
    const { store } = await open();
    const twin = SpiffeId.parse('spiffe://example.org/db');
    await store.entries.create(newEntry());
    await store.entries.create(newEntry({ id: 'e2', spiffeId: twin }));
    const toTwin = store.entries.update('e1', (current) => ({ ...current, spiffeId: twin }));
    await expect(toTwin).rejects.toMatchObject({ code: 'already-exists' });
    const otherId = store.entries.update('e1', (current) => ({ ...current, id: 'e3' }));
    await expect(otherId).rejects.toMatchObject({ code: 'invalid-argument' });
    await expect(store.entries.update('e9', (e) => e)).rejects.toMatchObject({ code: 'not-found' });
    expect((await store.entries.find('e1'))?.revision).toBe(0);
  });

  it('stay as they were when the change throws', async () => {
    const { store } = await open();
    const { entry } = await store.entries.create(newEntry());
    await expect(store.entries.update('e1', boom)).rejects.toMatchObject({ code: 'aborted' });
    expect(await store.entries.find('e1')).toEqual(entry);
  });

  it('are returned by their deletion, once', async () => {
    const { store } = await open();
    const { entry } = await store.entries.create(newEntry());
    expect(await store.entries.delete('e1')).toEqual(entry);
    expect(await store.entries.delete('e1')).toBeUndefined();
    expect(await store.entries.find('e1')).toBeUndefined();
  });
}

function describesEntryLists(open: OpenHarness): void {
  const web = SpiffeId.parse('spiffe://example.org/web');
  const db = SpiffeId.parse('spiffe://example.org/db');
  const otherAgent = SpiffeId.parse('spiffe://example.org/spire/agent/join_token/b');

  it.each([
    { name: 'everything', query: {}, ids: ['A', 'a', 'b', 'c'] },
    { name: 'one SPIFFE ID', query: { spiffeId: web }, ids: ['A', 'a', 'c'] },
    { name: 'one parent', query: { parentId: otherAgent }, ids: ['c'] },
    { name: 'both', query: { spiffeId: db, parentId: otherAgent }, ids: [] },
    { name: 'a page', query: { limit: 2 }, ids: ['A', 'a'] },
    { name: 'the page after it', query: { limit: 2, afterId: 'a' }, ids: ['b', 'c'] },
    { name: 'nothing after the last', query: { afterId: 'c' }, ids: [] },
  ])('are listed in order of id: $name', async ({ query, ids }) => {
    const { store } = await open();
    await store.entries.create(newEntry({ id: 'c', parentId: otherAgent }));
    await store.entries.create(newEntry({ id: 'a', spiffeId: web }));
    await store.entries.create(newEntry({ id: 'b', spiffeId: db }));
    await store.entries.create(newEntry({ id: 'A', selectors: [parseSelector('a:b')] }));
    expect((await store.entries.list(query)).map((entry) => entry.id)).toEqual(ids);
  });
}
