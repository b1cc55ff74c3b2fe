import { EntryService, type SyncAuthorizedEntriesResponse } from '../gen/spire/api/server/entry/v1/entry.ts';
import type { Entry, EntryMask } from '../gen/spire/api/types/entry.ts';
import { type BidiCall, type ClientChannel, openBidi } from '../rpc/grpc-client.ts';
import { entryFromWire } from '../rpc/messages.ts';
import { AppError, isAppError } from '../runtime/error.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';

/** A first sync of a large registry has many pages. */
const syncTimeoutMs = 60_000;

/** SPIRE's agents leave out some of these; with all of them an entry has no holes. The revision must be among them. */
const outputMask: EntryMask = {
  spiffeId: true,
  parentId: true,
  selectors: true,
  x509SvidTtl: true,
  federatesWith: true,
  admin: true,
  downstream: true,
  expiresAt: true,
  dnsNames: true,
  revisionNumber: true,
  storeSvid: true,
  jwtSvidTtl: true,
  hint: true,
  createdAt: true,
  additionalAttributes: true,
};

export interface EntrySyncOptions {
  readonly signal: AbortSignal;
  readonly onInvalid?: (id: string, error: AppError) => void;
}

interface Request {
  readonly outputMask: EntryMask | undefined;
  readonly ids: string[];
}
type Call = BidiCall<Request, SyncAuthorizedEntriesResponse>;

/**
 * SyncAuthorizedEntries as SPIRE's agents speak it. The server answers the first request with all entries, when they
 * are few, or with pages of revisions; of the latter, those that `held` does not have as they are now are asked for
 * by id, no more at once than the first page had. Throws AppError.
 */
export async function syncEntries(
  channel: ClientChannel,
  held: readonly RegistrationEntry[],
  options: EntrySyncOptions,
): Promise<readonly RegistrationEntry[]> {
  const { signal } = options;
  const byId = new Map(held.map((entry) => [entry.id, entry]));
  const call = openBidi(channel, EntryService.syncAuthorizedEntries, { signal, timeoutMs: syncTimeoutMs });
  try {
    call.send({ outputMask, ids: [] });
    const first = await nextPage(call);
    if (first.entryRevisions.length === 0) {
      const all = await readEntries(call, first);
      call.conclude();
      return parseEntries(all, byId, options);
    }
    const { current, stale } = await compare(call, first, byId);
    const fetched: Entry[] = [];
    const perRequest = first.entryRevisions.length;
    for (let start = 0; start < stale.length; start += perRequest) {
      call.send({ outputMask: undefined, ids: stale.slice(start, start + perRequest) });
      fetched.push(...(await readEntries(call, await nextPage(call))));
    }
    call.conclude();
    return [...current, ...parseEntries(fetched, new Map(), options)];
  } catch (error) {
    call.cancel();
    throw error;
  }
}

/** Reads all pages of revisions: which of `held` are still current, and the ids of all that are not held like that. */
async function compare(
  call: Call,
  first: SyncAuthorizedEntriesResponse,
  held: ReadonlyMap<string, RegistrationEntry>,
): Promise<{ readonly current: readonly RegistrationEntry[]; readonly stale: readonly string[] }> {
  const current: RegistrationEntry[] = [];
  const stale: string[] = [];
  for (let page = first; ; page = await nextPage(call)) {
    if (page.entries.length > 0) throw malformed('entries among revisions');
    for (const { id, revisionNumber, createdAt } of page.entryRevisions) {
      const known = held.get(id);
      if (known !== undefined && isSame(known, revisionNumber, createdAt)) current.push(known);
      else stale.push(id);
    }
    if (!page.more) return { current, stale };
  }
}

/** `page` and those that follow it. */
async function readEntries(call: Call, page: SyncAuthorizedEntriesResponse): Promise<readonly Entry[]> {
  const entries: Entry[] = [];
  for (let next = page; ; next = await nextPage(call)) {
    if (next.entryRevisions.length > 0) throw malformed('revisions among entries');
    entries.push(...next.entries);
    if (!next.more) return entries;
  }
}

async function nextPage(call: Call): Promise<SyncAuthorizedEntriesResponse> {
  const page = await call.next();
  if (page === undefined) throw malformed('the stream ended too early');
  return page;
}

/** One entry that cannot be understood must not keep the agent from all others. */
function parseEntries(
  entries: readonly Entry[],
  held: ReadonlyMap<string, RegistrationEntry>,
  options: EntrySyncOptions,
): readonly RegistrationEntry[] {
  return entries.flatMap((wire) => {
    const known = held.get(wire.id);
    if (known !== undefined && isSame(known, wire.revisionNumber, wire.createdAt)) return [known];
    try {
      return [entryFromWire(wire)];
    } catch (error) {
      if (!isAppError(error)) throw error;
      options.onInvalid?.(wire.id, error);
      return [];
    }
  });
}

function isSame(entry: RegistrationEntry, revision: bigint, createdAt: bigint): boolean {
  // SPIRE before 1.12 does not say when an entry was made; else it could be another one of the same id.
  const isSameEntry = createdAt === 0n || BigInt(entry.createdAt) === createdAt;
  return isSameEntry && BigInt(entry.revision) === revision;
}

function malformed(what: string): AppError {
  return new AppError('internal', `SyncAuthorizedEntries: ${what}`);
}
