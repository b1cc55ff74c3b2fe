import { chmod, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { SqlDatabase } from './sql-database.ts';

async function openIn(directory: string, busyTimeoutMs = 50): Promise<SqlDatabase> {
  const database = await SqlDatabase.open(join(directory, 'signet.db'), { busyTimeoutMs });
  onTestFinished(() => database.close());
  await database.transaction('make a table', (tx) => sql`create table t (n integer) strict`.execute(tx));
  return database;
}

describe('the database file', () => {
  it('and its journals can be read by nobody else, whatever the umask', async () => {
    const directory = tempDir();
    const umask = process.umask(0);
    onTestFinished(() => void process.umask(umask));
    await openIn(directory);
    const names = await readdir(directory);
    expect(names.sort()).toEqual(['signet.db', 'signet.db-shm', 'signet.db-wal']);
    for (const name of names) expect((await stat(join(directory, name))).mode & 0o777).toBe(0o600);
  });

  it('is refused when others can read it, with the command that helps', async () => {
    const path = join(tempDir(), 'signet.db');
    await writeFile(path, '');
    await chmod(path, 0o644);
    const refusal = { code: 'failed-precondition', message: expect.stringContaining(`chmod 600 ${path}`) };
    await expect(SqlDatabase.open(path)).rejects.toMatchObject(refusal);
  });

  it('is refused when it is a link, a directory, or no database', async () => {
    const directory = tempDir();
    const noise = join(directory, 'noise');
    await writeFile(noise, 'no database, but long enough to look at'.repeat(20), { mode: 0o600 });
    await symlink(noise, join(directory, 'link'));
    for (const path of [join(directory, 'link'), directory, noise, join(directory, 'no/where')]) {
      await expect(SqlDatabase.open(path)).rejects.toMatchObject({ code: 'failed-precondition' });
    }
  });

  it('is written durably, and keeps its references whole', async () => {
    const database = await openIn(tempDir());
    const pragma = (name: string) =>
      database.read('read a setting', async (db) =>
        Object.values((await sql.raw<object>(`pragma ${name}`).execute(db)).rows[0]!),
      );
    expect(await pragma('journal_mode')).toEqual(['wal']);
    expect(await pragma('synchronous')).toEqual([2]);
    expect(await pragma('foreign_keys')).toEqual([1]);
  });
});

describe('transactions', () => {
  const insert = (n: number) => sql`insert into t values (${n})`;
  const count = (database: SqlDatabase) =>
    database.read(
      'count',
      async (db) => (await sql<{ c: number }>`select count(*) as c from t`.execute(db)).rows[0]?.c,
    );

  it('leave nothing behind when they fail, and the next one works', async () => {
    const database = await openIn(tempDir());
    const failing = database.transaction('fail', async (tx) => {
      await insert(1).execute(tx);
      throw new AppError('aborted', 'on purpose');
    });
    await expect(failing).rejects.toMatchObject({ code: 'aborted', message: 'on purpose' });
    expect(await count(database)).toBe(0);
    await database.transaction('insert', (tx) => insert(2).execute(tx));
    expect(await count(database)).toBe(1);
  });

  it('hide nothing when SQLite has rolled back by itself', async () => {
    const database = await openIn(tempDir());
    const failing = database.transaction('insert', async (tx) => {
      await insert(1).execute(tx);
      await sql`rollback`.execute(tx);
      throw new AppError('aborted', 'the first error');
    });
    await expect(failing).rejects.toMatchObject({ message: 'the first error' });
    expect(await count(database)).toBe(0);
  });

  it('are never seen half done by a read of the same process', async () => {
    const database = await openIn(tempDir());
    const { promise: paused, resolve: goOn } = Promise.withResolvers<void>();
    const writing = database.transaction('insert two', async (tx) => {
      await insert(1).execute(tx);
      await paused;
      await insert(2).execute(tx);
    });
    const reading = count(database);
    goOn();
    await writing;
    expect(await reading).toBe(2);
  });

  it('fail in a bounded time while another process holds the lock', async () => {
    const directory = tempDir();
    const database = await openIn(directory);
    const other = new DatabaseSync(database.path);
    other.exec('begin immediate');
    const refusal = { code: 'unavailable', message: expect.stringContaining('another process') };
    await expect(database.transaction('insert', (tx) => insert(1).execute(tx))).rejects.toMatchObject(
      refusal,
    );
    other.exec('rollback');
    other.close();
    await database.transaction('insert', (tx) => insert(1).execute(tx));
    expect(await count(database)).toBe(1);
  });

  it('name what they could not do', async () => {
    const database = await openIn(tempDir());
    const failing = database.transaction('frob the rows', (tx) =>
      sql`insert into nowhere values (1)`.execute(tx),
    );
    await expect(failing).rejects.toMatchObject({
      code: 'internal',
      message: 'database "signet.db": cannot frob the rows',
    });
  });
});
