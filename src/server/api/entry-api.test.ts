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

  it.each<{ name: string; entry: Partial<Entry>; message: string }>([
    {
      name: 'without SPIFFE ID',
      entry: { spiffeId: undefined },
      message: 'failed to convert entry: missing SPIFFE ID',
    },
    {
      name: 'without selectors',
      entry: { selectors: [] },
      message: 'failed to convert entry: selector list is empty: one at least is required',
    },
    {
      name: 'below a parent elsewhere',
      entry: { parentId: { trustDomain: 'other.org', path: '/a' } },
      message:
        'failed to convert entry: invalid parent ID: "spiffe://other.org/a" is not a member of trust domain "example.org"',
    },
    {
      name: 'with the id of another',
      entry: { id: 'taken' },
      message: 'failed to create entry: the entry id "taken" is taken by another entry',
    },
    {
      name: 'that federates with a stranger',
      entry: { federatesWith: ['other.org'] },
      message: expect.stringContaining(
        'failed to create entry: unable to find federated bundle "spiffe://other.org"',
      ),
    },
  ])('says in SPIRE’s words what is wrong with one $name', async ({ entry, message }) => {
    const { adminChannel } = await TestServer.start();
    await create(adminChannel, [wire({ id: 'taken', selectors: ['a:b'] })]);
    const [result] = await create(adminChannel, [{ ...wire(), ...entry }]);
    expect(result?.status?.message).toEqual(message);
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
    { pageSize: 7, pages: [7] },
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

  const domain = 'example.org';
  /** Any number may come, whatever the type says. */
  const selectors = (match: number, ...values: string[]): Partial<ListEntriesRequest_Filter> => ({
    bySelectors: { selectors: values.map((value) => ({ type: 'unix', value })), match: match as 0 },
  });

  it.each<{ name: string; filter: Partial<ListEntriesRequest_Filter>; ids: string[] }>([
    { name: 'nothing', filter: {}, ids: ['a', 'b', 'below', 'c'] },
    { name: 'SPIFFE ID', filter: { bySpiffeId: { trustDomain: domain, path: '/a' } }, ids: ['a'] },
    { name: 'parent', filter: { byParentId: { trustDomain: domain, path: '/node' } }, ids: ['below'] },
    {
      name: 'both',
      filter: {
        bySpiffeId: { trustDomain: domain, path: '/a' },
        byParentId: { trustDomain: domain, path: '/node' },
      },
      ids: [],
    },
    { name: 'exact selectors', filter: selectors(0, 'uid:2', 'uid:1'), ids: ['b'] },
    {
      name: 'selectors it has a part of',
      filter: selectors(1, 'uid:1', 'uid:2', 'uid:3'),
      ids: ['a', 'b', 'c'],
    },
    { name: 'selectors it has all of', filter: selectors(2, 'uid:2'), ids: ['b', 'c'] },
    { name: 'any of the selectors', filter: selectors(3, 'uid:1', 'uid:2', 'uid:9'), ids: ['a', 'b', 'c'] },
    { name: 'a hint', filter: { byHint: 'internal' }, ids: ['b'] },
    { name: 'the empty hint', filter: { byHint: '' }, ids: ['a', 'below', 'c'] },
    { name: 'being downstream', filter: { byDownstream: true }, ids: ['c'] },
    { name: 'not being downstream', filter: { byDownstream: false }, ids: ['a', 'b', 'below'] },
    {
      name: 'federation',
      filter: { byFederatesWith: { trustDomains: ['other.org', 'spiffe://third.org'], match: 1 } },
      ids: [],
    },
  ])('and CountEntries find entries by $name', async ({ filter, ids }) => {
    const server = await TestServer.start();
    const node = SpiffeId.parse('spiffe://example.org/node');
    await server.admin.entries.create(
      [
        testEntry({ id: 'a', spiffeId: 'spiffe://example.org/a', selectors: ['unix:uid:1'] }),
        testEntry({ id: 'b', selectors: ['unix:uid:1', 'unix:uid:2'], hint: 'internal' }),
        testEntry({ id: 'c', selectors: ['unix:uid:2', 'unix:uid:3'], downstream: true }),
        testEntry({ id: 'below', parentId: node, selectors: ['unix:gid:1'] }),
      ],
      call,
    );
    const whole = { ...noFilter, ...filter };
    const found = await list(server.adminChannel, { filter: whole });
    expect(found.entries.map((entry) => entry.id)).toEqual(ids);
    const counted = await callUnary(server.adminChannel, EntryService.countEntries, { filter: whole });
    expect(counted).toEqual({ count: ids.length });
  });

  it('keep to the filter from page to page', async () => {
    const server = await TestServer.start();
    await server.admin.entries.create(numbered(5), call);
    await server.admin.entries.create(
      numbered(5, { hint: 'no', parentId: SpiffeId.parse('spiffe://example.org/n') }).map((entry) => ({
        ...entry,
        id: `${entry.id}-no`,
      })),
      call,
    );
    const request = { filter: { ...noFilter, byHint: '' }, pageSize: 3 };
    const first = await list(server.adminChannel, request);
    const second = await list(server.adminChannel, { ...request, pageToken: first.nextPageToken });
    expect([...first.entries, ...second.entries].map((entry) => entry.id)).toEqual(
      numbered(5).map(({ id }) => id),
    );
    expect(second.nextPageToken).toBe('');
  });

  it('go on behind an entry that has been deleted since', async () => {
    const server = await TestServer.start();
    await server.admin.entries.create(numbered(4), call);
    const first = await list(server.adminChannel, { pageSize: 2 });
    await server.admin.entries.delete(['e0001', 'e0002'], call);
    const second = await list(server.adminChannel, { pageSize: 2, pageToken: first.nextPageToken });
    expect(second.entries.map((entry) => entry.id)).toEqual(['e0003']);
  });

  const malformed: readonly { says: string; filter: Partial<ListEntriesRequest_Filter> }[] = [
    { says: 'malformed selectors filter', filter: { bySelectors: SelectorMatch.decode(empty) } },
    { says: 'malformed selectors filter', filter: selectors(4, 'uid:1') },
    { says: 'malformed selectors filter', filter: selectors(-1, 'uid:1') },
    { says: 'malformed selectors filter', filter: selectors(0, '') },
    {
      says: 'malformed selectors filter',
      filter: selectors(0, ...Array.from({ length: 1001 }, (_, i) => `uid:${i}`)),
    },
    {
      says: 'malformed federates with filter',
      filter: { byFederatesWith: FederatesWithMatch.decode(empty) },
    },
    {
      says: 'malformed federates with filter',
      filter: { byFederatesWith: { trustDomains: ['other.org'], match: 4 as 0 } },
    },
    {
      says: 'malformed federates with filter',
      filter: { byFederatesWith: { trustDomains: ['Other'], match: 0 } },
    },
    { says: 'malformed SPIFFE ID filter', filter: { bySpiffeId: { trustDomain: 'X', path: '' } } },
    { says: 'malformed parent ID filter', filter: { byParentId: { trustDomain: 'other.org', path: '/a' } } },
  ];

  it('and CountEntries do not give all to whoever asks for some in a way that is not understood', async () => {
    const { adminChannel } = await TestServer.start();
    for (const { says, filter } of malformed) {
      const refusal = { code: 'invalid-argument', message: expect.stringContaining(`${says}: `) };
      const whole = { ...noFilter, ...filter };
      await expect(list(adminChannel, { filter: whole }), says).rejects.toMatchObject(refusal);
      const counted = callUnary(adminChannel, EntryService.countEntries, { filter: whole });
      await expect(counted, says).rejects.toMatchObject(refusal);
    }
  });

  it('refuses a page token that it did not give', async () => {
    const { adminChannel } = await TestServer.start();
    const listed = list(adminChannel, { pageSize: 1, pageToken: 'e0001' });
    await expect(listed).rejects.toMatchObject({ code: 'invalid-argument' });
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
    await server.ban(agent.id);
    await expect(agent.client.syncAuthorizedEntries([], call)).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_BANNED',
    });
  });
});
