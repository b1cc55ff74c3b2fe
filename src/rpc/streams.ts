import { AppError } from '../runtime/error.ts';

/** The writing side of a grpc-js call. */
interface Writable {
  write(message: unknown): boolean;
  once(event: 'drain', listener: () => void): unknown;
  off(event: 'drain', listener: () => void): unknown;
}

/** The reading side of a grpc-js call. */
interface Readable<T> {
  iterator(options: { readonly destroyOnReturn: boolean }): AsyncIterable<T>;
}

/**
 * Writes all messages, no faster than the other side reads them. Returns when there are none left or `signal`
 * aborts; an iterator that still waits for something is told to end, and not waited for.
 */
export async function pump(
  call: Writable,
  messages: AsyncIterable<unknown>,
  signal: AbortSignal,
): Promise<void> {
  const iterator = messages[Symbol.asyncIterator]();
  try {
    while (!signal.aborted) {
      const next = await settledOrAborted(iterator.next(), signal);
      // The call may have ended since: nothing may follow its status.
      if (signal.aborted || next === undefined || next.done === true) return;
      if (!call.write(next.value)) await drained(call, signal);
    }
  } finally {
    void iterator.return?.().catch(() => undefined);
  }
}

/**
 * The caller's messages; `onFirst` sees the first before anybody else and may throw. Leaving the loop early keeps the
 * stream open for answers; a lost caller ends in `cancelled`.
 */
export async function* requestsOf<T>(
  call: Readable<T>,
  signal: AbortSignal,
  onFirst: (message: T) => void,
): AsyncGenerator<T, void, undefined> {
  const messages = call.iterator({ destroyOnReturn: false })[Symbol.asyncIterator]();
  let isFirst = true;
  try {
    for (;;) {
      const next = await received(messages, signal);
      if (next.done === true) return;
      if (isFirst) onFirst(next.value);
      isFirst = false;
      yield next.value;
    }
  } finally {
    void messages.return?.();
  }
}

async function received<T>(messages: AsyncIterator<T>, signal: AbortSignal): Promise<IteratorResult<T>> {
  try {
    return await messages.next();
  } catch (cause) {
    throw signal.reason instanceof AppError
      ? signal.reason
      : new AppError('cancelled', 'the stream broke', { cause });
  }
}

/** The promise's result, or undefined as soon as `signal` aborts. */
async function settledOrAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  // Not Promise.race with one promise per call: each round would leave a reaction on it for as long as the call lives.
  return new Promise((resolve, reject) => {
    const onAbort = () => resolve(undefined);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function drained(call: Writable, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.off('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    call.once('drain', done);
    if (signal.aborted) done();
    else signal.addEventListener('abort', done, { once: true });
  });
}
