import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';

/** The next message of a stream, or undefined at its end; throws `deadline-exceeded` after `timeoutMs` or an abort. */
export async function nextMessage<T>(
  incoming: AsyncIterator<T>,
  wait: {
    readonly clock: Clock;
    readonly signal: AbortSignal;
    readonly timeoutMs: number;
    readonly what: string;
  },
): Promise<T | undefined> {
  const done = new AbortController();
  const late = wait.clock.sleep(wait.timeoutMs, AbortSignal.any([done.signal, wait.signal])).then(() => {
    throw new AppError('deadline-exceeded', `no ${wait.what} in time`);
  });
  try {
    const next = await Promise.race([incoming.next(), late]);
    return next.done === true ? undefined : next.value;
  } finally {
    late.catch(() => undefined);
    done.abort();
  }
}
