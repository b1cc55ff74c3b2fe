import type { Kysely } from 'kysely';
import type { BundleDeleteMode, BundleDeletion, BundleStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { Bundle, type X509Authority } from '../../spiffe/bundle.ts';
import { checkJwtAuthority, type JwtAuthority } from '../../spiffe/jwt-authority.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { entryRowOf, parseEntryRow } from './entry-row.ts';
import { federatesWith } from './federation.ts';
import { flagOf, parseCount, parseFlag, parseRow } from './row.ts';
import type { BundleAuthorityRow, BundleJwtAuthorityRow, BundleRow, EntryRow, Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** Entries that a refusal names: a few show the way, all could be thousands. */
const namedEntries = 5;

/** Trust bundles in the tables `bundles`, `bundle_authorities` and `bundle_jwt_authorities`. */
export class SqlBundleStore implements BundleStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  find(trustDomain: TrustDomain): Promise<Bundle | undefined> {
    // In a transaction, because it reads several tables.
    return this.#database.transaction('read the bundle', (tx) => findBundle(tx, trustDomain));
  }

  list(): Promise<readonly Bundle[]> {
    return this.#database.transaction('list bundles', async (tx) => {
      const rows = await tx.selectFrom('bundles').selectAll().orderBy('trust_domain').execute();
      const bundles: Bundle[] = [];
      for (const row of rows) bundles.push(await bundleOf(tx, row));
      return bundles;
    });
  }

  update(trustDomain: TrustDomain, change: (current: Bundle | undefined) => Bundle): Promise<Bundle> {
    return this.#database.transaction('update the bundle', (tx) => changeBundle(tx, trustDomain, change));
  }

  delete(trustDomain: TrustDomain, mode: BundleDeleteMode): Promise<BundleDeletion> {
    return this.#database.transaction('delete the bundle', async (tx) => {
      const { name } = trustDomain;
      const gone = await tx.deleteFrom('bundles').where('trust_domain', '=', name).executeTakeFirst();
      if (gone.numDeletedRows === 0n) throw new AppError('not-found', 'bundle not found');
      const federating = await federatingEntriesQuery(tx, trustDomain).execute();
      if (federating.length === 0) return { changed: [], deletedIds: [] };
      switch (mode) {
        case 'restrict':
          throw restricted(federating);
        case 'dissociate':
          return { changed: await dissociate(tx, federating, trustDomain), deletedIds: [] };
        case 'delete':
          await tx.deleteFrom('entries').where(federatesWith(trustDomain)).execute();
          return { changed: [], deletedIds: federating.map(({ id }) => id) };
      }
    });
  }
}

/** Replaces a bundle inside the caller's transaction; `change` must keep the trust domain. */
export async function changeBundle(
  tx: Kysely<Schema>,
  trustDomain: TrustDomain,
  change: (current: Bundle | undefined) => Bundle,
): Promise<Bundle> {
  const bundle = change(await findBundle(tx, trustDomain));
  if (!bundle.trustDomain.equals(trustDomain)) {
    throw new AppError(
      'invalid-argument',
      `a bundle of "${bundle.trustDomain}" cannot be stored for "${trustDomain}"`,
    );
  }
  const values = { sequence: String(bundle.sequence), refresh_hint_seconds: bundle.refreshHintSeconds };
  await tx
    .insertInto('bundles')
    .values({ trust_domain: trustDomain.name, ...values })
    .onConflict((conflict) => conflict.column('trust_domain').doUpdateSet(values))
    .execute();
  await writeAuthorities(tx, bundle);
  return bundle;
}

async function writeAuthorities(tx: Kysely<Schema>, bundle: Bundle): Promise<void> {
  const trust_domain = bundle.trustDomain.name;
  await tx.deleteFrom('bundle_authorities').where('trust_domain', '=', trust_domain).execute();
  for (const [position, { certificate, tainted }] of bundle.x509Authorities.entries()) {
    const row = { trust_domain, position, certificate: certificate.der, tainted: flagOf(tainted) };
    await tx.insertInto('bundle_authorities').values(row).execute();
  }
  await tx.deleteFrom('bundle_jwt_authorities').where('trust_domain', '=', trust_domain).execute();
  for (const [position, { keyId, publicKey, expiresAt, tainted }] of bundle.jwtAuthorities.entries()) {
    const key = { key_id: keyId, public_key: publicKey, expires_at: expiresAt, tainted: flagOf(tainted) };
    await tx
      .insertInto('bundle_jwt_authorities')
      .values({ trust_domain, position, ...key })
      .execute();
  }
}

