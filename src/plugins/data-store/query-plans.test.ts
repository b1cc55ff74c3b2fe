import { join } from 'node:path';
import { type Explainable, type Kysely, sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { agentCountQuery, agentListQuery, agentQuery } from './agent-store.ts';
import { bundleAuthoritiesQuery, bundleJwtAuthoritiesQuery, federatingEntriesQuery } from './bundle-store.ts';
import { entryListQuery, similarEntryQuery } from './entry-store.ts';
import { migrate } from './migrations.ts';
import type { Schema } from './schema.ts';
import { SqlDatabase } from './sql-database.ts';
import { joinTokenQuery } from './token-store.ts';

const id = SpiffeId.parse('spiffe://example.org/web');
const entryKey = { parent_id: 'a', spiffe_id: 'b', selectors: '[]' };

it.each<{ name: string; query: (db: Kysely<Schema>) => Explainable; index: RegExp }>([
  { name: 'the equal entry', query: (db) => similarEntryQuery(db, entryKey), index: /entries_identity/ },
  {
    name: 'entries by parent',
    query: (db) => entryListQuery(db, { parentId: id }),
    index: /entries_identity/,
  },
  { name: 'an agent', query: (db) => agentQuery(db, id), index: /sqlite_autoindex_agents_1/ },
  {
    name: 'a page of agents',
    query: (db) => agentListQuery(db, { afterId: 'a', limit: 10 }),
    index: /sqlite_autoindex_agents_1/,
  },
  {
    name: 'a page of the agents of one attestor, already in order',
    query: (db) => agentListQuery(db, { attestationType: 'x509pop', afterId: 'a', limit: 10 }),
    index: /agents_attestation_type/,
  },
  {
    name: 'a page of banned agents, already in order',
    query: (db) => agentListQuery(db, { banned: true, afterId: 'a', limit: 10 }),
    index: /agents_banned/,
  },
  {
    name: 'how many agents have expired',
    query: (db) => agentCountQuery(db, { expiresBefore: 1 }),
    index: /agents_expires_at/,
  },
  { name: 'a join token', query: (db) => joinTokenQuery(db, 'a'), index: /sqlite_autoindex_join_tokens_1/ },
  {
    name: 'the authorities of a bundle, already in order',
    query: (db) => bundleAuthoritiesQuery(db, 'a'),
    index: /sqlite_autoindex_bundle_authorities_1/,
  },
  {
    name: 'the JWT authorities of a bundle, already in order',
    query: (db) => bundleJwtAuthoritiesQuery(db, 'a'),
    index: /sqlite_autoindex_bundle_jwt_authorities_1/,
  },
])('SQLite finds $name through an index', async ({ query, index }) => {
  const plan = await planOf(query);
  expect(plan[0]).toMatch(/^SEARCH/);
  expect(plan[0]).toMatch(index);
});

it('SQLite looks only at entries that federate for those that federate with a trust domain', async () => {
  const other = TrustDomain.parse('other.org');
  expect(await planOf((db) => federatingEntriesQuery(db, other))).toEqual([
    'SCAN entries USING INDEX entries_federating',
  ]);
});

async function planOf(query: (db: Kysely<Schema>) => Explainable): Promise<readonly string[]> {
  const database = await SqlDatabase.open(join(tempDir(), 'signet.db'));
  onTestFinished(() => database.close());
  await migrate(database, new FakeClock());
  const steps = await database.read('explain', (db) =>
    query(db).explain<{ detail: string }>(undefined, sql`query plan`),
  );
  return steps.map((step) => step.detail);
}
