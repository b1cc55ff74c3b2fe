/**
 * A current value that others follow. A follower who is slow skips to the latest value: at most one value is
 * ever waiting for it, so a slow reader never grows memory.
 */
export class Observable<T> {
  #value: T;
  #version = 0;
  readonly #listeners = new Set<() => void>();

  constructor(initial: T) {
    this.#value = initial;
  }

  get value(): T {
    return this.#value;
  }

  /** Counts the calls of `set`. */
  get version(): number {
    return this.#version;
  }

  /** How many follow right now. */
  get followers(): number {
    return this.#listeners.size;
  }

  set(value: T): void {
    this.#value = value;
    this.#version += 1;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Calls `listener` after each `set` until the returned function is called. It must not throw. */
  subscribe(listener: () => void): () => void {
    // A wrapper of its own, so that the same function subscribed twice counts twice.
    const entry = () => listener();
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  /** The current value at once, then the latest one after each change, until `signal` aborts. */
  async *watch(signal: AbortSignal): AsyncGenerator<T, void, undefined> {
    let wake: () => void = () => undefined;
    const unsubscribe = this.subscribe(() => wake());
    const onAbort = () => wake();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      for (let seen = -1; !signal.aborted; ) {
        if (seen === this.#version) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        seen = this.#version;
        yield this.#value;
      }
    } finally {
      unsubscribe();
      signal.removeEventListener('abort', onAbort);
    }
  }
}
