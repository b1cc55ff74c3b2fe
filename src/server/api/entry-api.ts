import {
  type BatchCreateEntryRequest,
  type BatchCreateEntryResponse,
  type BatchDeleteEntryRequest,
  type BatchDeleteEntryResponse,
  type BatchUpdateEntryRequest,
  type BatchUpdateEntryResponse,
  EntryService,
  type GetAuthorizedEntriesRequest,
  type GetEntryRequest,
  type ListEntriesRequest,
  type ListEntriesResponse,
  type SyncAuthorizedEntriesRequest,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { Entry } from '../../gen/spire/api/types/entry.ts';
import { bidi, serviceOf, unary } from '../../rpc/handlers.ts';
import { entryFromWire, entryToWire, spiffeIdFromWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Entries } from '../registration/entries.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import type { Access } from './access.ts';
import { maskEntry, mergeEntry } from './entry-mask.ts';
import { syncAuthorizedEntries } from './entry-sync.ts';

const maxBatch = 1000;
const defaultPage = 500;

interface Deps {
  readonly entries: Entries;
  readonly index: EntryIndex;
  readonly access: Access;
  readonly clock: Clock;
}

/** `spire.api.server.entry.v1.Entry`: the registry for administrators, and what agents may have of it. */
export function entryApi(deps: Deps) {
  return serviceOf(EntryService, {
    batchCreateEntry: unary((request: BatchCreateEntryRequest) => batchCreate(deps, request)),
    batchUpdateEntry: unary((request: BatchUpdateEntryRequest) => batchUpdate(deps, request)),
    batchDeleteEntry: unary((request: BatchDeleteEntryRequest) => batchDelete(deps, request)),
    getEntry: unary((request: GetEntryRequest) => getEntry(deps, request)),
    listEntries: unary((request: ListEntriesRequest) => listEntries(deps, request)),
    getAuthorizedEntries: unary(async (request: GetAuthorizedEntriesRequest, context) => {
      const agent = await deps.access.requireAgent(context.caller);
      const entries = deps.index.authorizedFor(agent, deps.clock.now() / 1000);
      return { entries: entries.map((entry) => maskEntry(entryToWire(entry), request.outputMask)) };
    }),
    syncAuthorizedEntries: bidi(async function* (
      requests: AsyncIterable<SyncAuthorizedEntriesRequest>,
      context,
    ) {
      const agent = await deps.access.requireAgent(context.caller);
      yield* syncAuthorizedEntries(requests, deps.index.authorizedFor(agent, deps.clock.now() / 1000));
    }),
  });
}

async function batchCreate(deps: Deps, request: BatchCreateEntryRequest): Promise<BatchCreateEntryResponse> {
  const results = await perItem(request.entries, async (wire) => {
    const { entry, created } = await deps.entries.create(entryFromWire(wire));
    const shown = maskEntry(entryToWire(entry), request.outputMask);
    if (created) return { status: itemStatus(undefined), entry: shown };
    return {
      status: itemStatus(new AppError('already-exists', 'similar entry already exists')),
      entry: shown,
    };
  });
  return { results: results.map((r) => ('error' in r ? { status: r.status, entry: undefined } : r)) };
}

async function batchUpdate(deps: Deps, request: BatchUpdateEntryRequest): Promise<BatchUpdateEntryResponse> {
  const results = await perItem(request.entries, async (wire) => {
    const updated = await deps.entries.update(wire.id, (current) =>
      mergeEntry(current, wire, request.inputMask),
    );
    return { status: itemStatus(undefined), entry: maskEntry(entryToWire(updated), request.outputMask) };
  });
  return { results: results.map((r) => ('error' in r ? { status: r.status, entry: undefined } : r)) };
}

async function batchDelete(deps: Deps, request: BatchDeleteEntryRequest): Promise<BatchDeleteEntryResponse> {
  const results = await perItem(request.ids, async (id) => {
    if (id === '') throw new AppError('invalid-argument', 'missing entry ID');
    await deps.entries.delete(id);
    return { status: itemStatus(undefined) };
  });
  return { results: results.map((r, i) => ({ status: r.status, id: request.ids[i] ?? '' })) };
}

async function getEntry(deps: Deps, request: GetEntryRequest): Promise<Entry> {
  if (request.id === '') throw new AppError('invalid-argument', 'missing entry ID');
  return maskEntry(entryToWire(deps.entries.get(request.id)), request.outputMask);
}

async function listEntries(deps: Deps, request: ListEntriesRequest): Promise<ListEntriesResponse> {
  const filter = request.filter;
  // Also the empty hint and `false` are filters: whoever asks for part of the entries must not get all.
  const others = [filter?.bySelectors, filter?.byFederatesWith, filter?.byHint, filter?.byDownstream];
  if (others.some((other) => other !== undefined)) {
    throw new AppError('unimplemented', 'only the filters by_spiffe_id and by_parent_id are implemented');
  }
  if (request.pageSize < 0) throw new AppError('invalid-argument', 'page size must not be negative');
  const limit = request.pageSize === 0 ? undefined : Math.min(request.pageSize, defaultPage);
  const page = await deps.entries.list({
    ...(filter?.bySpiffeId === undefined ? {} : { spiffeId: spiffeIdFromWire(filter.bySpiffeId) }),
    ...(filter?.byParentId === undefined ? {} : { parentId: spiffeIdFromWire(filter.byParentId) }),
    ...(request.pageToken === '' ? {} : { afterId: request.pageToken }),
    ...(limit === undefined ? {} : { limit }),
  });
  const isFull = limit !== undefined && page.length === limit;
  return {
    entries: page.map((entry) => maskEntry(entryToWire(entry), request.outputMask)),
    nextPageToken: isFull ? (page.at(-1)?.id ?? '') : '',
  };
}

/** Runs a batch one item after the other; a failing item gets its status and does not disturb the others. */
async function perItem<T, R extends { status: ReturnType<typeof itemStatus> }>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<(R | { status: ReturnType<typeof itemStatus>; error: true })[]> {
  if (items.length > maxBatch) {
    throw new AppError(
      'resource-exhausted',
      `batch of ${items.length} items; at most ${maxBatch} are allowed`,
    );
  }
  const results: (R | { status: ReturnType<typeof itemStatus>; error: true })[] = [];
  for (const item of items) {
    results.push(
      await work(item).catch((error: unknown) => ({ status: itemStatus(error), error: true as const })),
    );
  }
  return results;
}
