import type { Kysely } from 'kysely';
import type { AuthorityRecord, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate, parseCertificates } from '../../x509/certificate.ts';
import { changeBundle } from './bundle-store.ts';
import { parseRole, retire, unclaim } from './key-journal.ts';
import { parseCount, parseRow } from './row.ts';
import type { AuthorityRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** The journal of CA certificates in the table `authorities`. At most one of a role is active: an index says so. */
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
      await unclaim(tx, record);
      return changeBundle(tx, trustDomain, change);
    });
  }

  activate(id: string, atMs: number): Promise<void> {
    return this.#database.transaction('activate the authority', async (tx) => {
      const row = await tx
        .selectFrom('authorities')
        .select(['state', 'role'])
        .where('id', '=', id)
        .executeTakeFirst();
      if (row === undefined) throw new AppError('not-found', `there is no authority "${id}"`);
      if (row.state === 'active') return;
      await tx
        .updateTable('authorities')
        .set({ state: 'old' })
        .where('state', '=', 'active')
        .where('role', '=', row.role)
        .execute();
      await tx
        .updateTable('authorities')
        .set({ state: 'active', activated_at_ms: atMs })
        .where('id', '=', id)
        .execute();
    });
  }

  mark(
    records: readonly AuthorityRecord[],
    trustDomain: TrustDomain,
    change: (current: Bundle | undefined) => Bundle,
  ): Promise<Bundle> {
    return this.#database.transaction('mark authorities', async (tx) => {
      for (const record of records) {
        const { tainted_at_ms, revoked_at_ms, ...row } = authorityRowOf(record);
        await tx
          .insertInto('authorities')
          .values({ ...row, tainted_at_ms, revoked_at_ms })
          .onConflict((conflict) => conflict.column('id').doUpdateSet({ tainted_at_ms, revoked_at_ms }))
          .execute();
      }
      return changeBundle(tx, trustDomain, change);
    });
  }

  extendSvids(id: string, endByMs: number): Promise<void> {
    return this.#database.transaction('note how long SVIDs last', async (tx) => {
      await tx
        .updateTable('authorities')
        .set({ svids_end_by_ms: endByMs })
        .where('id', '=', id)
        // Not known stays so: null is less than nothing.
        .where('svids_end_by_ms', '<', endByMs)
        .execute();
    });
  }

  forget(ids: readonly string[], atMs: number): Promise<void> {
    return this.#database.transaction('forget authorities', async (tx) => {
      for (const id of ids) await forgetOne(tx, id, atMs);
    });
  }
}

async function forgetOne(tx: Kysely<Schema>, id: string, atMs: number): Promise<void> {
  const row = await tx
    .deleteFrom('authorities')
    .where('id', '=', id)
    .returning(['state', 'role', 'key_id', 'public_key'])
    .executeTakeFirst();
  if (row === undefined) return;
  if (row.state === 'active') {
    throw new AppError('failed-precondition', `authority "${id}" is active and cannot be forgotten`);
  }
  // A root whose key is somebody else's leaves none behind.
  if (row.key_id === '') return;
  await retire(tx, {
    role: parseRole(row.role),
    keyId: row.key_id,
    publicKey: row.public_key,
    retiredAtMs: atMs,
  });
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
    role: record.role,
    chain: Buffer.concat(record.chain.map((certificate) => certificate.der)),
    upstream_key_id: record.upstreamKeyId,
    tainted_at_ms: record.taintedAtMs ?? null,
    revoked_at_ms: record.revokedAtMs ?? null,
    svids_end_by_ms: record.svidsEndByMs ?? null,
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
    activatedAtMs: parseTime('activated_at_ms', row.activated_at_ms),
    role: parseRole(row.role),
    chain: row.chain.length === 0 ? [] : parseCertificates(row.chain),
    upstreamKeyId: row.upstream_key_id,
    taintedAtMs: parseTime('tainted_at_ms', row.tainted_at_ms),
    revokedAtMs: parseTime('revoked_at_ms', row.revoked_at_ms),
    svidsEndByMs: parseTime('svids_end_by_ms', row.svids_end_by_ms),
  }));
}

function parseTime(column: string, value: number | null): number | undefined {
  return value === null ? undefined : parseCount(column, value);
}

function parseState(state: string): AuthorityState {
  if (state === 'prepared' || state === 'active' || state === 'old') return state;
  throw new Error(`state is "${state}"; prepared, active or old was expected`);
}
