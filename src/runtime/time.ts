import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from './error.ts';

/** Where all time comes from. Tests use `FakeClock` of `src/testing/`. */
export interface Clock {
  /** Milliseconds since the Unix epoch; follows steps of the system clock. */
  now(): number;
  /** Milliseconds since some fixed moment; never goes back. For measuring and for waiting. */
  monotonic(): number;
  /** Resolves after `ms`, or at once when `signal` aborts: callers look at the signal themselves. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Node's timers overflow above 2^31-1 ms and then fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The real clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  async sleep(ms, signal) {
    if (signal?.aborted) return;
    const timer = Math.min(Math.max(0, ms), LONGEST_TIMER_MS);
    await delay(timer, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
  },
};

/** Waits between retries: full jitter below a doubling ceiling that never passes `capMs`. */
export class Backoff {
  readonly #options: { readonly baseMs: number; readonly capMs: number; readonly random?: () => number };
  #failures = 0;

  constructor(options: { readonly baseMs: number; readonly capMs: number; readonly random?: () => number }) {
    this.#options = options;
  }

  /**
   * How long to wait after one more failure, in ms: between a tenth of the ceiling and the ceiling, and at least as
   * long as the error says that it takes.
   */
  nextMs(error?: unknown): number {
    const { baseMs, capMs, random = Math.random } = this.#options;
    const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    return Math.max(ceiling * (0.1 + 0.9 * random()), askedWaitMs(error, random));
  }

  /** After a success the next failure starts from `baseMs` again. */
  reset(): void {
    this.#failures = 0;
  }
}

/** How long an error asks to wait before another try, in ms; a little more, so that not all come back at once. */
export function askedWaitMs(error: unknown, random: () => number = Math.random): number {
  if (!(error instanceof AppError) || error.retryAfterMs === undefined) return 0;
  return error.retryAfterMs * (1 + 0.2 * random());
}
