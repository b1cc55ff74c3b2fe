import { join } from 'node:path';
import { type Explainable, type Kysely, sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { agentQuery } from './agent-store.ts';
import { bundleAuthoritiesQuery } from './bundle-store.ts';
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
    name: 'entries by SPIFFE ID',
    query: (db) => entryListQuery(db, { spiffeId: id }),
    index: /entries_spiffe_id/,
  },
  {
    name: 'entries by parent',
    query: (db) => entryListQuery(db, { parentId: id }),
    index: /entries_identity/,
  },
  {
    name: 'a page of entries',
    query: (db) => entryListQuery(db, { afterId: 'a', limit: 10 }),
    index: /sqlite_autoindex_entries_1/,
  },
  { name: 'an agent', query: (db) => agentQuery(db, id), index: /sqlite_autoindex_agents_1/ },
  { name: 'a join token', query: (db) => joinTokenQuery(db, 'a'), index: /sqlite_autoindex_join_tokens_1/ },
  {
    name: 'the authorities of a bundle, already in order',
    query: (db) => bundleAuthoritiesQuery(db, TrustDomain.parse('a')),
    index: /sqlite_autoindex_bundle_authorities_1/,
  },
])('SQLite finds $name through an index', async ({ query, index }) => {
  const database = await SqlDatabase.open(join(tempDir(), 'signet.db'));
  onTestFinished(() => database.close());
  await migrate(database, new FakeClock());
  const steps = await database.read('explain', (db) =>
    query(db).explain<{ detail: string }>(undefined, sql`query plan`),
  );
  const plan = steps.map((step) => step.detail);
  expect(plan[0]).toMatch(/^SEARCH/);
  expect(plan[0]).toMatch(index);
});
