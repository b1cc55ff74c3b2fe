import type { Clock } from '../runtime/time.ts';

/** On a terminal often enough to see it move; in a log often enough to know that it does. */
const terminalIntervalMs = 100;
const logIntervalMs = 5_000;

/**
 * How far a long work is, on stderr: one line that is overwritten on a terminal, a line now and then elsewhere.
 * Work that is done at once says nothing.
 */
export class Progress {
  readonly #what: string;
  readonly #total: number;
  readonly #clock: Clock;
  readonly #stream: { readonly isTTY?: boolean; write(text: string): unknown };
  #saidAtMs: number;
  #hasLine = false;

  /** `what` is what is counted, such as `entries`. */
  constructor(parts: {
    readonly what: string;
    readonly total: number;
    readonly clock: Clock;
    readonly stream: { readonly isTTY?: boolean; write(text: string): unknown };
  }) {
    this.#what = parts.what;
    this.#total = parts.total;
    this.#clock = parts.clock;
    this.#stream = parts.stream;
    this.#saidAtMs = parts.clock.now();
  }

  /** So many are done now. */
  update(done: number): void {
    const isTerminal = this.#stream.isTTY === true;
    const nowMs = this.#clock.now();
    if (nowMs - this.#saidAtMs < (isTerminal ? terminalIntervalMs : logIntervalMs)) return;
    this.#saidAtMs = nowMs;
    const text = `signet: ${done} of ${this.#total} ${this.#what}`;
    this.#stream.write(isTerminal ? `\r${text}` : `${text}\n`);
    this.#hasLine = isTerminal;
  }

  /** Makes room for other lines: to be called before them, and at the end. */
  clear(): void {
    if (this.#hasLine) this.#stream.write('\r\u001b[K');
    this.#hasLine = false;
  }
}
