import {
  type BatchCreateEntryResponse_Result,
  EntryService,
  type ListEntriesRequest_Filter,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { Entry } from '../../gen/spire/api/types/entry.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { entryFromWire, entryToWire, selectorToWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { fromItemStatus } from '../../rpc/status.ts';
import { type AppError, isAppError } from '../../runtime/error.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import type { MatchBehavior, Selector } from '../../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type ClientCall, limits, malformed, pageSize, received, requireAll } from '../answers.ts';
import { matchBehaviors } from './match-behaviors.ts';

/** Half of what a server reads at once over TLS unless it is told otherwise. */
const batchBytes = 512 * 1024;

/** Which entries are meant: those for which all that is given holds. */
export interface EntryQuery {
  readonly spiffeId?: SpiffeId | undefined;
  readonly parentId?: SpiffeId | undefined;
  readonly selectors?: { readonly wanted: readonly Selector[]; readonly match: MatchBehavior } | undefined;
  readonly federatesWith?:
    | { readonly wanted: readonly TrustDomain[]; readonly match: MatchBehavior }
    | undefined;
  readonly hint?: string | undefined;
  readonly downstream?: boolean | undefined;
}

/** An entry that is on the server now; `existed` when its parent, ID and selectors were registered before. */
export interface CreatedEntry {
  readonly entry: RegistrationEntry;
  readonly existed: boolean;
}

/** `spire.api.server.entry.v1.Entry` for administrators. */
export class EntryClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /**
   * Creates the entries, in batches, and gives the results of each batch as it is done, in order; an item that
   * was refused is the AppError in its place.
   */
  async *createInBatches(
    entries: readonly NewEntry[],
    call: ClientCall,
  ): AsyncGenerator<readonly (CreatedEntry | AppError)[]> {
    for (const batch of batchesOf(entries)) {
      const request = { entries: [...batch], outputMask: undefined };
      const method = EntryService.batchCreateEntry;
      const { results } = await callUnary(this.#channel, method, request, limits(call));
      requireAll(results, batch);
      yield results.map(createdEntry);
    }
  }

  /** Creates the entries, in batches. Throws the first failure; what was created before it stays. */
  async create(entries: readonly NewEntry[], call: ClientCall): Promise<readonly CreatedEntry[]> {
    const created: CreatedEntry[] = [];
    for await (const results of this.createInBatches(entries, call)) {
      for (const result of results) {
        if (isAppError(result)) throw result;
        created.push(result);
      }
    }
    return created;
  }

  /** Throws `not-found`. */
  async get(id: string, call: ClientCall): Promise<RegistrationEntry> {
    const request = { id, outputMask: undefined };
    return received(
      entryFromWire,
      await callUnary(this.#channel, EntryService.getEntry, request, limits(call)),
    );
  }

  /** The entries that the query means, in the server's order. */
  async list(query: ClientCall & EntryQuery): Promise<readonly RegistrationEntry[]> {
    const filter = filterOf(query);
    const entries: RegistrationEntry[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter, outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, EntryService.listEntries, request, limits(query));
      for (const entry of page.entries) entries.push(received(entryFromWire, entry));
      if (page.nextPageToken === '') return entries;
      pageToken = page.nextPageToken;
    }
  }

  /** How many entries the query means. */
  async count(query: ClientCall & EntryQuery): Promise<number> {
    const request = { filter: filterOf(query) };
    return (await callUnary(this.#channel, EntryService.countEntries, request, limits(query))).count;
  }

  /** Replaces the entry that has this id, with all fields. Throws `not-found`. */
  async update(entry: NewEntry, call: ClientCall): Promise<RegistrationEntry> {
    const request = { entries: [entryToWire(entry)], inputMask: undefined, outputMask: undefined };
    const { results } = await callUnary(this.#channel, EntryService.batchUpdateEntry, request, limits(call));
    const error = fromItemStatus(results[0]?.status);
    if (error !== undefined) throw error;
    if (results[0]?.entry === undefined) throw malformed('the server sent no entry');
    return received(entryFromWire, results[0].entry);
  }

  /** Deletes the entries, in batches; those that were not deleted come back with the reason, such as `not-found`. */
  async delete(ids: readonly string[], call: ClientCall): Promise<ReadonlyMap<string, AppError>> {
    const refusals = new Map<string, AppError>();
    for (let start = 0; start < ids.length; start += pageSize) {
      const batch = ids.slice(start, start + pageSize);
      const method = EntryService.batchDeleteEntry;
      const { results } = await callUnary(this.#channel, method, { ids: batch }, limits(call));
      requireAll(results, batch);
      for (const { status, id } of results) {
        const error = fromItemStatus(status);
        if (error !== undefined) refusals.set(id, error);
      }
    }
    return refusals;
  }
}

/** Not too many entries, and not too many bytes either: some have hundreds of selectors. */
function* batchesOf(entries: readonly NewEntry[]): Generator<readonly Entry[]> {
  let batch: Entry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    const wire = entryToWire(entry);
    const size = Entry.encode(wire).finish().length;
    if (batch.length === pageSize || (batch.length > 0 && bytes + size > batchBytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(wire);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}

function createdEntry({ status, entry }: BatchCreateEntryResponse_Result): CreatedEntry | AppError {
  const error = fromItemStatus(status);
  const existed = error?.code === 'already-exists' && entry !== undefined;
  if (error !== undefined && !existed) return error;
  if (entry === undefined) throw malformed('the server sent no entry');
  return { entry: received(entryFromWire, entry), existed };
}

function filterOf(query: EntryQuery): ListEntriesRequest_Filter {
  const { spiffeId, parentId, selectors, federatesWith, hint, downstream } = query;
  return {
    bySpiffeId: spiffeId && spiffeIdToWire(spiffeId),
    byParentId: parentId && spiffeIdToWire(parentId),
    bySelectors: selectors && {
      selectors: selectors.wanted.map(selectorToWire),
      match: matchBehaviors[selectors.match],
    },
    byFederatesWith: federatesWith && {
      trustDomains: federatesWith.wanted.map((domain) => domain.name),
      match: matchBehaviors[federatesWith.match],
    },
    byHint: hint,
    byDownstream: downstream,
  };
}
