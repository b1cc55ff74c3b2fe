import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  EntryService,
  type SyncAuthorizedEntriesRequest,
  type SyncAuthorizedEntriesResponse,
} from '../gen/spire/api/server/entry/v1/entry.ts';
import { bidi, serviceOf } from '../rpc/handlers.ts';
import { entryToWire } from '../rpc/messages.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { syncEntries } from './entry-sync.ts';

const signal = new AbortController().signal;

function pagesOf<T>(items: readonly T[], size: number): { items: readonly T[]; more: boolean }[] {
  const pages = [];
  for (let start = 0; start === 0 || start < items.length; start += size) {
    pages.push({ items: items.slice(start, start + size), more: start + size < items.length });
  }
  return pages;
}

/** A server with pages of this size, which speaks as SPIRE does, and what it was asked. */
async function startServer(entries: readonly RegistrationEntry[], pageSize: number) {
  const requests: SyncAuthorizedEntriesRequest[] = [];
  const byId = new Map(entries.map((entry) => [entry.id, entry]));
  const full = (found: readonly RegistrationEntry[]) =>
    pagesOf(found, pageSize).map(({ items, more }) => ({
      entryRevisions: [],
      entries: items.map(entryToWire),
      more,
    }));
  const service = serviceOf(EntryService, {
    syncAuthorizedEntries: bidi(async function* (incoming: AsyncIterable<SyncAuthorizedEntriesRequest>) {
      for await (const request of incoming) {
        requests.push(request);
        if (requests.length > 1) yield* full(request.ids.flatMap((id) => byId.get(id) ?? []));
        else if (entries.length <= pageSize) yield* full(entries);
        else {
          for (const { items, more } of pagesOf(entries, pageSize)) {
            const entryRevisions = items.map((entry) => ({
              id: entry.id,
              revisionNumber: BigInt(entry.revision),
              createdAt: BigInt(entry.createdAt),
            }));
            yield { entryRevisions, entries: [], more };
          }
        }
      }
    }),
  });
  return { requests, byId, channel: channelTo(await startListener({ services: [service] })) };
}

const entriesNamed = (...ids: string[]) => ids.map((id) => testEntry({ id }));
const idsOf = (entries: readonly RegistrationEntry[]) => entries.map(({ id }) => id).sort();

describe('SyncAuthorizedEntries', () => {
  it('takes few entries whole, with one request that SPIRE accepts', async () => {
    const server = await startServer(entriesNamed('a', 'b'), 2);
    expect(idsOf(await syncEntries(server.channel, [], { signal }))).toEqual(['a', 'b']);
    expect(server.requests).toMatchObject([
      { ids: [], outputMask: { revisionNumber: true, createdAt: true } },
    ]);
  });

  it('understands that there are none', async () => {
    const server = await startServer([], 2);
    expect(await syncEntries(server.channel, entriesNamed('a'), { signal })).toEqual([]);
  });

  it('asks only for what is new or changed, no more at once than the first page had', async () => {
    const ids = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
    const server = await startServer(
      ids.map((id) => testEntry({ id, revision: id === 'c' ? 1 : 0, createdAt: id === 'd' ? 9 : 1 })),
      3,
    );
    const held = ['a', 'b', 'c', 'd', 'gone'].map((id) => testEntry({ id, createdAt: 1 }));
    const found = await syncEntries(server.channel, held, { signal });
    expect(idsOf(found)).toEqual(ids);
    expect(server.requests.map((request) => request.ids)).toEqual([[], ['c', 'd', 'e'], ['f', 'g']]);
    expect(found.filter((entry) => held.includes(entry)).map(({ id }) => id)).toEqual(['a', 'b']);
  });

  it('leaves out an entry that was deleted in between', async () => {
    const server = await startServer(entriesNamed('a', 'b', 'c'), 2);
    server.byId.delete('b');
    expect(idsOf(await syncEntries(server.channel, [], { signal }))).toEqual(['a', 'c']);
  });

  it('keeps the same object for an entry that was sent whole and has not changed', async () => {
    const [held] = entriesNamed('a');
    const server = await startServer(entriesNamed('a'), 2);
    expect((await syncEntries(server.channel, [held!], { signal }))[0]).toBe(held);
  });

  it('is not kept from the others by an entry that makes no sense', async () => {
    const bad = { ...entryToWire(testEntry({ id: 'bad' })), spiffeId: undefined };
    const good = entryToWire(testEntry({ id: 'good' }));
    const service = serviceOf(EntryService, {
      syncAuthorizedEntries: bidi(async function* () {
        yield { entryRevisions: [], entries: [bad, good], more: false };
      }),
    });
    const channel = channelTo(await startListener({ services: [service] }));
    const invalid: string[] = [];
    const found = await syncEntries(channel, [], { signal, onInvalid: (id) => void invalid.push(id) });
    expect([idsOf(found), invalid]).toEqual([['good'], ['bad']]);
  });

  const revision = { id: 'a', revisionNumber: 1n, createdAt: 1n };
  const entry = entryToWire(testEntry());
  it.each<{ name: string; pages: readonly SyncAuthorizedEntriesResponse[] }>([
    { name: 'nothing', pages: [] },
    { name: 'an end before the last page', pages: [{ entryRevisions: [revision], entries: [], more: true }] },
    { name: 'both at once', pages: [{ entryRevisions: [revision], entries: [entry], more: false }] },
    {
      name: 'entries among revisions',
      pages: [
        { entryRevisions: [revision], entries: [], more: true },
        { entryRevisions: [], entries: [entry], more: false },
      ],
    },
    {
      name: 'revisions among entries',
      pages: [
        { entryRevisions: [], entries: [entry], more: true },
        { entryRevisions: [revision], entries: [], more: false },
      ],
    },
  ])('fails as internal when the server sends $name', async ({ pages }) => {
    const service = serviceOf(EntryService, {
      syncAuthorizedEntries: bidi(async function* () {
        yield* pages;
      }),
    });
    const channel = channelTo(await startListener({ services: [service] }));
    await expect(syncEntries(channel, [], { signal })).rejects.toMatchObject({ code: 'internal' });
  });

  it('always ends with what the server has, whatever was held', async () => {
    const some = fc.uniqueArray(fc.tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 2 })), {
      selector: ([id]) => id,
    });
    const toEntries = (pairs: readonly (readonly [number, number])[]) =>
      pairs.map(([id, n]) => testEntry({ id: `e${id}`, revision: n, hint: `revision ${n}` }));
    await fc.assert(
      fc.asyncProperty(some, some, fc.integer({ min: 1, max: 6 }), async (stored, known, pageSize) => {
        const server = await startServer(toEntries(stored), pageSize);
        const found = await syncEntries(server.channel, toEntries(known), { signal });
        const texts = (entries: readonly RegistrationEntry[]) =>
          entries.map((e) => `${e.id} ${e.hint}`).sort();
        expect(texts(found)).toEqual(texts(toEntries(stored)));
        server.channel.close();
      }),
      { numRuns: 30 },
    );
  });
});
