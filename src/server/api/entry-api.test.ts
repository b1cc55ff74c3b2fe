import { status } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import {
  EntryService,
  ListEntriesRequest,
  ListEntriesRequest_Filter,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { Entry, EntryMask } from '../../gen/spire/api/types/entry.ts';
import { FederatesWithMatch } from '../../gen/spire/api/types/federateswith.ts';
import { SelectorMatch } from '../../gen/spire/api/types/selector.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { entryToWire } from '../../rpc/messages.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';

const empty = new Uint8Array(0);
const nothing = EntryMask.decode(empty);
const call = { signal: noAbort };
const { OK, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS } = status;

const wire = (fields: Parameters<typeof testEntry>[0] = {}): Entry => entryToWire(testEntry(fields));
const numbered = (count: number, fields: Parameters<typeof testEntry>[0] = {}) =>
  Array.from({ length: count }, (_, i) => {
    const id = `e${String(i).padStart(4, '0')}`;
    return testEntry({ id, spiffeId: `spiffe://example.org/${id}`, ...fields });
  });

async function create(channel: ClientChannel, entries: readonly Entry[], outputMask?: EntryMask) {
  const request = { entries: [...entries], outputMask };
  return (await callUnary(channel, EntryService.batchCreateEntry, request)).results;
}

async function update(channel: ClientChannel, entries: readonly Entry[], inputMask?: EntryMask) {
  const request = { entries: [...entries], inputMask, outputMask: undefined };
  return (await callUnary(channel, EntryService.batchUpdateEntry, request)).results;
}

const list = (channel: ClientChannel, request: Partial<ListEntriesRequest>) =>
  callUnary(channel, EntryService.listEntries, {
    ...ListEntriesRequest.decode(empty),
    ...request,
  });

const codesOf = (results: readonly { status?: { code: number } | undefined }[]) =>
  results.map((result) => result.status?.code);

describe('BatchCreateEntry', () => {
  it('stores an entry and returns it whole, with what the server adds', async () => {
    const server = await TestServer.start();
    const wanted = wire({
      id: '',
      hint: 'h',
      dnsNames: ['web'],
      x509SvidTtlSeconds: 90,
      revision: 7,
      createdAt: 5,
    });
    const [result] = await create(server.adminChannel, [wanted]);
    expect(result?.status).toEqual({ code: OK, message: '' });
    expect(result?.entry).toEqual({
      ...wanted,
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      revisionNumber: 0n,
      createdAt: BigInt(Math.floor(server.clock.now() / 1000)),
    });
  });

  it('answers each item on its own and in order', async () => {
    const { adminChannel } = await TestServer.start();
    const results = await create(adminChannel, [
      wire({ id: 'one' }),
      { ...wire({ id: 'two' }), spiffeId: undefined },
      { ...wire({ id: 'three' }), parentId: { trustDomain: 'other.org', path: '/x' } },
      { ...wire({ id: 'four' }), selectors: [] },
      { ...wire({ id: 'five' }), spiffeId: { trustDomain: 'example.org', path: '/spire/server' } },
      wire({ id: 'one', spiffeId: 'spiffe://example.org/other' }),
      { ...wire({ id: 'six' }), expiresAt: -1n },
      wire({ id: 'seven', spiffeId: 'spiffe://example.org/seven' }),
    ]);
    const codes = [OK, ...Array(4).fill(INVALID_ARGUMENT), ALREADY_EXISTS, INVALID_ARGUMENT, OK];
    expect(codesOf(results)).toEqual(codes);
    const ids = ['one', undefined, undefined, undefined, undefined, undefined, undefined, 'seven'];
    expect(results.map((result) => result.entry?.id)).toEqual(ids);
    const stored = await list(adminChannel, {});
    expect(stored.entries.map((entry) => entry.id)).toEqual(['one', 'seven']);
  });

  it('returns the stored entry to whoever wants to create it again', async () => {
    const { adminChannel } = await TestServer.start();
    const [first] = await create(adminChannel, [wire({ id: 'one', hint: 'first' })]);
    const [second] = await create(adminChannel, [wire({ id: 'two', hint: 'second' })]);
    expect(second).toEqual({
      status: { code: ALREADY_EXISTS, message: 'similar entry already exists' },
      entry: first?.entry,
    });
  });

  it('returns only what the mask names', async () => {
    const { adminChannel } = await TestServer.start();
    const [result] = await create(adminChannel, [wire({ id: 'one' })], { ...nothing, hint: true });
    expect(result?.entry).toEqual({ ...Entry.decode(empty), id: 'one' });
  });

  it('takes 1000 items and no more', async () => {
    const { adminChannel } = await TestServer.start();
    const tooMany = create(adminChannel, numbered(1001).map(entryToWire));
    await expect(tooMany).rejects.toMatchObject({ code: 'resource-exhausted' });
    expect((await list(adminChannel, {})).entries).toEqual([]);
    expect(await create(adminChannel, [])).toEqual([]);
  });
});

describe('BatchUpdateEntry', () => {
  it('changes what the mask names and counts the revision', async () => {
    const { adminChannel } = await TestServer.start();
    const [created] = await create(adminChannel, [wire({ hint: 'before', dnsNames: ['a'] })]);
    const change = { ...Entry.decode(empty), id: 'entry-1', hint: 'after', dnsNames: ['b'] };
    const [updated] = await update(adminChannel, [change], { ...nothing, hint: true });
    expect(updated?.entry).toEqual({ ...created?.entry, hint: 'after', revisionNumber: 1n });
  });

  it('changes everything without a mask', async () => {
    const { adminChannel } = await TestServer.start();
    const [created] = await create(adminChannel, [wire({ hint: 'before', dnsNames: ['a'] })]);
    const [updated] = await update(adminChannel, [wire({ hint: 'after', revision: 99, createdAt: 1 })]);
    expect(updated?.entry).toEqual({ ...created?.entry, hint: 'after', dnsNames: [], revisionNumber: 1n });
  });

  it('answers each item on its own', async () => {
    const { adminChannel } = await TestServer.start();
    await create(adminChannel, numbered(2).map(entryToWire));
    const results = await update(adminChannel, [
      wire({ id: 'nobody' }),
      wire({ id: '' }),
      wire({ id: 'e0000', spiffeId: 'spiffe://example.org/e0001' }),
      { ...wire({ id: 'e0000' }), selectors: [] },
      wire({ id: 'e0001', spiffeId: 'spiffe://example.org/new' }),
    ]);
    expect(codesOf(results)).toEqual([NOT_FOUND, NOT_FOUND, ALREADY_EXISTS, INVALID_ARGUMENT, OK]);
  });
});

describe('BatchDeleteEntry', () => {
  it('answers for each id', async () => {
    const { adminChannel } = await TestServer.start();
    await create(adminChannel, numbered(2).map(entryToWire));
    const ids = ['e0001', 'nobody', '', 'e0001'];
    const { results } = await callUnary(adminChannel, EntryService.batchDeleteEntry, { ids });
    expect(codesOf(results)).toEqual([OK, NOT_FOUND, INVALID_ARGUMENT, NOT_FOUND]);
    expect(results.map((result) => result.id)).toEqual(ids);
    expect((await list(adminChannel, {})).entries.map((entry) => entry.id)).toEqual(['e0000']);
  });
});

describe('GetEntry', () => {
  it.each([
    { id: 'e0000', answer: 'the entry', code: undefined },
    { id: 'nobody', answer: 'that there is none', code: 'not-found' },
    { id: '', answer: 'that it is missing', code: 'invalid-argument' },
  ])('of the id "$id" answers $answer', async ({ id, code }) => {
    const { adminChannel } = await TestServer.start();
    const [created] = await create(adminChannel, numbered(1).map(entryToWire));
    const found = callUnary(adminChannel, EntryService.getEntry, { id, outputMask: undefined });
    if (code === undefined) expect(await found).toEqual(created?.entry);
    else await expect(found).rejects.toMatchObject({ code });
  });
});

describe('ListEntries', () => {
  const noFilter = ListEntriesRequest_Filter.decode(empty);

  it.each([
    { pageSize: 0, pages: [7] },
    { pageSize: 3, pages: [3, 3, 1] },
    { pageSize: 7, pages: [7, 0] },
    { pageSize: 1000, pages: [7] },
  ])('with pages of $pageSize gives each entry once', async ({ pageSize, pages }) => {
    const server = await TestServer.start();
    await server.admin.entries.create(numbered(7), call);
    const sizes: number[] = [];
    const ids: string[] = [];
    let pageToken = '';
    do {
      const page = await list(server.adminChannel, { pageSize, pageToken });
      sizes.push(page.entries.length);
      ids.push(...page.entries.map((entry) => entry.id));
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    expect(sizes).toEqual(pages);
    expect(ids).toEqual(numbered(7).map((entry) => entry.id));
  });

  it.each([
    {
      name: 'SPIFFE ID',
      filter: { bySpiffeId: { trustDomain: 'example.org', path: '/e0001' } },
      ids: ['e0001'],
    },
    { name: 'parent', filter: { byParentId: { trustDomain: 'example.org', path: '/node' } }, ids: ['below'] },
    {
      name: 'both',
      filter: {
        bySpiffeId: { trustDomain: 'example.org', path: '/e0001' },
        byParentId: { trustDomain: 'example.org', path: '/node' },
      },
      ids: [],
    },
  ])('finds entries by $name', async ({ filter, ids }) => {
    const server = await TestServer.start();
    const below = testEntry({ id: 'below', parentId: SpiffeId.parse('spiffe://example.org/node') });
    await server.admin.entries.create([...numbered(3), below], call);
    const found = await list(server.adminChannel, { filter: { ...noFilter, ...filter } });
    expect(found.entries.map((entry) => entry.id)).toEqual(ids);
  });

  const foreign = [
    { name: 'selectors', filter: { bySelectors: SelectorMatch.decode(empty) }, code: 'unimplemented' },
    {
      name: 'federation',
      filter: { byFederatesWith: FederatesWithMatch.decode(empty) },
      code: 'unimplemented',
    },
    { name: 'the empty hint', filter: { byHint: '' }, code: 'unimplemented' },
    { name: 'not being downstream', filter: { byDownstream: false }, code: 'unimplemented' },
    {
      name: 'a bad SPIFFE ID',
      filter: { bySpiffeId: { trustDomain: 'X', path: '' } },
      code: 'invalid-argument',
    },
  ];

  it('does not give all to whoever asks for some in a way that is not known', async () => {
    const { adminChannel } = await TestServer.start();
    for (const { name, filter, code } of foreign) {
      const refused = list(adminChannel, { filter: { ...noFilter, ...filter } });
      await expect(refused, name).rejects.toMatchObject({ code });
    }
  });

  it('refuses pages of less than nothing', async () => {
    const { adminChannel } = await TestServer.start();
    await expect(list(adminChannel, { pageSize: -1 })).rejects.toMatchObject({ code: 'invalid-argument' });
  });
});

describe('what an agent may have', () => {
  it('is what GetAuthorizedEntries gives it, masked, and nothing of others', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    const elsewhere = SpiffeId.parse('spiffe://example.org/spire/agent/elsewhere');
    await server.admin.entries.create(
      [...numbered(2, { parentId: agent.id }), testEntry({ id: 'other', parentId: elsewhere })],
      call,
    );
    const get = (outputMask?: EntryMask) =>
      callUnary(agent.channel, EntryService.getAuthorizedEntries, { outputMask });
    expect((await get()).entries.map((entry) => entry.id)).toEqual(['e0000', 'e0001']);
    const [masked] = (await get({ ...nothing, spiffeId: true })).entries;
    const spiffeId = { trustDomain: 'example.org', path: '/e0000' };
    expect(masked).toEqual({ ...Entry.decode(empty), id: 'e0000', spiffeId });
  });

  it('reaches it through the alias that its token was made with', async () => {
    const server = await TestServer.start();
    const alias = SpiffeId.parse('spiffe://example.org/node');
    await server.admin.entries.create(numbered(1, { parentId: alias }), call);
    const agent = await server.join({ alias });
    const entries = await agent.client.syncAuthorizedEntries([], call);
    expect(entries.map((entry) => entry.spiffeId.path).sort()).toEqual(['/e0000', '/node']);
  });

  it.each([3, 501])('is kept up to date by one sync after the other, with %i entries', async (count) => {
    const server = await TestServer.start();
    const agent = await server.join();
    await server.admin.entries.create(numbered(count, { parentId: agent.id }), call);
    const first = await agent.client.syncAuthorizedEntries([], call);
    expect(first).toHaveLength(count);
    const changed = first.find((entry) => entry.id === 'e0001')!;
    await server.admin.entries.update({ ...changed, hint: 'new' }, call);
    await server.admin.entries.delete(['e0002'], call);
    await server.admin.entries.create(
      numbered(1, { id: 'later', parentId: agent.id, selectors: ['unix:uid:7'] }),
      call,
    );
    const second = await agent.client.syncAuthorizedEntries(first, call);
    const byId = new Map(second.map((entry) => [entry.id, entry]));
    expect(byId.size).toBe(count);
    expect(byId.get('e0001')).toMatchObject({ hint: 'new', revision: 1 });
    expect(byId.has('e0002')).toBe(false);
    expect(byId.has('later')).toBe(true);
    // What has not changed is the very entry that the agent held.
    expect(byId.get('e0000')).toBe(first.find((entry) => entry.id === 'e0000'));
  });

  it('is nothing for an agent that is banned', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    server.ban(agent.id);
    await expect(agent.client.syncAuthorizedEntries([], call)).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_BANNED',
    });
  });
});
