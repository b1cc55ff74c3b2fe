import { vi } from 'vitest';

/** Waits until `check` passes; gives up, with its last error, long after any loaded machine would have got there. */
export function eventually<T>(check: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(check, { timeout: 15_000, interval: 5 });
}
