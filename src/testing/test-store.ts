import { onTestFinished } from 'vitest';
import type { DataStore } from '../plugin-api/data-store.ts';
import { openSqliteStore } from '../plugins/data-store/sql-store.ts';
import type { Clock } from '../runtime/time.ts';
import { FakeClock } from './fake-clock.ts';
import { tempDir } from './temp-dir.ts';

/** A real SQLite store, closed when the current test ends; in a new directory unless one is given. */
export async function openTestStore(
  options: { readonly dataDir?: string; readonly clock?: Clock } = {},
): Promise<DataStore> {
  const { dataDir = tempDir(), clock = new FakeClock() } = options;
  const store = await openSqliteStore({ dataDir, clock });
  onTestFinished(() => store.close());
  return store;
}
