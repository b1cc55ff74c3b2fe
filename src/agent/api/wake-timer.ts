import type { Clock } from '../../runtime/time.ts';

/** One timer for many deadlines: it wakes at the earliest, and who is woken sets it for the next. */
export class WakeTimer {
  readonly #clock: Clock;
  readonly #wake: () => void;
  #atMs = Number.POSITIVE_INFINITY;
  #sleep: AbortController | undefined;

  constructor(clock: Clock, wake: () => void) {
    this.#clock = clock;
    this.#wake = wake;
  }

  /** Makes it wake in `ms` at the latest. */
  within(ms: number): void {
    const atMs = this.#clock.monotonic() + ms;
    if (atMs >= this.#atMs) return;
    this.stop();
    const sleep = new AbortController();
    this.#sleep = sleep;
    this.#atMs = atMs;
    void this.#clock.sleep(ms, sleep.signal).then(() => {
      if (sleep.signal.aborted) return;
      this.stop();
      this.#wake();
    });
  }

  /** Forgets all deadlines. */
  stop(): void {
    this.#sleep?.abort();
    this.#sleep = undefined;
    this.#atMs = Number.POSITIVE_INFINITY;
  }
}