async function findBundle(db: Kysely<Schema>, trustDomain: TrustDomain): Promise<Bundle | undefined> {
  const row = await db
    .selectFrom('bundles')
    .selectAll()
    .where('trust_domain', '=', trustDomain.name)
    .executeTakeFirst();
  return row === undefined ? undefined : bundleOf(db, row);
}

async function bundleOf(db: Kysely<Schema>, row: BundleRow): Promise<Bundle> {
  const x509 = await bundleAuthoritiesQuery(db, row.trust_domain).execute();
  const jwt = await bundleJwtAuthoritiesQuery(db, row.trust_domain).execute();
  const x509Authorities = x509.map(parseX509Row);
  const jwtAuthorities = jwt.map(parseJwtRow);
  return parseRow('bundles', row.trust_domain, () => {
    const trustDomain = TrustDomain.parse(row.trust_domain);
    const sequence = parseSequence(row.sequence);
    const refreshHintSeconds = parseCount('refresh_hint_seconds', row.refresh_hint_seconds);
    return new Bundle({ trustDomain, x509Authorities, jwtAuthorities, sequence, refreshHintSeconds });
  });
}

function parseX509Row(row: BundleAuthorityRow): X509Authority {
  return parseRow('bundle_authorities', `${row.trust_domain}, ${row.position}`, () => ({
    certificate: Certificate.parse(row.certificate),
    tainted: parseFlag('tainted', row.tainted),
  }));
}

function parseJwtRow(row: BundleJwtAuthorityRow): JwtAuthority {
  return parseRow('bundle_jwt_authorities', `${row.trust_domain}, ${row.position}`, () =>
    checkJwtAuthority({
      keyId: row.key_id,
      publicKey: row.public_key,
      expiresAt: parseCount('expires_at', row.expires_at),
      tainted: parseFlag('tainted', row.tainted),
    }),
  );
}

function parseSequence(text: string): bigint {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(text)) throw new Error('sequence is not a whole number of 64 bits');
  return BigInt(text);
}

/** The statement that reads the X.509 authorities of a bundle, apart so that a test can ask SQLite for its plan. */
export function bundleAuthoritiesQuery(db: Kysely<Schema>, trustDomain: string) {
  return db
    .selectFrom('bundle_authorities')
    .selectAll()
    .where('trust_domain', '=', trustDomain)
    .orderBy('position');
}

/** The statement that reads the JWT authorities of a bundle, apart as `bundleAuthoritiesQuery`. */
export function bundleJwtAuthoritiesQuery(db: Kysely<Schema>, trustDomain: string) {
  return db
    .selectFrom('bundle_jwt_authorities')
    .selectAll()
    .where('trust_domain', '=', trustDomain)
    .orderBy('position');
}

/** The statement that finds who federates with a trust domain, apart as `bundleAuthoritiesQuery`. */
export function federatingEntriesQuery(db: Kysely<Schema>, trustDomain: TrustDomain) {
  return db.selectFrom('entries').selectAll().where(federatesWith(trustDomain)).orderBy('id');
}

/** Agents learn of it by the revision. */
async function dissociate(
  tx: Kysely<Schema>,
  rows: readonly EntryRow[],
  trustDomain: TrustDomain,
): Promise<readonly RegistrationEntry[]> {
  const changed = rows.map((row): RegistrationEntry => {
    const entry = parseEntryRow(row);
    const kept = entry.federatesWith.filter((other) => !other.equals(trustDomain));
    return { ...entry, federatesWith: kept, revision: entry.revision + 1 };
  });
  for (const entry of changed) {
    const { federates_with, revision } = entryRowOf(entry);
    await tx.updateTable('entries').set({ federates_with, revision }).where('id', '=', entry.id).execute();
  }
  return changed;
}

/** Starts with SPIRE's words. */
function restricted(rows: readonly EntryRow[]): AppError {
  const named = rows.slice(0, namedEntries).map(({ id, spiffe_id }) => `"${id}" (${spiffe_id})`);
  const more = rows.length > namedEntries ? `, and ${rows.length - namedEntries} more` : '';
  return new AppError(
    'failed-precondition',
    `cannot delete bundle; federated with ${rows.length} registration entries: ${named.join(', ')}${more}; ` +
      'mode dissociate takes the trust domain out of them, mode delete deletes them',
  );
}
