import {
  type BatchCreateEntryRequest,
  BatchCreateEntryResponse_Result,
  type BatchDeleteEntryRequest,
  type BatchDeleteEntryResponse,
  type BatchUpdateEntryRequest,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { EntryMask } from '../../gen/spire/api/types/entry.ts';
import type { Status } from '../../gen/spire/api/types/status.ts';
import type { EntryCreation } from '../../plugin-api/data-store.ts';
import { unary } from '../../rpc/handlers.ts';
import { entryFromWire } from '../../rpc/messages.ts';
import { itemStatus } from '../../rpc/status.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { attemptEach, forAccepted } from '../registration/batch.ts';
import type { Entries } from '../registration/entries.ts';
import { encodedMessage } from './encoded-message.ts';
import type { EntryEncoder } from './entry-encoder.ts';
import { mergeEntry } from './entry-mask.ts';
import { failedStatus, requireBatch } from './messages.ts';

const maxBatch = 1000;

/** Of all responses of batches, and of all results in them. */
const resultsField = 1;
const entryField = 2;

const similar = itemStatus(new AppError('already-exists', 'similar entry already exists'));

interface Deps {
  readonly entries: Entries;
  readonly encoder: EntryEncoder;
}

/**
 * The batches of the Entry API: each is one transaction, each item has its own status, and those that fail do not
 * disturb the others.
 */
export function entryBatches(deps: Deps) {
  return {
    batchCreateEntry: unary((request: BatchCreateEntryRequest, { log }) => batchCreate(deps, request, log)),
    batchUpdateEntry: unary((request: BatchUpdateEntryRequest, { log }) => batchUpdate(deps, request, log)),
    batchDeleteEntry: unary((request: BatchDeleteEntryRequest, { log }) => batchDelete(deps, request, log)),
  };
}

async function batchCreate(deps: Deps, request: BatchCreateEntryRequest, log: Logger): Promise<Buffer> {
  const { entries, encoder } = deps;
  requireBatch(request.entries, maxBatch);
  const wanted = attemptEach(request.entries, entryFromWire);
  const results = await forAccepted<RegistrationEntry, EntryCreation>(wanted, (accepted) =>
    entries.create(accepted),
  );
  return encodedResults(
    encoder,
    request.outputMask,
    results.map((result) =>
      isAppError(result)
        ? { status: failedStatus(inWords(result, 'create'), log), entry: undefined }
        : { status: result.created ? itemStatus() : similar, entry: result.entry },
    ),
  );
}

async function batchUpdate(deps: Deps, request: BatchUpdateEntryRequest, log: Logger): Promise<Buffer> {
  const { entries, encoder } = deps;
  requireBatch(request.entries, maxBatch);
  const results = await entries.update(
    request.entries.map((wire) => ({
      id: wire.id,
      change: (current) => mergeEntry(current, wire, request.inputMask),
    })),
  );
  return encodedResults(
    encoder,
    request.outputMask,
    results.map((result) =>
      isAppError(result)
        ? { status: failedStatus(inWords(result, 'update'), log), entry: undefined }
        : { status: itemStatus(), entry: result },
    ),
  );
}

async function batchDelete(
  { entries }: Deps,
  { ids }: BatchDeleteEntryRequest,
  log: Logger,
): Promise<BatchDeleteEntryResponse> {
  requireBatch(ids, maxBatch);
  const wanted = attemptEach(ids, (id) => {
    if (id === '') throw new AppError('invalid-argument', 'missing entry ID');
    return id;
  });
  const results = await forAccepted<string, RegistrationEntry>(wanted, (accepted) =>
    entries.delete(accepted),
  );
  return {
    results: results.map((result, i) => ({
      status: isAppError(result) ? failedStatus(result, log) : itemStatus(),
      id: ids[i] ?? '',
    })),
  };
}

/** BatchCreateEntryResponse and BatchUpdateEntryResponse are the same on the wire. */
function encodedResults(
  encoder: EntryEncoder,
  mask: EntryMask | undefined,
  results: readonly { readonly status: Status; readonly entry: RegistrationEntry | undefined }[],
): Buffer {
  const messages = results.map(({ status, entry }) =>
    encodedMessage([
      BatchCreateEntryResponse_Result.encode({ status, entry: undefined }).finish(),
      { field: entryField, messages: entry === undefined ? [] : encoder.entries([entry], mask) },
    ]),
  );
  return encodedMessage([{ field: resultsField, messages }]);
}

/** SPIRE's words for what went wrong with one entry. */
function inWords(error: AppError, verb: 'create' | 'update'): AppError {
  const what = error.code === 'invalid-argument' ? 'failed to convert entry' : `failed to ${verb} entry`;
  return new AppError(error.code, `${what}: ${error.message}`, { cause: error });
}
