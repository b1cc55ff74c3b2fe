import { describe, expect, it } from 'vitest';
import { EntryService } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { type GrpcService, serviceOf, unary } from '../../rpc/handlers.ts';
import { entryToWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
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
    await client.delete(['a'], { signal });
    await expect(client.delete(['a', 'gone'], { signal })).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('"gone"'),
    });
  });
});
