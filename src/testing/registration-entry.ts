import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { canonicalSelectors, parseSelector } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';

/** A registration entry with defaults for all that a test does not care about. */
export function testEntry(
  fields: Partial<Omit<RegistrationEntry, 'spiffeId' | 'selectors' | 'federatesWith'>> & {
    readonly spiffeId?: string;
    /** As `type:value`. */
    readonly selectors?: readonly string[];
    readonly federatesWith?: readonly string[];
  } = {},
): RegistrationEntry {
  const {
    spiffeId = 'spiffe://example.org/workload',
    selectors = ['unix:uid:1000'],
    federatesWith = [],
  } = fields;
  return {
    id: 'entry-1',
    parentId: SpiffeId.parse('spiffe://example.org/spire/agent/test'),
    x509SvidTtlSeconds: 0,
    jwtSvidTtlSeconds: 0,
    dnsNames: [],
    admin: false,
    downstream: false,
    storeSvid: false,
    hint: '',
    expiresAt: 0,
    createdAt: 1_700_000_000,
    revision: 0,
    disableX509SvidPrefetch: false,
    jwtSvidIncludeJti: false,
    ...fields,
    spiffeId: SpiffeId.parse(spiffeId),
    selectors: canonicalSelectors(selectors.map(parseSelector)),
    federatesWith: federatesWith.map((name) => TrustDomain.parse(name)),
  };
}
