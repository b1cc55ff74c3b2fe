import type { Kysely } from 'kysely';
import type { EntryQuery, EntryStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { flagOf, parseCount, parseFlag, parseRow, parseSelectors, parseTexts, selectorsJson } from './row.ts';
import type { EntryRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** Registration entries in the table `entries`. */
export class SqlEntryStore implements EntryStore {
  readonly #deps: { readonly database: SqlDatabase; readonly clock: Clock };

  constructor(deps: { readonly database: SqlDatabase; readonly clock: Clock }) {
    this.#deps = deps;
  }

  create(entry: NewEntry): Promise<{ readonly entry: RegistrationEntry; readonly created: boolean }> {
    return this.#deps.database.transaction('create the entry', (tx) =>
      insertEntry(tx, entry, Math.floor(this.#deps.clock.now() / 1000)),
    );
  }

  update(id: string, change: (current: RegistrationEntry) => NewEntry): Promise<RegistrationEntry> {
    return this.#deps.database.transaction('update the entry', async (tx) => {
      const row = await entryRow(tx, id);
      if (row === undefined) throw new AppError('not-found', `there is no entry "${id}"`);
      const current = parseEntryRow(row);
      const { id: newId, ...changed } = change(current);
      if (newId !== id)
        throw new AppError('invalid-argument', `the id of entry "${id}" cannot become "${newId}"`);
      const next = { ...changed, id, createdAt: current.createdAt, revision: current.revision + 1 };
      const values = entryRowOf(next);
      const twin = await similarEntryRow(tx, values);
      if (twin !== undefined && twin.id !== id) {
        throw new AppError(
          'already-exists',
          `entry "${twin.id}" already has this parent, SPIFFE ID and selectors`,
        );
      }
      await tx.updateTable('entries').set(values).where('id', '=', id).execute();
      return parseEntryRow(values);
    });
  }

  delete(id: string): Promise<RegistrationEntry | undefined> {
    return this.#deps.database.transaction('delete the entry', async (tx) => {
      const row = await tx.deleteFrom('entries').where('id', '=', id).returningAll().executeTakeFirst();
      return row === undefined ? undefined : parseEntryRow(row);
    });
  }

  find(id: string): Promise<RegistrationEntry | undefined> {
    return this.#deps.database.read('read the entry', async (db) => {
      const row = await entryRow(db, id);
      return row === undefined ? undefined : parseEntryRow(row);
    });
  }

  list(query: EntryQuery): Promise<readonly RegistrationEntry[]> {
    return this.#deps.database.read('list entries', async (db) =>
      (await entryListQuery(db, query).execute()).map(parseEntryRow),
    );
  }
}

/** The statement behind `list`, apart so that a test can ask SQLite for its plan. */
export function entryListQuery(db: Kysely<Schema>, { spiffeId, parentId, afterId, limit }: EntryQuery) {
  let query = db.selectFrom('entries').selectAll().orderBy('id');
  if (spiffeId !== undefined) query = query.where('spiffe_id', '=', spiffeId.toString());
  if (parentId !== undefined) query = query.where('parent_id', '=', parentId.toString());
  if (afterId !== undefined) query = query.where('id', '>', afterId);
  return limit === undefined ? query : query.limit(limit);
}

/** Stores a new entry, or finds the one that is equal to it; the caller's transaction makes the two steps one. */
export async function insertEntry(
  tx: Kysely<Schema>,
  entry: NewEntry,
  createdAt: number,
): Promise<{ readonly entry: RegistrationEntry; readonly created: boolean }> {
  const row = entryRowOf({ ...entry, createdAt, revision: 0 });
  const twin = await similarEntryRow(tx, row);
  if (twin !== undefined) return { entry: parseEntryRow(twin), created: false };
  if ((await entryRow(tx, entry.id)) !== undefined) {
    throw new AppError('already-exists', `the entry id "${entry.id}" is taken by another entry`);
  }
  await tx.insertInto('entries').values(row).execute();
  return { entry: parseEntryRow(row), created: true };
}

/** Finds the entry with the same parent, SPIFFE ID and selectors. */
function similarEntryRow(
  db: Kysely<Schema>,
  like: Pick<EntryRow, 'parent_id' | 'spiffe_id' | 'selectors'>,
): Promise<EntryRow | undefined> {
  return similarEntryQuery(db, like).executeTakeFirst();
}

/** The statement behind `similarEntryRow`, apart so that a test can ask SQLite for its plan. */
export function similarEntryQuery(
  db: Kysely<Schema>,
  like: Pick<EntryRow, 'parent_id' | 'spiffe_id' | 'selectors'>,
) {
  return db
    .selectFrom('entries')
    .selectAll()
    .where('parent_id', '=', like.parent_id)
    .where('spiffe_id', '=', like.spiffe_id)
    .where('selectors', '=', like.selectors);
}

function entryRow(db: Kysely<Schema>, id: string): Promise<EntryRow | undefined> {
  return db.selectFrom('entries').selectAll().where('id', '=', id).executeTakeFirst();
}

function entryRowOf(entry: RegistrationEntry): EntryRow {
  return {
    id: entry.id,
    spiffe_id: entry.spiffeId.toString(),
    parent_id: entry.parentId.toString(),
    selectors: selectorsJson(entry.selectors),
    x509_svid_ttl_seconds: entry.x509SvidTtlSeconds,
    jwt_svid_ttl_seconds: entry.jwtSvidTtlSeconds,
    federates_with: JSON.stringify(entry.federatesWith.map((trustDomain) => trustDomain.name)),
    dns_names: JSON.stringify(entry.dnsNames),
    admin: flagOf(entry.admin),
    downstream: flagOf(entry.downstream),
    store_svid: flagOf(entry.storeSvid),
    hint: entry.hint,
    expires_at: entry.expiresAt,
    created_at: entry.createdAt,
    revision: entry.revision,
    disable_x509_svid_prefetch: flagOf(entry.disableX509SvidPrefetch),
    jwt_svid_include_jti: flagOf(entry.jwtSvidIncludeJti),
  };
}

function parseEntryRow(row: EntryRow): RegistrationEntry {
  return parseRow('entries', row.id, () => ({
    id: row.id,
    spiffeId: SpiffeId.parse(row.spiffe_id),
    parentId: SpiffeId.parse(row.parent_id),
    selectors: parseSelectors('selectors', row.selectors),
    x509SvidTtlSeconds: parseCount('x509_svid_ttl_seconds', row.x509_svid_ttl_seconds),
    jwtSvidTtlSeconds: parseCount('jwt_svid_ttl_seconds', row.jwt_svid_ttl_seconds),
    federatesWith: parseTexts('federates_with', row.federates_with).map((name) => TrustDomain.parse(name)),
    dnsNames: parseTexts('dns_names', row.dns_names),
    admin: parseFlag('admin', row.admin),
    downstream: parseFlag('downstream', row.downstream),
    storeSvid: parseFlag('store_svid', row.store_svid),
    hint: row.hint,
    expiresAt: parseCount('expires_at', row.expires_at),
    createdAt: parseCount('created_at', row.created_at),
    revision: parseCount('revision', row.revision),
    disableX509SvidPrefetch: parseFlag('disable_x509_svid_prefetch', row.disable_x509_svid_prefetch),
    jwtSvidIncludeJti: parseFlag('jwt_svid_include_jti', row.jwt_svid_include_jti),
  }));
}
