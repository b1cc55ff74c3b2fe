import { EntryService, type ListEntriesRequest_Filter } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { entryFromWire, entryToWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { fromItemStatus } from '../../rpc/status.ts';
import { AppError } from '../../runtime/error.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { type ClientCall, inBatches, limits, malformed, pageSize, received, requireAll } from '../answers.ts';

/** `spire.api.server.entry.v1.Entry` for administrators. */
export class EntryClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /**
   * Creates the entries, in batches; `existed` marks those whose parent, ID and selectors were registered before:
   * then the stored one is returned. Throws the first failure; what was created before it stays.
   */
  async create(
    entries: readonly NewEntry[],
    call: ClientCall,
  ): Promise<readonly { readonly entry: RegistrationEntry; readonly existed: boolean }[]> {
    const created = await inBatches(entries, async (batch) => {
      const request = { entries: batch.map(entryToWire), outputMask: undefined };
      const { results } = await callUnary(
        this.#channel,
        EntryService.batchCreateEntry,
        request,
        limits(call),
      );
      requireAll(results, batch);
      return results;
    });
    return created.map(({ status, entry }) => {
      const error = fromItemStatus(status);
      const existed = error?.code === 'already-exists' && entry !== undefined;
      if (error !== undefined && !existed) throw error;
      if (entry === undefined) throw malformed('the server sent no entry');
      return { entry: received(entryFromWire, entry), existed };
    });
  }

  /** Throws `not-found`. */
  async get(id: string, call: ClientCall): Promise<RegistrationEntry> {
    const request = { id, outputMask: undefined };
    return received(
      entryFromWire,
      await callUnary(this.#channel, EntryService.getEntry, request, limits(call)),
    );
  }

  /** All entries, or those with the given SPIFFE ID or parent. */
  async list(
    query: ClientCall & { readonly spiffeId?: SpiffeId; readonly parentId?: SpiffeId },
  ): Promise<readonly RegistrationEntry[]> {
    const filter: ListEntriesRequest_Filter = {
      bySpiffeId: query.spiffeId && spiffeIdToWire(query.spiffeId),
      byParentId: query.parentId && spiffeIdToWire(query.parentId),
      bySelectors: undefined,
      byFederatesWith: undefined,
      byHint: undefined,
      byDownstream: undefined,
    };
    const entries: RegistrationEntry[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter, outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, EntryService.listEntries, request, limits(query));
      entries.push(...page.entries.map((entry) => received(entryFromWire, entry)));
      if (page.nextPageToken === '') return entries;
      pageToken = page.nextPageToken;
    }
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

  /** Deletes the entries, in batches; throws the first failure, such as `not-found`, after all were tried. */
  async delete(ids: readonly string[], call: ClientCall): Promise<void> {
    const results = await inBatches(ids, async (batch) => {
      const request = { ids: [...batch] };
      return (await callUnary(this.#channel, EntryService.batchDeleteEntry, request, limits(call))).results;
    });
    for (const { status, id } of results) {
      const error = fromItemStatus(status);
      if (error !== undefined) throw new AppError(error.code, `entry "${id}": ${error.message}`);
    }
  }
}
