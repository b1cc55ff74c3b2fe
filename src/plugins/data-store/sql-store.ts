import { join } from 'node:path';
import type { DataStore } from '../../plugin-api/data-store.ts';
import type { Clock } from '../../runtime/time.ts';
import { SqlAgentStore } from './agent-store.ts';
import { SqlAuthorityStore } from './authority-store.ts';
import { SqlBundleStore } from './bundle-store.ts';
import { SqlEntryStore } from './entry-store.ts';
import { SqlKeyJournal } from './key-journal.ts';
import { migrate } from './migrations.ts';
import { serverId } from './server-id.ts';
import { SqlDatabase } from './sql-database.ts';
import { SqlJoinTokenStore } from './token-store.ts';

/** The database of a server inside its data directory. */
export const databaseFileName = 'signet.db';

/** Opens (or makes) the SQLite database in `dataDir`, brings its schema up to date and hands out the stores. */
export async function openSqliteStore(deps: {
  readonly dataDir: string;
  readonly clock: Clock;
}): Promise<DataStore> {
  const { dataDir, clock } = deps;
  const database = await SqlDatabase.open(join(dataDir, databaseFileName));
  try {
    await migrate(database, clock);
  } catch (error) {
    await database.close();
    throw error;
  }
  return {
    entries: new SqlEntryStore({ database, clock }),
    agents: new SqlAgentStore({ database }),
    bundles: new SqlBundleStore({ database }),
    tokens: new SqlJoinTokenStore({ database }),
    authorities: new SqlAuthorityStore({ database }),
    keys: new SqlKeyJournal({ database }),
    serverId: () => serverId(database),
    close: () => database.close(),
  };
}
