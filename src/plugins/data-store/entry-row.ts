import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { flagOf, parseCount, parseFlag, parseRow, parseSelectors, parseTexts, selectorsJson } from './row.ts';
import type { EntryRow } from './schema.ts';

/** The entry as the table `entries` has it. */
export function entryRowOf(entry: RegistrationEntry): EntryRow {
  return {
    id: entry.id,
    spiffe_id: entry.spiffeId.toString(),
    parent_id: entry.parentId.toString(),
    selectors: selectorsJson(entry.selectors),
    x509_svid_ttl_seconds: entry.x509SvidTtlSeconds,
    jwt_svid_ttl_seconds: entry.jwtSvidTtlSeconds,
    federates_with: JSON.stringify(entry.federatesWith.map((trustDomain) => trustDomain.name)),
    dns_names: JSON.stringify(entry.dnsNames),
    admin: flagOf(entry.admin),
    downstream: flagOf(entry.downstream),
    store_svid: flagOf(entry.storeSvid),
    hint: entry.hint,
    expires_at: entry.expiresAt,
    created_at: entry.createdAt,
    revision: entry.revision,
    disable_x509_svid_prefetch: flagOf(entry.disableX509SvidPrefetch),
    jwt_svid_include_jti: flagOf(entry.jwtSvidIncludeJti),
  };
}

/** Throws `internal` for a damaged row. */
export function parseEntryRow(row: EntryRow): RegistrationEntry {
  return parseRow('entries', row.id, () => ({
    id: row.id,
    spiffeId: SpiffeId.parse(row.spiffe_id),
    parentId: SpiffeId.parse(row.parent_id),
    selectors: parseSelectors('selectors', row.selectors),
    x509SvidTtlSeconds: parseCount('x509_svid_ttl_seconds', row.x509_svid_ttl_seconds),
    jwtSvidTtlSeconds: parseCount('jwt_svid_ttl_seconds', row.jwt_svid_ttl_seconds),
    federatesWith: parseTexts('federates_with', row.federates_with).map((name) => TrustDomain.parse(name)),
    dnsNames: parseTexts('dns_names', row.dns_names),
    admin: parseFlag('admin', row.admin),
    downstream: parseFlag('downstream', row.downstream),
    storeSvid: parseFlag('store_svid', row.store_svid),
    hint: row.hint,
    expiresAt: parseCount('expires_at', row.expires_at),
    createdAt: parseCount('created_at', row.created_at),
    revision: parseCount('revision', row.revision),
    disableX509SvidPrefetch: parseFlag('disable_x509_svid_prefetch', row.disable_x509_svid_prefetch),
    jwtSvidIncludeJti: parseFlag('jwt_svid_include_jti', row.jwt_svid_include_jti),
  }));
}
