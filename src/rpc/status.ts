import { status as grpcStatus, Metadata } from '@grpc/grpc-js';
import type { Status as ItemStatus } from '../gen/spire/api/types/status.ts';
import { AppError, type ErrorCode } from '../runtime/error.ts';
import { detailsMetadata, receivedDetails } from './status-details.ts';

/** The one table between our error codes and gRPC's. */
const grpcCodes = {
  'invalid-argument': grpcStatus.INVALID_ARGUMENT,
  unauthenticated: grpcStatus.UNAUTHENTICATED,
  'permission-denied': grpcStatus.PERMISSION_DENIED,
  'not-found': grpcStatus.NOT_FOUND,
  'already-exists': grpcStatus.ALREADY_EXISTS,
  'failed-precondition': grpcStatus.FAILED_PRECONDITION,
  'resource-exhausted': grpcStatus.RESOURCE_EXHAUSTED,
  aborted: grpcStatus.ABORTED,
  unavailable: grpcStatus.UNAVAILABLE,
  'deadline-exceeded': grpcStatus.DEADLINE_EXCEEDED,
  cancelled: grpcStatus.CANCELLED,
  unimplemented: grpcStatus.UNIMPLEMENTED,
  internal: grpcStatus.INTERNAL,
} as const satisfies Record<ErrorCode, grpcStatus>;

/** Back again. UNKNOWN and DATA_LOSS, which we never send, count as internal. */
const errorCodes: ReadonlyMap<number, ErrorCode> = new Map<number, ErrorCode>([
  ...(Object.entries(grpcCodes) as [ErrorCode, number][]).map(([code, number]) => [number, code] as const),
  [grpcStatus.OUT_OF_RANGE, 'invalid-argument'],
]);

/** The text travels in a header, percent-encoded to at most nine times its length. */
const maxMessageLength = 1024;
const hiddenText = 'internal error';

/** How a call ends on the wire. */
export interface CallStatus {
  readonly code: grpcStatus;
  readonly details: string;
  readonly metadata: Metadata;
}

/** What a remote caller learns of an error: of internal ones, and of all that are no AppError, only that they happened. */
export function toServiceError(error: unknown): CallStatus {
  const code = grpcCodes[error instanceof AppError ? error.code : 'internal'];
  const details = shownText(error);
  const metadata =
    error instanceof AppError ? detailsMetadata(error, { code, message: details }) : new Metadata();
  return { code, details, metadata };
}

/** The AppError behind a failed call of ours; anything but a gRPC error becomes `internal`. */
export function fromServiceError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (!isServiceError(error)) return new AppError('internal', 'gRPC call failed', { cause: error });
  const code = errorCodes.get(error.code) ?? 'internal';
  // The other side chose the text, and it may end up on a terminal.
  const text = plainReason(error.details.replaceAll(/\p{Cc}+/gu, ' ')).slice(0, maxMessageLength);
  return new AppError(
    code,
    text === '' ? `gRPC status ${error.code}` : text,
    receivedDetails(error.metadata),
  );
}

/** The same text for the same problem: without the words, times and durations that grpc-js puts around it. */
function plainReason(details: string): string {
  if (details.startsWith('Deadline exceeded after ')) return 'no answer in time';
  const [, why] =
    /^No connection established\. Last error: (?:\w*Error: )?(.*?)(?: \(\S+Z\))?\. Resolution note: /.exec(
      details,
    ) ?? [];
  if (why === undefined) return details;
  const isNobody = /\b(?:ECONNREFUSED|ENOENT)\b/.test(why);
  return `cannot connect: ${why}${isNobody ? '; nobody listens there: start it, or name another address' : ''}`;
}

/** The status of one item of a batch (`spire.api.types.Status`); without an error OK. */
export function itemStatus(error?: unknown): ItemStatus {
  if (error === undefined) return { code: grpcStatus.OK, message: '' };
  const { code, details } = toServiceError(error);
  return { code, message: details };
}

/** The error that an item's status stands for, or undefined when it is OK. */
export function fromItemStatus(status: ItemStatus | undefined): AppError | undefined {
  if (status === undefined) return new AppError('internal', 'the server sent a result without a status');
  if (status.code === grpcStatus.OK) return undefined;
  return fromServiceError({ code: status.code, details: status.message });
}

function shownText(error: unknown): string {
  if (!(error instanceof AppError) || error.code === 'internal') return hiddenText;
  // grpc-js calls encodeURI, which throws on a lone surrogate in a place where nobody catches it.
  return error.message.slice(0, maxMessageLength).toWellFormed();
}

function isServiceError(error: unknown): error is { code: number; details: string; metadata?: unknown } {
  if (typeof error !== 'object' || error === null) return false;
  const { code, details } = error as { code?: unknown; details?: unknown };
  return typeof code === 'number' && typeof details === 'string';
}
