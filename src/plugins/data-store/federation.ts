import { type Kysely, sql } from 'kysely';
import { AppError } from '../../runtime/error.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Schema } from './schema.ts';

/**
 * Throws `failed-precondition` unless a bundle is stored for each of the trust domains: to be called in the
 * transaction that stores an entry which federates with them.
 */
export async function requireBundles(
  tx: Kysely<Schema>,
  trustDomains: readonly TrustDomain[],
): Promise<void> {
  if (trustDomains.length === 0) return;
  const names = trustDomains.map(({ name }) => name);
  const rows = await tx
    .selectFrom('bundles')
    .select('trust_domain')
    .where('trust_domain', 'in', names)
    .execute();
  const stored = new Set(rows.map((row) => row.trust_domain));
  const missing = names.find((name) => !stored.has(name));
  if (missing === undefined) return;
  // SPIRE's words, for those who search for them.
  throw new AppError(
    'failed-precondition',
    `unable to find federated bundle "spiffe://${missing}"; ` +
      `store it first: signet bundle set --trust-domain ${missing} --file FILE`,
  );
}

/** The condition that an entry federates with the trust domain; it uses the index of those that federate at all. */
export function federatesWith(trustDomain: TrustDomain) {
  // A name has no character that JSON escapes, and its quotes keep it from being part of a longer one.
  const name = JSON.stringify(trustDomain.name);
  return sql<boolean>`(federates_with <> '[]' and instr(federates_with, ${name}) > 0)`;
}
