import { setTimeout as sleep } from 'node:timers/promises';

/** How long to wait for a condition, and how often to look. */
export interface Patience {
  readonly timeoutMs?: number;
  readonly intervalMs?: number;
}

/**
 * Waits until `look` returns something else than `undefined` or `false`, and returns that. Errors it throws count as
 * "not yet"; the last one is the cause of the failure after `timeoutMs` (10 s), which says what was waited for.
 */
export async function eventually<T>(
  what: string,
  look: () => T | Promise<T>,
  { timeoutMs = 10_000, intervalMs = 25 }: Patience = {},
): Promise<Exclude<T, undefined | false>> {
  const endsAt = performance.now() + timeoutMs;
  let last: unknown;
  do {
    try {
      last = undefined;
      const found = await look();
      if (found !== undefined && found !== false) return found as Exclude<T, undefined | false>;
    } catch (error) {
      // Nothing comes right after this one: retrying would only hide what went wrong.
      if (error instanceof Hopeless) throw error;
      last = error;
    }
    await sleep(intervalMs);
  } while (performance.now() < endsAt);
  const detail = last instanceof Error ? `: ${last.message}` : '';
  throw new Error(`waited ${timeoutMs / 1000} s for ${what}${detail}`, { cause: last });
}

/** Thrown inside `eventually` when waiting longer is useless, such as after a process has ended. */
export class Hopeless extends Error {}
