import { status as grpcStatus, Metadata } from '@grpc/grpc-js';
import { Status as RpcStatus } from '../gen/google/rpc/status.ts';
import {
  type Status as ItemStatus,
  PermissionDeniedDetails,
  PermissionDeniedDetails_Reason as Reason,
} from '../gen/spire/api/types/status.ts';
import { AppError, type ErrorCode } from '../runtime/error.ts';

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

/** SPIRE's machine-readable reasons for refusing an agent (`spire.api.types.PermissionDeniedDetails`). */
const reasons = {
  AGENT_EXPIRED: Reason.AGENT_EXPIRED,
  AGENT_NOT_ATTESTED: Reason.AGENT_NOT_ATTESTED,
  AGENT_NOT_ACTIVE: Reason.AGENT_NOT_ACTIVE,
  AGENT_BANNED: Reason.AGENT_BANNED,
  AGENT_MUST_REATTEST: Reason.AGENT_MUST_REATTEST,
} as const;

const detailsKey = 'grpc-status-details-bin';
const reasonTypeUrl = 'type.googleapis.com/spire.api.types.PermissionDeniedDetails';
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
  const code = error instanceof AppError ? error.code : 'internal';
  const details = shownText(error);
  const metadata = new Metadata();
  const reason = findReason(error);
  if (reason !== undefined) {
    const value = Buffer.from(PermissionDeniedDetails.encode({ reason }).finish());
    const message = { code: grpcCodes[code], message: details, details: [{ typeUrl: reasonTypeUrl, value }] };
    metadata.set(detailsKey, Buffer.from(RpcStatus.encode(message).finish()));
  }
  return { code: grpcCodes[code], details, metadata };
}

/** The AppError behind a failed call of ours; anything but a gRPC error becomes `internal`. */
export function fromServiceError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (!isServiceError(error)) return new AppError('internal', 'gRPC call failed', { cause: error });
  const code = errorCodes.get(error.code) ?? 'internal';
  // The other side chose the text, and it may end up on a terminal.
  const text = plainReason(error.details.replaceAll(/\p{Cc}+/gu, ' ')).slice(0, maxMessageLength);
  const reason = receivedReason(error.metadata);
  return new AppError(
    code,
    text === '' ? `gRPC status ${error.code}` : text,
    reason === undefined ? {} : { reason },
  );
}

/** The same text for the same problem: without the words, times and durations that grpc-js puts around it. */
function plainReason(details: string): string {
  if (details.startsWith('Deadline exceeded after ')) return 'no answer in time';
  const [, why] =
    /^No connection established\. Last error: (?:\w*Error: )?(.*?)(?: \(\S+Z\))?\. Resolution note: /.exec(
      details,
    ) ?? [];
  return why === undefined ? details : `cannot connect: ${why}`;
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

function findReason(error: unknown): (typeof reasons)[keyof typeof reasons] | undefined {
  if (!(error instanceof AppError) || error.reason === undefined) return undefined;
  return Object.hasOwn(reasons, error.reason) ? reasons[error.reason as keyof typeof reasons] : undefined;
}

function receivedReason(metadata: unknown): string | undefined {
  const bytes = metadata instanceof Metadata ? metadata.get(detailsKey)[0] : undefined;
  if (!Buffer.isBuffer(bytes)) return undefined;
  try {
    const found = RpcStatus.decode(bytes).details.find(({ typeUrl }) => typeUrl === reasonTypeUrl);
    if (found === undefined) return undefined;
    const { reason } = PermissionDeniedDetails.decode(found.value);
    return Object.entries(reasons).find(([, number]) => number === reason)?.[0];
  } catch {
    // Details that cannot be read say nothing; the code still counts.
    return undefined;
  }
}

function isServiceError(error: unknown): error is { code: number; details: string; metadata?: unknown } {
  if (typeof error !== 'object' || error === null) return false;
  const { code, details } = error as { code?: unknown; details?: unknown };
  return typeof code === 'number' && typeof details === 'string';
}
