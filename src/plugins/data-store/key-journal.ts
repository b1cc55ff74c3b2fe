import type { Kysely } from 'kysely';
import type { AuthorityRole, KeyClaim, KeyJournal, RetiredKey } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { parseCount, parseRow } from './row.ts';
import type { RetiredKeyRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** The tables `key_claims` and `retired_keys`. */
export class SqlKeyJournal implements KeyJournal {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  claim({ role, keyId }: KeyClaim): Promise<void> {
    return this.#database.transaction('claim a key', async (tx) => {
      const values = { role, key_id: keyId };
      await tx
        .insertInto('key_claims')
        .values(values)
        .onConflict((conflict) => conflict.doNothing())
        .execute();
    });
  }

  claims(): Promise<readonly KeyClaim[]> {
    return this.#database.read('list claimed keys', async (db) => {
      const rows = await db.selectFrom('key_claims').selectAll().orderBy('key_id').execute();
      return rows.map((row) =>
        parseRow('key_claims', row.key_id, () => ({ role: parseRole(row.role), keyId: row.key_id })),
      );
    });
  }

  unclaim(claim: KeyClaim): Promise<void> {
    return this.#database.transaction('give up a key', (tx) => unclaim(tx, claim));
  }

  retire(key: RetiredKey): Promise<void> {
    return this.#database.transaction('retire a key', (tx) => retire(tx, key));
  }

  retired(): Promise<readonly RetiredKey[]> {
    return this.#database.read('list retired keys', async (db) => {
      const rows = await db.selectFrom('retired_keys').selectAll().orderBy('retired_at_ms').execute();
      return rows.map(parseKeyRow);
    });
  }

  noteDestroyed({ role, publicKey }: Pick<RetiredKey, 'role' | 'publicKey'>): Promise<void> {
    return this.#database.transaction('forget a retired key', async (tx) => {
      await tx
        .deleteFrom('retired_keys')
        .where('role', '=', role)
        .where('public_key', '=', publicKey)
        .execute();
    });
  }
}

/** Gives a claim up inside the caller's transaction. */
export async function unclaim(tx: Kysely<Schema>, { role, keyId }: KeyClaim): Promise<void> {
  await tx.deleteFrom('key_claims').where('role', '=', role).where('key_id', '=', keyId).execute();
}

/** Retires a key inside the caller's transaction; throws `failed-precondition` for one that signs or is about to. */
export async function retire(tx: Kysely<Schema>, key: RetiredKey): Promise<void> {
  const { role, keyId, publicKey, retiredAtMs } = key;
  const user = await tx
    .selectFrom('authorities')
    .select('id')
    .where('role', '=', role)
    .where('public_key', '=', publicKey)
    .where('state', 'in', ['prepared', 'active'])
    .executeTakeFirst();
  if (user !== undefined) {
    throw new AppError('failed-precondition', `key "${keyId}" is that of authority "${user.id}"`);
  }
  await tx
    .insertInto('retired_keys')
    .values({ role, public_key: publicKey, key_id: keyId, retired_at_ms: retiredAtMs })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  await unclaim(tx, key);
}

function parseKeyRow(row: RetiredKeyRow): RetiredKey {
  return parseRow('retired_keys', row.key_id, () => ({
    role: parseRole(row.role),
    keyId: row.key_id,
    publicKey: row.public_key,
    retiredAtMs: parseCount('retired_at_ms', row.retired_at_ms),
  }));
}

/** Throws for anything else. */
export function parseRole(role: string): AuthorityRole {
  if (role === 'signing' || role === 'root') return role;
  throw new Error(`role is "${role}"; signing or root was expected`);
}
