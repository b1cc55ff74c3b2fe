import type {
  Metadata,
  ServerDuplexStream,
  ServerUnaryCall,
  ServerWritableStream,
  sendUnaryData,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { AppError, type ErrorCode } from '../runtime/error.ts';
import type { Logger, LogLevel } from '../runtime/log.ts';
import { type Caller, callerText } from './caller.ts';
import type { AnyHandler, Authorize, CallContext, GrpcService } from './handlers.ts';
import { type CallStatus, toServiceError } from './status.ts';
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

/** What all kinds of grpc-js calls have in common. */
interface SurfaceCall {
  readonly metadata: Metadata;
  readonly cancelled: boolean;
  getPath(): string;
  getPeer(): string;
  on(event: 'cancelled', listener: () => void): unknown;
}

interface Running {
  readonly isStream: boolean;
  readonly stop: (error: AppError) => void;
}

type Messages = ServerDuplexStream<unknown, unknown>;
type OutgoingStream = Messages | ServerWritableStream<unknown, unknown>;

/**
 * Runs the calls of one listener: finds the caller, asks for permission, hands the call to its handler, ends it with
 * a status and logs it once if it failed. Knows all calls that run, so that a stop can end them.
 */
export class CallRunner {
  readonly #deps: {
    readonly callerOf: (peer: string) => Caller;
    readonly authorize: Authorize;
    readonly log: Logger;
  };
  readonly #running = new Set<Running>();
  #refusal: AppError | undefined;
  #onIdle: () => void = () => undefined;

  constructor(deps: {
    /** Finds who is behind `getPeer()`; throws when the connection is not known. */
    readonly callerOf: (peer: string) => Caller;
    readonly authorize: Authorize;
    readonly log: Logger;
  }) {
    this.#deps = deps;
  }

  /** The service as grpc-js takes it. */
  implementationOf(service: GrpcService): UntypedServiceImplementation {
    const methods = Object.entries(service.definition).map(([name, { path }]) => {
      const handler = service.handlers.get(name) ?? unimplemented(path, service.definition[name]);
      return [name, this.#adapt(handler)] as const;
    });
    return Object.fromEntries(methods);
  }

  /** From now on every new call gets `error`; streams that run end with it at once, unary calls may finish. */
  refuse(error: AppError): void {
    this.#refusal = error;
    for (const running of [...this.#running]) if (running.isStream) running.stop(error);
  }

  /** Ends every call that still runs. */
  stopAll(error: AppError): void {
    for (const running of [...this.#running]) running.stop(error);
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
        return (call: ServerUnaryCall<unknown, unknown>, respond: sendUnaryData<unknown>) => {
          this.#run(call, {
            isStream: false,
            work: async (context) => handler.handle(call.request as never, context),
            end: (status, value) => respond(status ?? null, value),
          });
        };
      case 'server-stream':
        return (call: ServerWritableStream<unknown, unknown>) => {
          this.#runStream(call, (context) =>
            pump(call, handler.handle(call.request as never, context), context.signal),
          );
        };
      case 'bidi':
        return (call: Messages) => {
          this.#runStream(call, (context) => {
            const requests = requestsOf(call, context.signal) as AsyncIterable<never>;
            return pump(call, handler.handle(requests, context), context.signal);
          });
        };
      case 'raw-bidi':
        return (call: Messages) => {
          this.#runStream(
            call,
            (context) =>
              new Promise((resolve, reject) => {
                const end = (error?: unknown) => (error === undefined ? resolve(undefined) : reject(error));
                handler.handle(call as ServerDuplexStream<never, never>, { ...context, end });
              }),
          );
        };
    }
  }

  #runStream(call: OutgoingStream, work: (context: CallContext) => Promise<unknown>): void {
    this.#run(call, {
      isStream: true,
      work,
      end: (status) => {
        if (status === undefined) call.end();
        else call.emit('error', status);
      },
    });
  }

  #run(
    call: SurfaceCall,
    parts: {
      readonly isStream: boolean;
      readonly work: (context: CallContext) => Promise<unknown>;
      readonly end: (status: CallStatus | undefined, value?: unknown) => void;
    },
  ): void {
    const controller = new AbortController();
    let isEnded = false;
    const finish = (status: CallStatus | undefined, value?: unknown) => {
      if (isEnded) return;
      isEnded = true;
      this.#running.delete(running);
      if (this.#running.size === 0) this.#onIdle();
      if (!call.cancelled) parts.end(status, value);
      controller.abort();
    };
    const fail = (error: unknown, caller?: Caller) => {
      if (!isEnded && !call.cancelled) this.#logFailure(call, error, caller);
      finish(toServiceError(error));
    };
    const running: Running = {
      isStream: parts.isStream,
      stop: (error) => {
        controller.abort(error);
        fail(error);
      },
    };
    this.#running.add(running);
    call.on('cancelled', () => {
      controller.abort(new AppError('cancelled', 'the caller has gone'));
      finish(undefined);
    });
    this.#serve(call, controller.signal, parts.work).then(
      (value) => finish(undefined, value),
      ({ error, caller }: Failure) => fail(error, caller),
    );
  }

  /** The steps before a handler may see the call. Rejects with a Failure only. */
  async #serve(
    call: SurfaceCall,
    signal: AbortSignal,
    work: (context: CallContext) => Promise<unknown>,
  ): Promise<unknown> {
    const { callerOf, authorize, log } = this.#deps;
    let caller: Caller | undefined;
    try {
      if (this.#refusal !== undefined) throw this.#refusal;
      caller = callerOf(peerOf(call));
      const method = call.getPath();
      await authorize(caller, method);
      signal.throwIfAborted();
      return await work({ caller, method, metadata: call.metadata, signal, log });
    } catch (error) {
      throw { error, caller } satisfies Failure;
    }
  }

  #logFailure(call: SurfaceCall, error: unknown, caller: Caller | undefined): void {
    const code = error instanceof AppError ? error.code : 'internal';
    const level = error === this.#refusal ? 'debug' : logLevelOf[code];
    const from = caller === undefined ? {} : { caller: callerText(caller) };
    this.#deps.log[level]({ method: call.getPath(), ...from, code, error }, 'call failed');
  }
}

interface Failure {
  readonly error: unknown;
  readonly caller: Caller | undefined;
}

/** grpc-js throws when the connection is gone by the time a call is looked at. */
function peerOf(call: SurfaceCall): string {
  try {
    return call.getPeer();
  } catch (cause) {
    throw new AppError('cancelled', 'the connection is gone', { cause });
  }
}

function unimplemented(
  path: string,
  method: { readonly requestStream: boolean; readonly responseStream: boolean } | undefined,
): AnyHandler {
  const error = () => new AppError('unimplemented', `${path} is not implemented`);
  if (method?.requestStream === true) return { kind: 'raw-bidi', handle: (_call, { end }) => end(error()) };
  if (method?.responseStream === true) {
    return {
      kind: 'server-stream',
      handle: () => {
        throw error();
      },
    };
  }
  return { kind: 'unary', handle: () => Promise.reject(error()) };
}
