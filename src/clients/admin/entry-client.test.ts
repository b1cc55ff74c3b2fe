import { describe, expect, it } from 'vitest';
import { BatchCreateEntryRequest, EntryService } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { type GrpcService, serviceOf, unary } from '../../rpc/handlers.ts';
import { entryToWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { channelTo, startListener } from '../../testing/grpc-listener.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { EntryClient } from './entry-client.ts';

const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/x');
const signal = new AbortController().signal;

async function clientOf(service: GrpcService): Promise<EntryClient> {
  return new EntryClient(channelTo(await startListener({ services: [service] })));
}

describe('the registry', () => {
  it('creates in batches, and tells what existed', async () => {
    const batches: number[] = [];
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async ({ entries }) => {
          batches.push(entries.length);
          const results = entries.map((entry) => {
            const exists = entry.id === 'e-1';
            const status = itemStatus(
              exists ? new AppError('already-exists', 'similar entry already exists') : undefined,
            );
            return { status, entry };
          });
          return { results };
        }),
      }),
    );
    const wanted = Array.from({ length: 501 }, (_, i) => testEntry({ id: `e-${i}` }));
    const created = await client.create(wanted, { signal });
    expect(batches).toEqual([500, 1]);
    expect(created.filter(({ existed }) => existed).map(({ entry }) => entry.id)).toEqual(['e-1']);
    expect(created).toHaveLength(501);
  });

  it('throws the first refusal of a batch', async () => {
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async ({ entries }) => ({
          results: entries.map(() => ({
            status: itemStatus(new AppError('invalid-argument', 'bad DNS name')),
            entry: undefined,
          })),
        })),
      }),
    );
    await expect(client.create([testEntry()], { signal })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'bad DNS name',
    });
  });

  it('keeps batches below what a server reads at once', async () => {
    const sizes: number[] = [];
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async (request) => {
          sizes.push(BatchCreateEntryRequest.encode(request).finish().length);
          return { results: request.entries.map((entry) => ({ status: itemStatus(), entry })) };
        }),
      }),
    );
    const dnsNames = Array.from({ length: 100 }, (_, i) => `${'a'.repeat(60)}.host-${i}`);
    const wanted = Array.from({ length: 200 }, (_, i) => testEntry({ id: `e-${i}`, dnsNames }));
    const created = await client.create(wanted, { signal });
    expect(created.map(({ entry }) => entry.id)).toEqual(wanted.map(({ id }) => id));
    expect(sizes.length).toBeGreaterThan(1);
    expect(Math.max(...sizes)).toBeLessThan(600 * 1024);
  });

  it('goes on behind a refusal when it is asked for each result', async () => {
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async ({ entries }) => ({
          results: entries.map((entry) =>
            entry.id === 'e-1'
              ? { status: itemStatus(new AppError('invalid-argument', 'bad')), entry: undefined }
              : { status: itemStatus(), entry },
          ),
        })),
      }),
    );
    const wanted = Array.from({ length: 501 }, (_, i) => testEntry({ id: `e-${i}` }));
    const batches = [];
    for await (const batch of client.createInBatches(wanted, { signal })) batches.push(batch);
    expect(batches.map(({ length }) => length)).toEqual([500, 1]);
    expect(batches[0]?.[1]).toMatchObject({ code: 'invalid-argument', message: 'bad' });
    expect(batches[1]).toMatchObject([{ entry: { id: 'e-500' }, existed: false }]);
  });

  it('asks for what is meant, in SPIRE’s words', async () => {
    const asked: unknown[] = [];
    const client = await clientOf(
      serviceOf(EntryService, {
        countEntries: unary(async ({ filter }) => {
          asked.push(filter);
          return { count: 7 };
        }),
      }),
    );
    const query = {
      spiffeId: agentId,
      selectors: { wanted: [parseSelector('unix:uid:1')], match: 'superset' },
      federatesWith: { wanted: [TrustDomain.parse('other.org')], match: 'any' },
      hint: '',
      downstream: false,
    } as const;
    expect(await client.count({ ...query, signal })).toBe(7);
    expect(await client.count({ signal })).toBe(7);
    expect(asked).toEqual([
      {
        bySpiffeId: spiffeIdToWire(agentId),
        byParentId: undefined,
        bySelectors: { selectors: [{ type: 'unix', value: 'uid:1' }], match: 2 },
        byFederatesWith: { trustDomains: ['other.org'], match: 3 },
        byHint: '',
        byDownstream: false,
      },
      {
        bySpiffeId: undefined,
        byParentId: undefined,
        bySelectors: undefined,
        byFederatesWith: undefined,
        byHint: undefined,
        byDownstream: undefined,
      },
    ]);
  });

  it('lists page by page, with its filter on each', async () => {
    const pages: { token: string; filter: unknown }[] = [];
    const all = ['a', 'b', 'c'].map((id) => testEntry({ id }));
    const client = await clientOf(
      serviceOf(EntryService, {
        listEntries: unary(async ({ pageToken, filter }) => {
          pages.push({ token: pageToken, filter: filter?.byParentId });
          const at = all.findIndex(({ id }) => id > pageToken);
          return {
            entries: all.slice(at, at + 1).map(entryToWire),
            nextPageToken: all[at + 1] ? all[at]!.id : '',
          };
        }),
      }),
    );
    const entries = await client.list({ parentId: agentId, signal });
    expect(entries.map(({ id }) => id)).toEqual(['a', 'b', 'c']);
    expect(pages).toEqual(['', 'a', 'b'].map((token) => ({ token, filter: spiffeIdToWire(agentId) })));
  });

  it('updates, and names what could not be deleted', async () => {
    const client = await clientOf(
      serviceOf(EntryService, {
        batchUpdateEntry: unary(async ({ entries: [entry] }) => ({
          results: [{ status: itemStatus(), entry }],
        })),
        batchDeleteEntry: unary(async ({ ids }) => ({
          results: ids.map((id) => ({
            id,
            status: itemStatus(id === 'gone' ? new AppError('not-found', 'entry not found') : undefined),
          })),
        })),
      }),
    );
    expect(await client.update(testEntry({ hint: 'new' }), { signal })).toMatchObject({
      hint: 'new',
    });
    expect(await client.delete(['a'], { signal })).toEqual(new Map());
    const refusals = await client.delete(['a', 'gone'], { signal });
    expect([...refusals]).toMatchObject([['gone', { code: 'not-found', message: 'entry not found' }]]);
  });
});
