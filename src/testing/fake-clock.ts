import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../runtime/time.ts';

interface Sleeper {
  readonly wakeAt: number;
  readonly wake: () => void;
}

/** A clock that moves only when told to. */
export class FakeClock implements Clock {
  #wallOffset: number;
  #elapsed = 0;
  #sleepers: readonly Sleeper[] = [];

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#wallOffset = startMs;
  }

  now(): number {
    return this.#wallOffset + this.#elapsed;
  }

  monotonic(): number {
    return this.#elapsed;
  }

  /** How many wait on this clock right now. */
  get sleepers(): number {
    return this.#sleepers.length;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const sleeper: Sleeper = { wakeAt: this.#elapsed + Math.max(0, ms), wake: resolve };
    // In order of waking time; among equals in order of arrival.
    this.#sleepers = [...this.#sleepers, sleeper].sort((a, b) => a.wakeAt - b.wakeAt);
    signal?.addEventListener('abort', resolve as () => void, { once: true });
    await promise;
    signal?.removeEventListener('abort', resolve as () => void);
    this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
  }

  /**
   * Lets `ms` pass. Sleepers wake one by one in the order of their times, each at its own time, and what it does
   * next (even sleeping again within the span) happens before the next one wakes.
   */
  async advance(ms: number): Promise<void> {
    const target = this.#elapsed + ms;
    await settle();
    for (
      let next = this.#sleepers[0];
      next !== undefined && next.wakeAt <= target;
      next = this.#sleepers[0]
    ) {
      this.#elapsed = Math.max(this.#elapsed, next.wakeAt);
      next.wake();
      await settle();
    }
    this.#elapsed = target;
  }

  /** Sets the wall clock forward or back, as an administrator or NTP does; the monotonic clock does not notice. */
  stepWallClock(ms: number): void {
    this.#wallOffset += ms;
  }

  /** Resolves once at least `count` wait on this clock. */
  async untilSleepers(count: number): Promise<void> {
    while (this.#sleepers.length < count) await nextTurn();
  }
}

/** Lets everything run that can run without time passing; several turns, for I/O callbacks that start others. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) await nextTurn();
}
