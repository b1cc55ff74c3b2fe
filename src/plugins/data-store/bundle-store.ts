import type { Kysely } from 'kysely';
import type { BundleStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { flagOf, parseCount, parseFlag, parseRow } from './row.ts';
import type { Schema } from './schema.ts';
import type { SqlDatabase } from './sql-database.ts';

/** Trust bundles in the tables `bundles` and `bundle_authorities`. */
export class SqlBundleStore implements BundleStore {
  readonly #database: SqlDatabase;

  constructor(deps: { readonly database: SqlDatabase }) {
    this.#database = deps.database;
  }

  find(trustDomain: TrustDomain): Promise<Bundle | undefined> {
    // In a transaction, because it reads two tables.
    return this.#database.transaction('read the bundle', (tx) => findBundle(tx, trustDomain));
  }

  update(trustDomain: TrustDomain, change: (current: Bundle | undefined) => Bundle): Promise<Bundle> {
    return this.#database.transaction('update the bundle', (tx) => changeBundle(tx, trustDomain, change));
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
  const values = { sequence: bundle.sequence, refresh_hint_seconds: bundle.refreshHintSeconds };
  await tx
    .insertInto('bundles')
    .values({ trust_domain: trustDomain.name, ...values })
    .onConflict((conflict) => conflict.column('trust_domain').doUpdateSet(values))
    .execute();
  await tx.deleteFrom('bundle_authorities').where('trust_domain', '=', trustDomain.name).execute();
  for (const [position, authority] of bundle.x509Authorities.entries()) {
    await tx
      .insertInto('bundle_authorities')
      .values({
        trust_domain: trustDomain.name,
        position,
        certificate: authority.certificate.der,
        tainted: flagOf(authority.tainted),
      })
      .execute();
  }
  return bundle;
}

async function findBundle(db: Kysely<Schema>, trustDomain: TrustDomain): Promise<Bundle | undefined> {
  const row = await db
    .selectFrom('bundles')
    .selectAll()
    .where('trust_domain', '=', trustDomain.name)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const authorities = await bundleAuthoritiesQuery(db, trustDomain).execute();
  const x509Authorities = authorities.map((authority) =>
    parseRow('bundle_authorities', `${authority.trust_domain}, ${authority.position}`, () => ({
      certificate: Certificate.parse(authority.certificate),
      tainted: parseFlag('tainted', authority.tainted),
    })),
  );
  return parseRow('bundles', row.trust_domain, () => {
    const sequence = parseCount('sequence', row.sequence);
    const refreshHintSeconds = parseCount('refresh_hint_seconds', row.refresh_hint_seconds);
    return new Bundle({ trustDomain, x509Authorities, sequence, refreshHintSeconds });
  });
}

/** The statement that reads the authorities of a bundle, apart so that a test can ask SQLite for its plan. */
export function bundleAuthoritiesQuery(db: Kysely<Schema>, trustDomain: TrustDomain) {
  return db
    .selectFrom('bundle_authorities')
    .selectAll()
    .where('trust_domain', '=', trustDomain.name)
    .orderBy('position');
}
