import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { onTestFinished } from 'vitest';
import { systemClock } from '../../runtime/time.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { describeDataStore } from './conformance.ts';
import { databaseFileName, openSqliteStore } from './sql-store.ts';

describeDataStore('sqlite', async () => {
  const dataDir = tempDir();
  let store = await openSqliteStore({ dataDir, clock: systemClock });
  onTestFinished(() => store.close());
  const asAdministrator = (statement: string, id: SpiffeId) => {
    const database = new DatabaseSync(join(dataDir, databaseFileName));
    database.prepare(statement).run(id.toString());
    database.close();
  };
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await openSqliteStore({ dataDir, clock: systemClock });
      return store;
    },
    ban: async (id) => asAdministrator("update agents set serial = '' where id = ?", id),
    evict: async (id) => asAdministrator('delete from agents where id = ?', id),
  };
});
