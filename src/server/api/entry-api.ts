import {
  type BatchCreateEntryRequest,
  type BatchCreateEntryResponse,
  type BatchCreateEntryResponse_Result,
  type BatchDeleteEntryRequest,
  type BatchDeleteEntryResponse,
  type BatchDeleteEntryResponse_Result,
  type BatchUpdateEntryRequest,
  type BatchUpdateEntryResponse,
  type BatchUpdateEntryResponse_Result,
  EntryService,
  type GetAuthorizedEntriesRequest,
  type GetEntryRequest,
  type ListEntriesRequest,
  type ListEntriesResponse,
  type SyncAuthorizedEntriesRequest,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { Entry } from '../../gen/spire/api/types/entry.ts';
import type { Status } from '../../gen/spire/api/types/status.ts';
import { bidi, serviceOf, unary } from '../../rpc/handlers.ts';
import { entryFromWire, entryToWire, spiffeIdFromWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Entries } from '../registration/entries.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import type { Access } from './access.ts';
import { maskEntry, mergeEntry } from './entry-mask.ts';
import { syncAuthorizedEntries } from './entry-sync.ts';
import { failedStatus } from './messages.ts';

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
    batchCreateEntry: unary((request: BatchCreateEntryRequest, { log }) => batchCreate(deps, request, log)),
    batchUpdateEntry: unary((request: BatchUpdateEntryRequest, { log }) => batchUpdate(deps, request, log)),
    batchDeleteEntry: unary((request: BatchDeleteEntryRequest, { log }) => batchDelete(deps, request, log)),
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
      const authorized = deps.index.authorizedFor(agent, deps.clock.now() / 1000);
      yield* syncAuthorizedEntries(requests, authorized, { clock: deps.clock, signal: context.signal });
    }),
  });
}

async function batchCreate(
  deps: Deps,
  request: BatchCreateEntryRequest,
  log: Logger,
): Promise<BatchCreateEntryResponse> {
  const results = await perItem<Entry, BatchCreateEntryResponse_Result>({
    items: request.entries,
    work: async (wire) => {
      const { entry, created } = await deps.entries.create(entryFromWire(wire));
      const similar = new AppError('already-exists', 'similar entry already exists');
      return {
        status: itemStatus(created ? undefined : similar),
        entry: maskEntry(entryToWire(entry), request.outputMask),
      };
    },
    failed: (status) => ({ status, entry: undefined }),
    log,
  });
  return { results };
}

async function batchUpdate(
  deps: Deps,
  request: BatchUpdateEntryRequest,
  log: Logger,
): Promise<BatchUpdateEntryResponse> {
  const results = await perItem<Entry, BatchUpdateEntryResponse_Result>({
    items: request.entries,
    work: async (wire) => {
      const updated = await deps.entries.update(wire.id, (current) =>
        mergeEntry(current, wire, request.inputMask),
      );
      return { status: itemStatus(undefined), entry: maskEntry(entryToWire(updated), request.outputMask) };
    },
    failed: (status) => ({ status, entry: undefined }),
    log,
  });
  return { results };
}

async function batchDelete(
  deps: Deps,
  request: BatchDeleteEntryRequest,
  log: Logger,
): Promise<BatchDeleteEntryResponse> {
  const results = await perItem<string, BatchDeleteEntryResponse_Result>({
    items: request.ids,
    work: async (id) => {
      if (id === '') throw new AppError('invalid-argument', 'missing entry ID');
      await deps.entries.delete(id);
      return { status: itemStatus(undefined), id };
    },
    failed: (status, id) => ({ status, id }),
    log,
  });
  return { results };
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
async function perItem<T, R>(batch: {
  readonly items: readonly T[];
  readonly work: (item: T) => Promise<R>;
  readonly failed: (status: Status, item: T) => R;
  readonly log: Logger;
}): Promise<R[]> {
  const { items, work, failed, log } = batch;
  if (items.length > maxBatch) {
    throw new AppError(
      'resource-exhausted',
      `batch of ${items.length} items; at most ${maxBatch} are allowed`,
    );
  }
  const results: R[] = [];
  for (const item of items) {
    results.push(await work(item).catch((error: unknown) => failed(failedStatus(error, log), item)));
  }
  return results;
}
