import {
  type CountEntriesRequest,
  EntryService,
  type GetAuthorizedEntriesRequest,
  type GetEntryRequest,
  type ListEntriesRequest,
  ListEntriesResponse,
  type SyncAuthorizedEntriesRequest,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { Entry } from '../../gen/spire/api/types/entry.ts';
import { bidi, serviceOf, unary } from '../../rpc/handlers.ts';
import { entryToWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Entries } from '../registration/entries.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import type { Access } from './access.ts';
import { encodedMessage } from './encoded-message.ts';
import { entryBatches } from './entry-batches.ts';
import { EntryEncoder } from './entry-encoder.ts';
import { maskEntry } from './entry-mask.ts';
import { entryFilterFromWire } from './entry-query.ts';
import { syncAuthorizedEntries } from './entry-sync.ts';
import { pageOf, parsePage } from './page-token.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly entries: Entries;
  readonly index: EntryIndex;
  readonly access: Access;
  readonly clock: Clock;
}

/** What `encodedMessage` makes needs no encoding any more. */
const asIs = { responseSerialize: (bytes: Buffer) => bytes };

/** The methods whose answers may be thousands of entries take and give encoded messages. */
const definition = {
  ...EntryService,
  listEntries: { ...EntryService.listEntries, ...asIs },
  batchCreateEntry: { ...EntryService.batchCreateEntry, ...asIs },
  batchUpdateEntry: { ...EntryService.batchUpdateEntry, ...asIs },
  getAuthorizedEntries: { ...EntryService.getAuthorizedEntries, ...asIs },
  syncAuthorizedEntries: { ...EntryService.syncAuthorizedEntries, ...asIs },
};

/** Field `entries` of ListEntriesResponse and GetAuthorizedEntriesResponse. */
const entriesField = 1;

/** `spire.api.server.entry.v1.Entry`: the registry for administrators, and what agents may have of it. */
export function entryApi(deps: Deps) {
  const { entries, index, access, clock } = deps;
  const encoder = new EntryEncoder();
  const batches = entryBatches({ entries, encoder });
  return serviceOf(definition, {
    ...batches,
    countEntries: unary(async ({ filter }: CountEntriesRequest) => ({
      count: index.count(entryFilterFromWire(filter, deps.trustDomain)),
    })),
    listEntries: unary(async (request: ListEntriesRequest) => listEntries(deps, encoder, request)),
    getEntry: unary(async (request: GetEntryRequest) => getEntry(entries, request)),
    getAuthorizedEntries: unary(async ({ outputMask }: GetAuthorizedEntriesRequest, { caller }) => {
      const authorized = index.authorizedFor(await access.requireAgent(caller), clock.now() / 1000);
      return encodedMessage([{ field: entriesField, messages: encoder.entries(authorized, outputMask) }]);
    }),
    syncAuthorizedEntries: bidi(async function* (
      requests: AsyncIterable<SyncAuthorizedEntriesRequest>,
      { caller, signal },
    ) {
      const authorized = index.authorizedFor(await access.requireAgent(caller), clock.now() / 1000);
      yield* syncAuthorizedEntries(requests, authorized, { encoder, clock, signal });
    }),
  });
}

async function getEntry(entries: Entries, { id, outputMask }: GetEntryRequest): Promise<Entry> {
  if (id === '') throw new AppError('invalid-argument', 'missing ID');
  return maskEntry(entryToWire(entries.get(id)), outputMask);
}

function listEntries(
  { index, trustDomain }: Deps,
  encoder: EntryEncoder,
  request: ListEntriesRequest,
): Buffer {
  const wanted = parsePage(request);
  const found = index.list(entryFilterFromWire(request.filter, trustDomain), wanted);
  const { page, nextPageToken } = pageOf(found, wanted, ({ id }) => id);
  return encodedMessage([
    { field: entriesField, messages: encoder.entries(page, request.outputMask) },
    ListEntriesResponse.encode({ entries: [], nextPageToken }).finish(),
  ]);
}
