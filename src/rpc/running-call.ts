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

/** What calls of one kind have in common; one object for all of them, since thousands of streams may be open. */
export interface CallKind<Call extends SurfaceCall = SurfaceCall> {
  readonly isStream: boolean;
  /** Puts the end on the wire; without a status it is OK. */
  readonly end: (call: Call, status: CallStatus | undefined, value?: unknown) => void;
  readonly onOver: (call: RunningCall) => void;
}

/** One call from its arrival to its status: it ends once, for whatever reason comes first, and its signal tells. */
export class RunningCall {
  /** Undefined until it is found out. */
  caller: Caller | undefined;
  readonly #call: SurfaceCall;
  readonly #kind: CallKind;
  readonly #controller = new AbortController();
  #isOver = false;

  constructor(call: SurfaceCall, kind: CallKind) {
    this.#call = call;
    this.#kind = kind;
    call.on('cancelled', () => {
      // grpc-js says so too when a call has ended well.
      if (this.#isOver) return;
      this.#controller.abort(new AppError('cancelled', 'the caller has gone'));
      this.succeed();
    });
  }

  get isStream(): boolean {
    return this.#kind.isStream;
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
    if (!this.#call.cancelled) this.#kind.end(this.#call, status, value);
    this.#controller.abort(callIsOver);
    this.#kind.onOver(this);
  }
}

/** One for all: without a reason each call would cost a DOMException with its stack. */
const callIsOver = new AppError('cancelled', 'the call is over');
