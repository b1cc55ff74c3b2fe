import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { DataStore } from '../../plugin-api/data-store.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { newEntry } from '../../testing/data-store/samples.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { databaseFileName, openSqliteStore } from './sql-store.ts';

const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/join_token/a');
const hash = 'a'.repeat(64);

/** A store with one row of each kind, changed by `statement` behind its back. */
async function damagedStore(statement: string): Promise<DataStore> {
  const dataDir = tempDir();
  const clock = new FakeClock();
  const store = await openSqliteStore({ dataDir, clock });
  onTestFinished(() => store.close());
  await store.entries.create([newEntry({ id: 'e1' })]);
  const attestation = { attestationType: 'a', serial: '1', expiresAt: 1, selectors: [], canReattest: true };
  await store.agents.recordAttestation({ id: agentId, ...attestation });
  await store.tokens.create({ hash, expiresAt: 10 ** 10, aliasId: agentId });
  const database = new DatabaseSync(join(dataDir, databaseFileName));
  database.exec('pragma ignore_check_constraints = on');
  database.exec("insert into bundles values ('example.org', 1, 0)");
  database.exec(
    "insert into authorities (id, key_id, public_key, certificate, state, prepared_at_ms, activated_at_ms) values ('a1', 'k', x'00', x'3000', 'active', 1, 1)",
  );
  database.exec(statement);
  database.close();
  return store;
}

const readEntry = (store: DataStore) => store.entries.list();
const readAgent = (store: DataStore) => store.agents.find(agentId);
const readBundle = (store: DataStore) => store.bundles.find(TrustDomain.parse('example.org'));

describe('a damaged row is an error that names table and row', () => {
  it.each<{ set: string; read: (store: DataStore) => Promise<unknown>; table: string; id: string }>([
    ...[
      "spiffe_id = 'http://example.org'",
      "parent_id = ''",
      "selectors = 'unix:uid:1'",
      'selectors = \'["b:b","a:a"]\'',
      'selectors = \'["a:a","a:a"]\'',
      'selectors = \'["a"]\'',
      "selectors = '{}'",
      "federates_with = '[1]'",
      'federates_with = \'["UPPER"]\'',
      "dns_names = ''",
      'admin = 2',
      'store_svid = -1',
      'x509_svid_ttl_seconds = -1',
      'expires_at = -5',
      'revision = -1',
      'jwt_svid_include_jti = 7',
    ].map((set) => ({ set: `entries set ${set}`, read: readEntry, table: 'entries', id: 'e1' })),
    ...[
      "serial = 'abc'",
      "new_serial = '0x1'",
      'expires_at = -1',
      'selectors = \'["a:a" ]\'',
      'can_reattest = 3',
    ].map((set) => ({ set: `agents set ${set}`, read: readAgent, table: 'agents', id: agentId.toString() })),
    ...[
      "sequence = '-1'",
      "sequence = '01'",
      "sequence = '18446744073709551616'",
      'refresh_hint_seconds = -1',
    ].map((set) => ({
      set: `bundles set ${set}`,
      read: readBundle,
      table: 'bundles',
      id: 'example.org',
    })),
    {
      set: 'authorities set prepared_at_ms = 1',
      read: (store) => store.authorities.list(),
      table: 'authorities',
      id: 'a1',
    },
  ])('update $set', async ({ set, read, table, id }) => {
    const store = await damagedStore(`update ${set}`);
    const reading = read(store);
    await expect(reading).rejects.toMatchObject({ code: 'internal' });
    const { message } = (await reading.catch((error: unknown) => error)) as Error;
    expect(message).toContain(`table "${table}"`);
    expect(message).toContain(`"${id}"`);
  });

  it('also when a certificate of a bundle cannot be parsed', async () => {
    const store = await damagedStore("insert into bundle_authorities values ('example.org', 0, x'3000', 0)");
    const message = expect.stringContaining('row "example.org, 0" of table "bundle_authorities"');
    await expect(readBundle(store)).rejects.toMatchObject({ code: 'internal', message });
  });

  it('also when a JWT authority of a bundle cannot be parsed', async () => {
    const values = "values ('example.org', 0, 'k', x'3000', 0, 0)";
    const store = await damagedStore(`insert into bundle_jwt_authorities ${values}`);
    const message = expect.stringContaining('row "example.org, 0" of table "bundle_jwt_authorities"');
    await expect(readBundle(store)).rejects.toMatchObject({ code: 'internal', message });
    await expect(store.bundles.list()).rejects.toMatchObject({ code: 'internal', message });
  });

  it('also when the alias of a token cannot be parsed, and the token is not used up', async () => {
    const store = await damagedStore("update join_tokens set alias_id = 'x'");
    const redeem = () =>
      store.tokens.redeem({
        hash,
        publicKeyHash: hash,
        agentId,
        now: 1,
        repeatSeconds: 60,
        aliasEntry: (spiffeId) => newEntry({ spiffeId }),
      });
    const message = expect.stringContaining('row "aaaaaaaa" of table "join_tokens"');
    await expect(redeem()).rejects.toMatchObject({ code: 'internal', message });
    await expect(redeem()).rejects.toMatchObject({ code: 'internal', message });
  });

  it('and one number that no JavaScript number can hold does not become another', async () => {
    const store = await damagedStore('update entries set expires_at = 9007199254740993');
    await expect(readEntry(store)).rejects.toMatchObject({ code: 'internal' });
  });
});
