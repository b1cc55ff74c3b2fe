import { join } from 'node:path';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { makeRoot, newEntry, ours } from '../../testing/data-store/samples.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { type Migration, migrate, migrations, newestVersion, storedVersion } from './migrations.ts';
import { SqlDatabase } from './sql-database.ts';
import { databaseFileName, openSqliteStore } from './sql-store.ts';

const clock = new FakeClock();
const next: Migration = {
  version: newestVersion + 1,
  name: 'a later one',
  statements: ['alter table entries add column note text', "update entries set note = 'kept'"],
};

async function openDatabase(dataDir = tempDir()): Promise<SqlDatabase> {
  const database = await SqlDatabase.open(join(dataDir, databaseFileName));
  onTestFinished(() => database.close());
  return database;
}

describe('migrations', () => {
  it('are numbered from 1 without gaps', () => {
    expect(migrations.map(({ version }) => version)).toEqual(migrations.map((_, index) => index + 1));
  });

  it('bring a new database to the newest version, and change nothing when run again', async () => {
    const database = await openDatabase();
    expect(await storedVersion(database)).toBe(0);
    await migrate(database, clock);
    await migrate(database, clock);
    expect(await storedVersion(database)).toBe(newestVersion);
    const log = await database.read('read', (db) => db.selectFrom('schema_migrations').selectAll().execute());
    expect(log.map(({ version, applied_at_ms }) => [version, applied_at_ms])).toEqual(
      migrations.map(({ version }) => [version, clock.now()]),
    );
  });

  it('take the rows along', async () => {
    const dataDir = tempDir();
    const store = await openSqliteStore({ dataDir, clock });
    await store.entries.create([newEntry()]);
    await store.close();
    const database = await openDatabase(dataDir);
    await migrate(database, clock, [...migrations, next]);
    const { rows } = await database.read('read', (db) => sql`select id, note from entries`.execute(db));
    expect(rows).toEqual([{ id: 'e1', note: 'kept' }]);
  });

  it('take bundles from version 2 along, and what belongs to them', async () => {
    const dataDir = tempDir();
    const database = await openDatabase(dataDir);
    await migrate(database, clock, migrations.slice(0, 2));
    const root = await makeRoot('1');
    await database.transaction('fill', async (tx) => {
      await sql`insert into bundles values ('example.org', 9007199254740991, 300)`.execute(tx);
      await sql`insert into bundle_authorities values ('example.org', 0, ${root.der}, 1)`.execute(tx);
    });
    await migrate(database, clock);
    const store = await openSqliteStore({ dataDir, clock });
    onTestFinished(() => store.close());
    const bundle = await store.bundles.find(ours);
    expect(bundle).toMatchObject({
      sequence: 9007199254740991n,
      refreshHintSeconds: 300,
      jwtAuthorities: [],
    });
    expect(bundle?.x509Authorities).toMatchObject([{ certificate: { der: root.der }, tainted: true }]);
    await store.bundles.delete(ours, 'restrict');
    const { rows } = await database.read('read', (db) => sql`select 1 from bundle_authorities`.execute(db));
    expect(rows).toEqual([]);
  });

  it('take the authority journal of version 4 along: signing certificates without anything above them', async () => {
    const dataDir = tempDir();
    const database = await openDatabase(dataDir);
    await migrate(database, clock, migrations.slice(0, 4));
    const [active, old] = [await makeRoot('1'), await makeRoot('2')];
    await database.transaction('fill', async (tx) => {
      await sql`insert into authorities values ('a', 'x509-ca-a', ${active.spki}, ${active.der}, 'active', 1, 2)`.execute(
        tx,
      );
      await sql`insert into authorities values ('b', 'x509-ca-b', ${old.spki}, ${old.der}, 'old', 0, 1)`.execute(
        tx,
      );
    });
    const store = await openSqliteStore({ dataDir, clock });
    onTestFinished(() => store.close());
    const common = { role: 'signing', chain: [], upstreamKeyId: '' };
    const unknown = { taintedAtMs: undefined, revokedAtMs: undefined, svidsEndByMs: undefined };
    expect(await store.authorities.list()).toMatchObject([
      { ...common, ...unknown, id: 'b', keyId: 'x509-ca-b', state: 'old', preparedAtMs: 0, activatedAtMs: 1 },
      {
        ...common,
        ...unknown,
        id: 'a',
        keyId: 'x509-ca-a',
        state: 'active',
        preparedAtMs: 1,
        activatedAtMs: 2,
      },
    ]);
    await store.authorities.activate('b', 5);
    expect((await store.authorities.list()).map(({ state }) => state)).toEqual(['active', 'old']);
    expect(await store.keys.retired()).toEqual([]);
  });

  it('that fail leave the version before them, whole', async () => {
    const database = await openDatabase();
    await migrate(database, clock);
    const failing = { ...next, statements: [...next.statements, 'create table entries (n)'] };
    const refusal = { message: expect.stringContaining(`migrate to schema version ${next.version}`) };
    await expect(migrate(database, clock, [...migrations, failing])).rejects.toMatchObject(refusal);
    expect(await storedVersion(database)).toBe(newestVersion);
    const { rows } = await database.read('read', (db) => sql`pragma table_info(entries)`.execute(db));
    expect(rows.map((row) => (row as { name: string }).name)).not.toContain('note');
  });

  it('refuse a newer schema, with both versions and what to do, and leave it alone', async () => {
    const dataDir = tempDir();
    const database = await openDatabase(dataDir);
    await migrate(database, clock, [...migrations, next]);
    const opening = openSqliteStore({ dataDir, clock });
    await expect(opening).rejects.toMatchObject({ code: 'failed-precondition' });
    const { message } = (await opening.catch((error: unknown) => error)) as Error;
    expect(message).toContain(`schema version ${next.version}`);
    expect(message).toContain(`versions up to ${newestVersion}`);
    expect(message).toMatch(/run the newer signet|restore/);
    expect(await storedVersion(database)).toBe(next.version);
  });
});
