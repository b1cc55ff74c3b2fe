import {
  type SyncAuthorizedEntriesRequest,
  SyncAuthorizedEntriesResponse,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { type EncodedField, encodedMessage } from './encoded-message.ts';
import type { EntryEncoder } from './entry-encoder.ts';
import { nextMessage } from './next-message.ts';

/** SPIRE's page size; its agents take the first page's length as theirs. */
const pageSize = 500;
/** What is sent is what the agent could have when it began: it must not keep asking from that for long. */
const messageTimeoutMs = 30_000;

/** Fields of SyncAuthorizedEntriesResponse. */
const entryRevisionsField = 1;
const entriesField = 2;
const lastPage = SyncAuthorizedEntriesResponse.encode({
  entryRevisions: [],
  entries: [],
  more: false,
}).finish();
const otherPage = SyncAuthorizedEntriesResponse.encode({
  entryRevisions: [],
  entries: [],
  more: true,
}).finish();

/**
 * The conversation of SyncAuthorizedEntries as SPIRE's agents hold it: few entries are sent whole at once; for
 * more, pages of revisions come first, and the agent asks by id for those that are new to it. An id that the
 * agent is not entitled to is left out without a word. Yields encoded messages.
 */
export async function* syncAuthorizedEntries(
  requests: AsyncIterable<SyncAuthorizedEntriesRequest>,
  authorized: readonly RegistrationEntry[],
  deps: { readonly encoder: EntryEncoder; readonly clock: Clock; readonly signal: AbortSignal },
): AsyncGenerator<Buffer> {
  const { encoder, clock, signal } = deps;
  const incoming = requests[Symbol.asyncIterator]();
  const wait = { clock, signal, timeoutMs: messageTimeoutMs, what: 'sync message' };
  const first = await nextMessage(incoming, wait);
  if (first === undefined) return;
  if (first.ids.length > 0) {
    throw new AppError('invalid-argument', 'specifying IDs on initial request is not supported');
  }
  // The mask of the first message holds for the whole conversation, as in SPIRE.
  const mask = first.outputMask;
  if (mask !== undefined && !mask.revisionNumber) {
    throw new AppError('invalid-argument', 'revision number cannot be masked');
  }
  const whole = (page: readonly RegistrationEntry[]) => ({
    field: entriesField,
    messages: encoder.entries(page, mask),
  });
  if (authorized.length <= pageSize) {
    yield encodedMessage([whole(authorized), lastPage]);
    return;
  }
  yield* pagesOf(authorized, (page) => ({ field: entryRevisionsField, messages: encoder.revisions(page) }));
  let byId: ReadonlyMap<string, RegistrationEntry> | undefined;
  for (;;) {
    const request = await nextMessage(incoming, wait);
    if (request === undefined) return;
    byId ??= new Map(authorized.map((entry) => [entry.id, entry]));
    yield* pagesOf(askedFor(request.ids, byId), whole);
  }
}

/** An id asked for a million times is sent once. */
function askedFor(
  ids: readonly string[],
  authorized: ReadonlyMap<string, RegistrationEntry>,
): readonly RegistrationEntry[] {
  return [...new Set(ids)].flatMap((id) => authorized.get(id) ?? []);
}

/** At least one page, which may be empty. */
function* pagesOf(
  entries: readonly RegistrationEntry[],
  fieldOf: (page: readonly RegistrationEntry[]) => EncodedField,
): Generator<Buffer> {
  let start = 0;
  do {
    const page = entries.slice(start, start + pageSize);
    start += pageSize;
    yield encodedMessage([fieldOf(page), start < entries.length ? otherPage : lastPage]);
  } while (start < entries.length);
}
