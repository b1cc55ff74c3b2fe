import { randomBytes } from 'node:crypto';
import type { SqlDatabase } from './sql-database.ts';

/** The ID of the server whose database this is; see `DataStore.serverId`. */
export function serverId(database: SqlDatabase): Promise<string> {
  return database.transaction('read the ID of this server', async (tx) => {
    await tx
      .insertInto('server_settings')
      .values({ name: 'server_id', value: randomBytes(8).toString('hex') })
      .onConflict((conflict) => conflict.doNothing())
      .execute();
    const { value } = await tx
      .selectFrom('server_settings')
      .select('value')
      .where('name', '=', 'server_id')
      .executeTakeFirstOrThrow();
    return value;
  });
}
