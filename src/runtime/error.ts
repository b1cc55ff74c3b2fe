/** What went wrong, as a closed set; `rpc/status.ts` maps each one to a gRPC code and back. */
export type ErrorCode =
  | 'invalid-argument'
  | 'unauthenticated'
  | 'permission-denied'
  | 'not-found'
  | 'already-exists'
  | 'failed-precondition'
  | 'resource-exhausted'
  | 'aborted'
  | 'unavailable'
  | 'deadline-exceeded'
  | 'cancelled'
  | 'unimplemented'
  | 'internal';

/**
 * The one error that crosses rooms. `message` is for people: what was expected, what came, where; never key
 * material or tokens. `reason` is for programs, such as `AGENT_BANNED`. `retryAfterMs` says from when on trying again
 * can help. `cause` is for logs only.
 */
export class AppError extends Error {
  override readonly name = 'AppError';
  readonly code: ErrorCode;
  readonly reason: string | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { reason?: string; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.reason = options.reason;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** True for an AppError with this code and, when given, this reason. */
export function isAppError(error: unknown, code?: ErrorCode, reason?: string): error is AppError {
  return (
    error instanceof AppError &&
    (code === undefined || error.code === code) &&
    (reason === undefined || error.reason === reason)
  );
}

/** The text of anything that was thrown, with the causes behind it, for logs and the command line. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${errorText(error.cause)}`;
}
