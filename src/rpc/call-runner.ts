import type {
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { AppError, type ErrorCode } from '../runtime/error.ts';
import type { Logger, LogLevel } from '../runtime/log.ts';
import { LogLimiter } from '../runtime/log-limiter.ts';
import type { Clock } from '../runtime/time.ts';
import { type Caller, callerText } from './caller.ts';
import type {
  AdmitCall,
  AnyHandler,
  Authorize,
  CallContext,
  GrpcService,
  RawBidiHandler,
} from './handlers.ts';
import { type CallKind, RunningCall, type SurfaceCall } from './running-call.ts';
import type { CallStatus } from './status.ts';
import { pump, requestsOf } from './streams.ts';

/** How loud a failed call is: our own faults first, what any caller can provoke at will last. */
const logLevelOf = {
  internal: 'error',
  'resource-exhausted': 'warn',
  unavailable: 'info',
  'deadline-exceeded': 'info',
  unauthenticated: 'info',
  'permission-denied': 'info',
  'failed-precondition': 'info',
  'invalid-argument': 'debug',
  'not-found': 'debug',
  'already-exists': 'debug',
  aborted: 'debug',
  cancelled: 'debug',
  unimplemented: 'debug',
} as const satisfies Record<ErrorCode, LogLevel>;

/** Our own faults are worth more lines, but a caller who has found one must not fill the disk with it either. */
const maxFaultLines = 100;

type UnaryCall = ServerUnaryCall<unknown, unknown>;
type DuplexCall = ServerDuplexStream<unknown, unknown>;
type StreamCall = DuplexCall | ServerWritableStream<unknown, unknown>;
type RawHandle = RawBidiHandler<never, never>['handle'];
/** `admit` is called with the request, of a stream with the first message, before that is worked on. */
type Work = (context: CallContext, admit: (request: unknown) => void) => Promise<unknown>;
type MethodKind = {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
};

interface Deps {
  /** Finds who is behind `getPeer()`; throws when the connection is not known. */
  readonly callerOf: (peer: string) => Caller;
  readonly authorize: Authorize;
  readonly admit?: AdmitCall | undefined;
  /** By path: what methods without a handler answer. */
  readonly missing?: Readonly<Record<string, string>> | undefined;
  readonly log: Logger;
  readonly clock: Clock;
}

/**
 * Runs the calls of one listener: finds the caller, asks for permission, hands the call to its handler, ends it with
 * a status and logs it once if it failed. Knows all calls that run, so that a stop can end them.
 */
export class CallRunner {
  readonly #deps: Deps;
  readonly #failures: LogLimiter;
  readonly #faults: LogLimiter;
  readonly #running = new Set<RunningCall>();
  readonly #forget = (call: RunningCall): void => {
    this.#running.delete(call);
    if (this.#running.size === 0) this.#onIdle();
  };
  readonly #streams: CallKind<StreamCall> = { isStream: true, end: endStream, onOver: this.#forget };
  #refusal: AppError | undefined;
  #onIdle: () => void = () => undefined;

  constructor(deps: Deps) {
    this.#deps = deps;
    this.#failures = new LogLimiter(deps);
    this.#faults = new LogLimiter(deps, maxFaultLines);
  }

  /** The service as grpc-js takes it. */
  implementationOf(service: GrpcService): UntypedServiceImplementation {
    const methods = Object.entries(service.definition).map(([name, method]) => {
      const handler = service.handlers.get(name);
      return [name, handler === undefined ? this.#missing(method) : this.#adapt(handler)] as const;
    });
    return Object.fromEntries(methods);
  }

  /** From now on every new call gets `error`; streams that run end with it at once, unary calls may finish. */
  refuse(error: AppError): void {
    this.#refusal = error;
    for (const call of [...this.#running]) if (call.isStream) call.fail(error);
  }

  /** Ends every call that still runs. */
  stopAll(error: AppError): void {
    for (const call of [...this.#running]) call.fail(error);
  }

  /** Ends the running calls of callers that match. */
  endCalls(match: (caller: Caller) => boolean, error: AppError): void {
    for (const call of [...this.#running]) {
      if (call.caller !== undefined && match(call.caller)) call.fail(error);
    }
  }

  /** Resolves when no call runs. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
  }

  #adapt(handler: AnyHandler): UntypedHandleCall {
    switch (handler.kind) {
      case 'unary':
        return this.#unary(async (call, context, admit) => {
          admit(call.request);
          return handler.handle(call.request as never, context);
        });
      case 'server-stream':
        return (call: ServerWritableStream<unknown, unknown>) =>
          this.#runStream(call, async (context, admit) => {
            admit(call.request);
            await pump(call, handler.handle(call.request as never, context), context.signal);
          });
      case 'bidi':
        return (call: DuplexCall) =>
          this.#runStream(call, (context, admit) => {
            const requests = requestsOf(call, context.signal, admit) as AsyncIterable<never>;
            return pump(call, handler.handle(requests, context), context.signal);
          });
      case 'raw-bidi':
        return (call: DuplexCall) => void this.#hand(call, handler.handle as RawHandle);
    }
  }

  /** Asks for permission first: who may not call a method is not told what would be there. */
  #missing({ path, requestStream, responseStream }: MethodKind): UntypedHandleCall {
    const work = () =>
      Promise.reject(
        new AppError('unimplemented', this.#deps.missing?.[path] ?? `${path} is not implemented`),
      );
    if (requestStream || responseStream) return (call: StreamCall) => this.#runStream(call, work);
    return this.#unary(work);
  }

  #unary(work: (call: UnaryCall, ...rest: Parameters<Work>) => Promise<unknown>): UntypedHandleCall {
    return (call: UnaryCall, respond: sendUnaryData<unknown>) => {
      const end = (_: SurfaceCall, status: CallStatus | undefined, value?: unknown) =>
        respond(status ?? null, value);
      const running = this.#begin(call, { isStream: false, end, onOver: this.#forget });
      void this.#serve(call, running, (...rest) => work(call, ...rest));
    };
  }

  #runStream(call: StreamCall, work: Work): void {
    void this.#serve(call, this.#begin(call, this.#streams), work);
  }

  #begin<Call extends SurfaceCall>(call: Call, kind: CallKind<Call>): RunningCall {
    const running = new RunningCall(call, kind as CallKind);
    this.#running.add(running);
    return running;
  }

  async #serve(call: SurfaceCall, running: RunningCall, work: Work): Promise<void> {
    const { admit } = this.#deps;
    let ended: ((error?: unknown) => void) | undefined;
    try {
      const context = await this.#enter(call, running);
      if (context === undefined) return;
      const { caller, method, signal } = context;
      const value = await work(context, (request) => {
        ended = admit?.({ caller, method, request });
      });
      ended?.(signal.aborted ? signal.reason : undefined);
      running.succeed(value);
    } catch (error) {
      ended?.(error);
      this.#fail(call, running, error);
    }
  }

  /** Hands the stream over to its handler; nothing here waits for it, since thousands of them may be open for days. */
  async #hand(call: DuplexCall, handle: RawHandle): Promise<void> {
    const running = this.#begin(call, this.#streams);
    try {
      const context = await this.#enter(call, running);
      if (context === undefined) return;
      const end = (error?: unknown) =>
        error === undefined ? running.succeed() : this.#fail(call, running, error);
      handle(call as ServerDuplexStream<never, never>, Object.assign(context, { end }));
    } catch (error) {
      this.#fail(call, running, error);
    }
  }

  /** Finds out who calls, and whether they may. Undefined when they have gone meanwhile; throws when they may not. */
  async #enter(call: SurfaceCall, running: RunningCall): Promise<CallContext | undefined> {
    const { callerOf, authorize, log } = this.#deps;
    if (this.#refusal !== undefined) throw this.#refusal;
    const caller = callerOf(peerOf(call));
    // Before permission is asked for: a caller that loses it meanwhile is ended as well.
    running.caller = caller;
    if (caller.kind === 'refused') throw caller.refusal;
    const method = call.getPath();
    await authorize(caller, method);
    const { signal } = running;
    if (signal.aborted) return undefined;
    return { caller, method, metadata: call.metadata, signal, log, limitedLog: this.#failures };
  }

  #fail(call: SurfaceCall, running: RunningCall, error: unknown): void {
    if (running.fail(error)) this.#logFailure(call, error, running.caller);
  }

  #logFailure(call: SurfaceCall, error: unknown, caller: Caller | undefined): void {
    const code = error instanceof AppError ? error.code : 'internal';
    const level = error === this.#refusal ? 'debug' : logLevelOf[code];
    const from = caller === undefined ? {} : { caller: callerText(caller) };
    const limiter = code === 'internal' ? this.#faults : this.#failures;
    limiter.write(level, { method: call.getPath(), ...from, code, error }, 'call failed', code);
  }
}

function endStream(call: StreamCall, status: CallStatus | undefined): void {
  if (status === undefined) call.end();
  else call.emit('error', status);
}

/** grpc-js throws when the connection is gone by the time a call is looked at. */
function peerOf(call: SurfaceCall): string {
  try {
    return call.getPeer();
  } catch (cause) {
    throw new AppError('cancelled', 'the connection is gone', { cause });
  }
}
