import type { Metadata, ServerDuplexStream, ServiceDefinition } from '@grpc/grpc-js';
import type { Logger } from '../runtime/log.ts';
import type { LogLimiter } from '../runtime/log-limiter.ts';
import type { Caller } from './caller.ts';

/** What a handler knows of the call it serves. */
export interface CallContext {
  readonly caller: Caller;
  /** Full path, such as `/grpc.health.v1.Health/Check`. */
  readonly method: string;
  readonly metadata: Metadata;
  /** Aborts when nobody waits for the answer any more: cancelled, past its deadline, connection lost, server stopping. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** For lines that a caller can provoke at will; shared by all calls of the listener. */
  readonly limitedLog: LogLimiter;
}

/** Context of a handler that works on the stream itself. */
export interface RawCallContext extends CallContext {
  /** Ends the stream: OK, or with the status of `error`, which is logged. Once; later calls do nothing. */
  end(error?: unknown): void;
}

/** Decides whether a call may go on; throws an AppError when not. */
export type Authorize = (caller: Caller, method: string) => Promise<void> | void;

/**
 * Decides by the caller and the request, of a stream the first message, whether a call may go on now; throws
 * `resource-exhausted` when not. What it returns is told once how the call ended: without an error, well.
 */
export type AdmitCall = (call: {
  readonly caller: Caller;
  readonly method: string;
  readonly request: unknown;
}) => ((error?: unknown) => void) | undefined;

export interface UnaryHandler<Req, Res> {
  readonly kind: 'unary';
  readonly handle: (request: Req, context: CallContext) => Promise<Res>;
}

export interface ServerStreamHandler<Req, Res> {
  readonly kind: 'server-stream';
  readonly handle: (request: Req, context: CallContext) => AsyncIterable<Res>;
}

export interface BidiHandler<Req, Res> {
  readonly kind: 'bidi';
  readonly handle: (requests: AsyncIterable<Req>, context: CallContext) => AsyncIterable<Res>;
}

export interface RawBidiHandler<Req, Res> {
  readonly kind: 'raw-bidi';
  readonly handle: (call: ServerDuplexStream<Req, Res>, context: RawCallContext) => void;
}

/** One request, one answer. */
export function unary<Req, Res>(handle: UnaryHandler<Req, Res>['handle']): UnaryHandler<Req, Res> {
  return { kind: 'unary', handle };
}

/** One request, many answers; the stream ends when the iterable does. It is asked for no more than the caller reads. */
export function serverStream<Req, Res>(
  handle: ServerStreamHandler<Req, Res>['handle'],
): ServerStreamHandler<Req, Res> {
  return { kind: 'server-stream', handle };
}

/** Many requests, many answers; the stream ends when the returned iterable does. */
export function bidi<Req, Res>(handle: BidiHandler<Req, Res>['handle']): BidiHandler<Req, Res> {
  return { kind: 'bidi', handle };
}

/** The stream itself, for handlers to whom an iterator per stream costs too much. They watch `signal` to clean up. */
export function rawBidi<Req, Res>(handle: RawBidiHandler<Req, Res>['handle']): RawBidiHandler<Req, Res> {
  return { kind: 'raw-bidi', handle };
}

/** A handler of any kind, for any messages. */
export type AnyHandler =
  | UnaryHandler<never, unknown>
  | ServerStreamHandler<never, unknown>
  | BidiHandler<never, unknown>
  // `unknown` would not do: the stream both takes and gives its messages.
  | RawBidiHandler<never, never>;

/** A gRPC service with the handlers we have for it. */
export interface GrpcService {
  readonly definition: ServiceDefinition;
  readonly handlers: ReadonlyMap<string, AnyHandler>;
}

interface Method<Req, Res, RequestStream, ResponseStream> {
  readonly requestStream: RequestStream;
  readonly responseStream: ResponseStream;
  readonly requestDeserialize: (bytes: Buffer) => Req;
  readonly responseSerialize: (value: Res) => Buffer;
}

type HandlerOf<M> =
  M extends Method<infer Req, infer Res, false, false>
    ? UnaryHandler<Req, Res>
    : M extends Method<infer Req, infer Res, false, true>
      ? ServerStreamHandler<Req, Res>
      : M extends Method<infer Req, infer Res, true, true>
        ? BidiHandler<Req, Res> | RawBidiHandler<Req, Res>
        : never;

/** Binds handlers to a generated service definition. Methods without one answer UNIMPLEMENTED. */
export function serviceOf<Definition extends ServiceDefinition>(
  definition: Definition,
  handlers: { readonly [Name in keyof Definition]?: HandlerOf<Definition[Name]> },
): GrpcService {
  return { definition, handlers: new Map(Object.entries(handlers as Record<string, AnyHandler>)) };
}
