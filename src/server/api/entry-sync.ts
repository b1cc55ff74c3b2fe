import type {
  SyncAuthorizedEntriesRequest,
  SyncAuthorizedEntriesResponse,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { entryToWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { maskEntry } from './entry-mask.ts';
import { nextMessage } from './next-message.ts';

/** SPIRE's page size; its agents take the first page's length as theirs. */
const pageSize = 500;
/** What is sent is what the agent could have when it began: it must not keep asking from that for long. */
const messageTimeoutMs = 30_000;

/**
 * The conversation of SyncAuthorizedEntries as SPIRE's agents hold it: few entries are sent whole at once; for
 * more, pages of revisions come first, and the agent asks by id for those that are new to it. An id that the
 * agent is not entitled to is left out without a word.
 */
export async function* syncAuthorizedEntries(
  requests: AsyncIterable<SyncAuthorizedEntriesRequest>,
  authorized: readonly RegistrationEntry[],
  wait: { readonly clock: Clock; readonly signal: AbortSignal },
): AsyncGenerator<SyncAuthorizedEntriesResponse> {
  const incoming = requests[Symbol.asyncIterator]();
  const next = () => nextMessage(incoming, { ...wait, timeoutMs: messageTimeoutMs, what: 'sync message' });
  const first = await next();
  if (first === undefined) return;
  if (first.ids.length > 0) {
    throw new AppError('invalid-argument', 'specifying IDs on initial request is not supported');
  }
  const mask = first.outputMask;
  if (mask !== undefined && !mask.revisionNumber) {
    throw new AppError('invalid-argument', 'revision number cannot be masked');
  }
  const whole = (entry: RegistrationEntry) => maskEntry(entryToWire(entry), mask);
  if (authorized.length <= pageSize) {
    yield { entryRevisions: [], entries: authorized.map(whole), more: false };
    return;
  }
  for (const { page, more } of pagesOf(authorized)) {
    const entryRevisions = page.map((e) => ({
      id: e.id,
      revisionNumber: BigInt(e.revision),
      createdAt: BigInt(e.createdAt),
    }));
    yield { entryRevisions, entries: [], more };
  }
  const byId = new Map(authorized.map((entry) => [entry.id, entry]));
  for (let request = await next(); request !== undefined; request = await next()) {
    // An id asked for a million times is sent once.
    const asked = [...new Set(request.ids)].flatMap((id) => byId.get(id) ?? []);
    for (const { page, more } of pagesOf(asked)) {
      yield { entryRevisions: [], entries: page.map(whole), more };
    }
  }
}

/** At least one page, which may be empty. */
function* pagesOf<T>(items: readonly T[]): Generator<{ page: readonly T[]; more: boolean }> {
  let start = 0;
  do {
    const page = items.slice(start, start + pageSize);
    start += pageSize;
    yield { page, more: start < items.length };
  } while (start < items.length);
}
