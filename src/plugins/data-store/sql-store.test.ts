import { onTestFinished } from 'vitest';
import { systemClock } from '../../runtime/time.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { describeDataStore } from './conformance.ts';
import { openSqliteStore } from './sql-store.ts';

describeDataStore('sqlite', async () => {
  const dataDir = tempDir();
  let store = await openSqliteStore({ dataDir, clock: systemClock });
  onTestFinished(() => store.close());
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await openSqliteStore({ dataDir, clock: systemClock });
      return store;
    },
  };
});
