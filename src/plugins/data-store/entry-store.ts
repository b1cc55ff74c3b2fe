import type { Kysely } from 'kysely';
import type { EntryChange, EntryCreation, EntryStore } from '../../plugin-api/data-store.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { canonicalSelectors } from '../../spiffe/selector.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { entryRowOf, parseEntryRow } from './entry-row.ts';
import { requireBundles } from './federation.ts';
import type { EntryRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** Registration entries in the table `entries`. */
export class SqlEntryStore implements EntryStore {
  readonly #deps: { readonly database: SqlDatabase; readonly clock: Clock };

  constructor(deps: { readonly database: SqlDatabase; readonly clock: Clock }) {
    this.#deps = deps;
  }

  create(entries: readonly NewEntry[]): Promise<readonly (EntryCreation | AppError)[]> {
    const createdAt = Math.floor(this.#deps.clock.now() / 1000);
    return this.#deps.database.transaction('create entries', (tx) =>
      each(entries, (entry) => insertEntry(tx, entry, createdAt)),
    );
  }

  update(changes: readonly EntryChange[]): Promise<readonly (RegistrationEntry | AppError)[]> {
    return this.#deps.database.transaction('update entries', (tx) =>
      each(changes, (change) => updateEntry(tx, change)),
    );
  }

  delete(ids: readonly string[]): Promise<readonly (RegistrationEntry | undefined)[]> {
    return this.#deps.database.transaction('delete entries', async (tx) => {
      const deleted: (RegistrationEntry | undefined)[] = [];
      for (const id of ids) {
        const row = await tx.deleteFrom('entries').where('id', '=', id).returningAll().executeTakeFirst();
        deleted.push(row && parseEntryRow(row));
      }
      return deleted;
    });
  }

  list(query: { readonly parentId?: SpiffeId } = {}): Promise<readonly RegistrationEntry[]> {
    return this.#deps.database.read('list entries', async (db) =>
      (await entryListQuery(db, query).execute()).map(parseEntryRow),
    );
  }
}

/** One after the other; an item that is refused is the AppError, any other error ends the transaction. */
async function each<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<readonly (R | AppError)[]> {
  const results: (R | AppError)[] = [];
  for (const item of items) {
    results.push(
      await work(item).catch((error: unknown) => {
        if (isAppError(error)) return error;
        throw error;
      }),
    );
  }
  return results;
}

/**
 * Stores a new entry, or finds the one that is equal to it. Throws `already-exists` when its id is taken, and
 * `failed-precondition` when it federates with a trust domain whose bundle is not stored.
 */
export async function insertEntry(
  tx: Kysely<Schema>,
  newEntry: NewEntry,
  createdAt: number,
): Promise<EntryCreation> {
  const selectors = canonicalSelectors(newEntry.selectors);
  const entry: RegistrationEntry = { ...newEntry, selectors, createdAt, revision: 0 };
  const row = entryRowOf(entry);
  await requireBundles(tx, entry.federatesWith);
  const { numInsertedOrUpdatedRows: stored = 0n } = await tx
    .insertInto('entries')
    .values(row)
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirstOrThrow();
  if (stored > 0n) return { entry, created: true };
  const twin = await similarEntryQuery(tx, row).executeTakeFirst();
  if (twin !== undefined) return { entry: parseEntryRow(twin), created: false };
  throw new AppError('already-exists', `the entry id "${entry.id}" is taken by another entry`);
}

async function updateEntry(tx: Kysely<Schema>, { id, change }: EntryChange): Promise<RegistrationEntry> {
  const row = await tx.selectFrom('entries').selectAll().where('id', '=', id).executeTakeFirst();
  if (row === undefined) throw new AppError('not-found', 'entry not found');
  const current = parseEntryRow(row);
  const changed = change(current);
  if (changed.id !== id) {
    throw new AppError('invalid-argument', `the id of entry "${id}" cannot become "${changed.id}"`);
  }
  const next: RegistrationEntry = {
    ...changed,
    selectors: canonicalSelectors(changed.selectors),
    createdAt: current.createdAt,
    revision: current.revision + 1,
  };
  const values = entryRowOf(next);
  const twin = await similarEntryQuery(tx, values).executeTakeFirst();
  if (twin !== undefined && twin.id !== id) {
    throw new AppError(
      'already-exists',
      `entry "${twin.id}" already has this parent, SPIFFE ID and selectors`,
    );
  }
  await requireBundles(tx, next.federatesWith);
  await tx.updateTable('entries').set(values).where('id', '=', id).execute();
  return next;
}

/** The statement behind `list`, apart so that a test can ask SQLite for its plan. */
export function entryListQuery(db: Kysely<Schema>, { parentId }: { readonly parentId?: SpiffeId }) {
  const all = db.selectFrom('entries').selectAll().orderBy('id');
  return parentId === undefined ? all : all.where('parent_id', '=', parentId.toString());
}

/** The statement that finds the entry with the same parent, SPIFFE ID and selectors. */
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
