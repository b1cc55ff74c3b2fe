import { newEntry, type RegistrationEntry } from '../spiffe/registration-entry.ts';
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
    createdAt: 1_700_000_000,
    revision: 0,
    ...newEntry({
      id: 'entry-1',
      parentId: SpiffeId.parse('spiffe://example.org/spire/agent/test'),
      ...fields,
      spiffeId: SpiffeId.parse(spiffeId),
      selectors: canonicalSelectors(selectors.map(parseSelector)),
      federatesWith: federatesWith.map((name) => TrustDomain.parse(name)),
    }),
  };
}
