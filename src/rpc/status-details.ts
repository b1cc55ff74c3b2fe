import { Metadata } from '@grpc/grpc-js';
import type { Any } from '../gen/google/protobuf/any.ts';
import { RetryInfo } from '../gen/google/rpc/error_details.ts';
import { Status as RpcStatus } from '../gen/google/rpc/status.ts';
import {
  PermissionDeniedDetails,
  PermissionDeniedDetails_Reason as Reason,
} from '../gen/spire/api/types/status.ts';
import type { AppError } from '../runtime/error.ts';

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
const retryTypeUrl = 'type.googleapis.com/google.rpc.RetryInfo';
/** The other side chose the time; nobody is kept waiting for ever by a number. */
const maxRetryAfterMs = 600_000;

/** What an error says to programs besides its code. */
export interface StatusDetails {
  readonly reason?: string;
  readonly retryAfterMs?: number;
}

/** The trailers with `google.rpc.Status` and its details; empty when the error has none that others know. */
export function detailsMetadata(error: AppError, status: { code: number; message: string }): Metadata {
  const metadata = new Metadata();
  const details = [...reasonDetail(error), ...retryDetail(error)];
  if (details.length > 0) {
    metadata.set(detailsKey, Buffer.from(RpcStatus.encode({ ...status, details }).finish()));
  }
  return metadata;
}

/** What the trailers of a failed call say. Details that cannot be read say nothing; the code still counts. */
export function receivedDetails(metadata: unknown): StatusDetails {
  const bytes = metadata instanceof Metadata ? metadata.get(detailsKey)[0] : undefined;
  if (!Buffer.isBuffer(bytes)) return {};
  try {
    const { details } = RpcStatus.decode(bytes);
    return { ...receivedReason(details), ...receivedRetry(details) };
  } catch {
    return {};
  }
}

function reasonDetail({ reason }: AppError): Any[] {
  if (reason === undefined || !Object.hasOwn(reasons, reason)) return [];
  const number = reasons[reason as keyof typeof reasons];
  return [
    {
      typeUrl: reasonTypeUrl,
      value: Buffer.from(PermissionDeniedDetails.encode({ reason: number }).finish()),
    },
  ];
}

function retryDetail({ retryAfterMs }: AppError): Any[] {
  if (retryAfterMs === undefined) return [];
  const ms = Math.ceil(retryAfterMs);
  const retryDelay = { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1_000_000 };
  return [{ typeUrl: retryTypeUrl, value: Buffer.from(RetryInfo.encode({ retryDelay }).finish()) }];
}

function receivedReason(details: readonly Any[]): StatusDetails {
  const found = details.find(({ typeUrl }) => typeUrl === reasonTypeUrl);
  if (found === undefined) return {};
  const { reason: number } = PermissionDeniedDetails.decode(found.value);
  const reason = Object.entries(reasons).find(([, known]) => known === number)?.[0];
  return reason === undefined ? {} : { reason };
}

function receivedRetry(details: readonly Any[]): StatusDetails {
  const found = details.find(({ typeUrl }) => typeUrl === retryTypeUrl);
  const delay = found === undefined ? undefined : RetryInfo.decode(found.value).retryDelay;
  if (delay === undefined) return {};
  const ms = Number(delay.seconds) * 1000 + delay.nanos / 1_000_000;
  return { retryAfterMs: Math.min(Math.max(0, ms), maxRetryAfterMs) };
}
