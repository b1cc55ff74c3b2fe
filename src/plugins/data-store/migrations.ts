import { sql } from 'kysely';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { SqlDatabase } from './sql-database.ts';

/** One step of the schema. Never changed once released: later needs are later steps. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly statements: readonly string[];
}

/** All steps, from version 1, without gaps. */
export const migrations: readonly Migration[] = [
  {
    version: 1,
    name: 'entries, agents, bundles, join tokens, authority journal',
    statements: [
      `create table entries (
        id text primary key not null,
        spiffe_id text not null,
        parent_id text not null,
        selectors text not null,
        x509_svid_ttl_seconds integer not null,
        jwt_svid_ttl_seconds integer not null,
        federates_with text not null,
        dns_names text not null,
        admin integer not null check (admin in (0, 1)),
        downstream integer not null check (downstream in (0, 1)),
        store_svid integer not null check (store_svid in (0, 1)),
        hint text not null,
        expires_at integer not null,
        created_at integer not null,
        revision integer not null,
        disable_x509_svid_prefetch integer not null check (disable_x509_svid_prefetch in (0, 1)),
        jwt_svid_include_jti integer not null check (jwt_svid_include_jti in (0, 1))
      ) strict`,
      'create unique index entries_identity on entries (parent_id, spiffe_id, selectors)',
      'create index entries_spiffe_id on entries (spiffe_id)',
      `create table agents (
        id text primary key not null,
        attestation_type text not null,
        serial text not null,
        new_serial text not null,
        expires_at integer not null,
        new_expires_at integer not null,
        selectors text not null,
        can_reattest integer not null check (can_reattest in (0, 1))
      ) strict`,
      `create table bundles (
        trust_domain text primary key not null,
        sequence integer not null,
        refresh_hint_seconds integer not null
      ) strict`,
      `create table bundle_authorities (
        trust_domain text not null references bundles (trust_domain) on delete cascade,
        position integer not null,
        certificate blob not null,
        tainted integer not null check (tainted in (0, 1)),
        primary key (trust_domain, position)
      ) strict`,
      `create table join_tokens (
        hash text primary key not null check (length(hash) = 64),
        expires_at integer not null,
        alias_id text,
        used_at integer,
        used_by text,
        used_for text,
        attested integer not null default 0 check (attested in (0, 1)),
        check ((used_at is null) = (used_by is null)),
        check ((used_at is null) = (used_for is null))
      ) strict`,
      'create index join_tokens_used_for on join_tokens (used_for) where used_for is not null',
      'create index join_tokens_expires_at on join_tokens (expires_at)',
      'create index join_tokens_used_at on join_tokens (used_at) where used_at is not null',
      `create table authorities (
        id text primary key not null,
        key_id text not null,
        public_key blob not null,
        certificate blob not null,
        state text not null check (state in ('prepared', 'active', 'old')),
        prepared_at_ms integer not null,
        activated_at_ms integer
      ) strict`,
      "create unique index authorities_one_active on authorities (state) where state = 'active'",
    ],
  },
  {
    version: 2,
    name: 'agents: version, and indexes for lists of them',
    statements: [
      "alter table agents add column agent_version text not null default ''",
      'create index agents_attestation_type on agents (attestation_type, id)',
      'create index agents_expires_at on agents (expires_at)',
      "create index agents_banned on agents (id) where serial = ''",
    ],
  },
  {
    version: 3,
    name: 'bundles: sequences of 64 bits, JWT authorities, entries that federate',
    statements: [
      `create table new_bundles (
        trust_domain text primary key not null,
        sequence text not null,
        refresh_hint_seconds integer not null
      ) strict`,
      'insert into new_bundles select trust_domain, cast(sequence as text), refresh_hint_seconds from bundles',
      `create table new_bundle_authorities (
        trust_domain text not null references new_bundles (trust_domain) on delete cascade,
        position integer not null,
        certificate blob not null,
        tainted integer not null check (tainted in (0, 1)),
        primary key (trust_domain, position)
      ) strict`,
      'insert into new_bundle_authorities select trust_domain, position, certificate, tainted from bundle_authorities',
      'drop table bundle_authorities',
      'drop table bundles',
      'alter table new_bundles rename to bundles',
      'alter table new_bundle_authorities rename to bundle_authorities',
      `create table bundle_jwt_authorities (
        trust_domain text not null references bundles (trust_domain) on delete cascade,
        position integer not null,
        key_id text not null,
        public_key blob not null,
        expires_at integer not null,
        tainted integer not null check (tainted in (0, 1)),
        primary key (trust_domain, position)
      ) strict`,
      "create index entries_federating on entries (id) where federates_with <> '[]'",
    ],
  },
  {
    version: 4,
    name: 'entries: questions are answered from memory',
    // Each insertion had to write a page of it for nothing.
    statements: ['drop index entries_spiffe_id'],
  },
  {
    version: 5,
    name: 'authority journal: chains, roots of our own, taint and revocation, retired keys',
    statements: [
      "alter table authorities add column role text not null default 'signing' check (role in ('signing', 'root'))",
      "alter table authorities add column chain blob not null default x''",
      "alter table authorities add column upstream_key_id text not null default ''",
      'alter table authorities add column tainted_at_ms integer',
      'alter table authorities add column revoked_at_ms integer',
      'alter table authorities add column svids_end_by_ms integer',
      'drop index authorities_one_active',
      "create unique index authorities_one_active on authorities (role) where state = 'active'",
      `create table key_claims (
        role text not null check (role in ('signing', 'root')),
        key_id text not null,
        primary key (role, key_id)
      ) strict`,
      `create table retired_keys (
        role text not null check (role in ('signing', 'root')),
        public_key blob not null,
        key_id text not null,
        retired_at_ms integer not null,
        primary key (role, public_key)
      ) strict`,
    ],
  },
  {
    version: 6,
    name: 'server: an ID of its own',
    statements: ['create table server_settings (name text primary key not null, value text not null) strict'],
  },
];

