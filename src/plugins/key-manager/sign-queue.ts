import { AppError } from '../../runtime/error.ts';

interface Waiting {
  readonly start: () => void;
}

/**
 * At most `concurrency` pieces of work at a time, in the order in which they came; at most `limit` wait. One more is
 * refused at once (`resource-exhausted`): a queue that only grows would make all of them too late.
 */
export class SignQueue {
  readonly #concurrency: number;
  readonly #limit: number;
  readonly #waiting = new Set<Waiting>();
  #running = 0;

  constructor(options: { readonly concurrency: number; readonly limit: number }) {
    this.#concurrency = options.concurrency;
    this.#limit = options.limit;
  }

  /** How many wait for their turn. */
  get length(): number {
    return this.#waiting.size;
  }

  /**
   * Settles as `work` does; its place is free again only then. When `signal` aborts before its turn has come, it
   * leaves the queue and this rejects with the signal's reason.
   */
  async run<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    if (this.#running < this.#concurrency) this.#running += 1;
    else await this.#turn(signal);
    try {
      return await work();
    } finally {
      this.#next();
    }
  }

  async #turn(signal: AbortSignal): Promise<void> {
    if (this.#waiting.size >= this.#limit) {
      throw new AppError(
        'resource-exhausted',
        `${this.#limit} signatures wait for the token already (queueLimit); try again later`,
        { retryAfterMs: 1_000 },
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting = { start: resolve };
    const leave = () => {
      if (this.#waiting.delete(waiting)) reject(signal.reason);
    };
    if (signal.aborted) throw signal.reason;
    this.#waiting.add(waiting);
    signal.addEventListener('abort', leave, { once: true });
    await promise.finally(() => signal.removeEventListener('abort', leave));
  }

  /** Hands the free place to whoever waits longest. */
  #next(): void {
    const [first] = this.#waiting;
    if (first === undefined) {
      this.#running -= 1;
      return;
    }
    this.#waiting.delete(first);
    first.start();
  }
}
