import type { Metadata } from '@grpc/grpc-js';
import { AppError } from '../runtime/error.ts';
import type { Caller } from './caller.ts';
import { type CallStatus, toServiceError } from './status.ts';

/** What all kinds of grpc-js calls have in common. */
export interface SurfaceCall {
  readonly metadata: Metadata;
  readonly cancelled: boolean;
  getPath(): string;
  getPeer(): string;
  on(event: 'cancelled', listener: () => void): unknown;
}

/** One call from its arrival to its status: it ends once, for whatever reason comes first, and its signal tells. */
export class RunningCall {
  readonly isStream: boolean;
  /** Undefined until it is found out. */
  caller: Caller | undefined;
  readonly #call: SurfaceCall;
  readonly #end: (status: CallStatus | undefined, value?: unknown) => void;
  readonly #onOver: (call: RunningCall) => void;
  readonly #controller = new AbortController();
  #isOver = false;

  constructor(
    call: SurfaceCall,
    parts: {
      readonly isStream: boolean;
      /** Puts the end on the wire; without a status it is OK. */
      readonly end: (status: CallStatus | undefined, value?: unknown) => void;
      readonly onOver: (call: RunningCall) => void;
    },
  ) {
    this.isStream = parts.isStream;
    this.#call = call;
    this.#end = parts.end;
    this.#onOver = parts.onOver;
    call.on('cancelled', () => {
      // grpc-js says so too when a call has ended well.
      if (this.#isOver) return;
      this.#controller.abort(new AppError('cancelled', 'the caller has gone'));
      this.succeed();
    });
  }

  /** Aborts when the call is over. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  succeed(value?: unknown): void {
    this.#finish(undefined, value);
  }

  /** Returns whether somebody was there to be told. */
  fail(error: unknown): boolean {
    const isHeard = !this.#isOver && !this.#call.cancelled;
    this.#controller.abort(error);
    this.#finish(toServiceError(error));
    return isHeard;
  }

  #finish(status: CallStatus | undefined, value?: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (!this.#call.cancelled) this.#end(status, value);
    this.#controller.abort(callIsOver);
    this.#onOver(this);
  }
}

/** One for all: without a reason each call would cost a DOMException with its stack. */
const callIsOver = new AppError('cancelled', 'the call is over');