/** The schema version that this program writes. */
export const newestVersion = migrations.length;

/**
 * Brings the schema up to date, each step in a transaction of its own, so that a crash leaves a whole version.
 * Throws `failed-precondition` when a newer program has already changed the schema: nothing is touched then.
 */
export async function migrate(
  database: SqlDatabase,
  clock: Clock,
  steps: readonly Migration[] = migrations,
): Promise<void> {
  await refuseNewer(database, steps.length);
  for (const step of steps) await apply(database, step, clock);
}

async function refuseNewer(database: SqlDatabase, known: number): Promise<void> {
  const stored = await storedVersion(database);
  if (stored <= known) return;
  throw new AppError(
    'failed-precondition',
    `database "${database.path}" has schema version ${stored}, but this program knows versions up to ${known}: ` +
      'run the newer signet that wrote it, or restore the backup that was made before the upgrade',
  );
}

/** The schema version of the database, 0 when it is new. */
export async function storedVersion(database: SqlDatabase): Promise<number> {
  return database.transaction('read the schema version', async (tx) => {
    await sql`create table if not exists schema_migrations (
      version integer primary key not null, name text not null, applied_at_ms integer not null
    ) strict`.execute(tx);
    const row = await tx
      .selectFrom('schema_migrations')
      .select((e) => e.fn.max('version').as('version'))
      .executeTakeFirst();
    // The maximum of no rows is null, whatever the type says.
    return Number(row?.version ?? 0);
  });
}

async function apply(database: SqlDatabase, step: Migration, clock: Clock): Promise<void> {
  await database.transaction(`migrate to schema version ${step.version}`, async (tx) => {
    const done = tx.selectFrom('schema_migrations').select('version').where('version', '=', step.version);
    if ((await done.executeTakeFirst()) !== undefined) return;
    for (const statement of step.statements) await sql.raw(statement).execute(tx);
    const { version, name } = step;
    await tx.insertInto('schema_migrations').values({ version, name, applied_at_ms: clock.now() }).execute();
  });
}
