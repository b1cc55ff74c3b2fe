import type { AuthorityRecord, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { changeBundle } from './bundle-store.ts';
import { parseCount, parseRow } from './row.ts';
import type { AuthorityRow } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** The journal of signing certificates in the table `authorities`. At most one is active: an index says so. */
export class SqlAuthorityStore implements AuthorityStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  list(): Promise<readonly AuthorityRecord[]> {
    return this.#database.read('list authorities', async (db) => {
      const rows = await db
        .selectFrom('authorities')
        .selectAll()
        .orderBy('prepared_at_ms')
        .orderBy('id')
        .execute();
      return rows.map(parseAuthorityRow);
    });
  }

  prepare(
    record: AuthorityRecord,
    trustDomain: TrustDomain,
    change: (current: Bundle | undefined) => Bundle,
  ): Promise<Bundle> {
    return this.#database.transaction('write the prepared authority', async (tx) => {
      if (record.state !== 'prepared') {
        throw new AppError(
          'invalid-argument',
          `authority "${record.id}" is ${record.state}; prepared was expected`,
        );
      }
      const known = tx.selectFrom('authorities').select('id').where('id', '=', record.id);
      if ((await known.executeTakeFirst()) !== undefined) {
        throw new AppError('already-exists', `authority "${record.id}" is already in the journal`);
      }
      await tx.insertInto('authorities').values(authorityRowOf(record)).execute();
      return changeBundle(tx, trustDomain, change);
    });
  }

  activate(id: string, atMs: number): Promise<void> {
    return this.#database.transaction('activate the authority', async (tx) => {
      const row = await tx.selectFrom('authorities').select('state').where('id', '=', id).executeTakeFirst();
      if (row === undefined) throw new AppError('not-found', `there is no authority "${id}"`);
      if (row.state === 'active') return;
      await tx.updateTable('authorities').set({ state: 'old' }).where('state', '=', 'active').execute();
      await tx
        .updateTable('authorities')
        .set({ state: 'active', activated_at_ms: atMs })
        .where('id', '=', id)
        .execute();
    });
  }

  forget(ids: readonly string[]): Promise<void> {
    return this.#database.transaction('forget authorities', async (tx) => {
      for (const id of ids) {
        const row = await tx
          .deleteFrom('authorities')
          .where('id', '=', id)
          .returning('state')
          .executeTakeFirst();
        if (row?.state === 'active') {
          throw new AppError('failed-precondition', `authority "${id}" is active and cannot be forgotten`);
        }
      }
    });
  }
}

function authorityRowOf(record: AuthorityRecord): AuthorityRow {
  return {
    id: record.id,
    key_id: record.keyId,
    public_key: record.publicKey,
    certificate: record.certificate.der,
    state: record.state,
    prepared_at_ms: record.preparedAtMs,
    activated_at_ms: record.activatedAtMs ?? null,
  };
}

function parseAuthorityRow(row: AuthorityRow): AuthorityRecord {
  return parseRow('authorities', row.id, () => ({
    id: row.id,
    keyId: row.key_id,
    publicKey: row.public_key,
    certificate: Certificate.parse(row.certificate),
    state: parseState(row.state),
    preparedAtMs: parseCount('prepared_at_ms', row.prepared_at_ms),
    activatedAtMs:
      row.activated_at_ms === null ? undefined : parseCount('activated_at_ms', row.activated_at_ms),
  }));
}

function parseState(state: string): AuthorityState {
  if (state === 'prepared' || state === 'active' || state === 'old') return state;
  throw new Error(`state is "${state}"; prepared, active or old was expected`);
}
