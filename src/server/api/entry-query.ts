import type {
  CountEntriesRequest_Filter,
  ListEntriesRequest_Filter,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { FederatesWithMatch } from '../../gen/spire/api/types/federateswith.ts';
import type { SPIFFEID } from '../../gen/spire/api/types/spiffeid.ts';
import { spiffeIdFromWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import { type SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { EntryFilter } from '../registration/entry-filter.ts';
import { explained } from './messages.ts';
import { matchBehaviorFromWire, selectorMatchFromWire } from './selector-match.ts';

/** More than an entry may have; each entry is compared with all of them. */
const maxNames = 1000;

/**
 * The filter of ListEntries and CountEntries. Throws `invalid-argument` with SPIRE's texts. Unlike in SPIRE the
 * empty hint is a filter too: whoever asks for part of the entries must not get all.
 */
export function entryFilterFromWire(
  wire: ListEntriesRequest_Filter | CountEntriesRequest_Filter | undefined,
  trustDomain: TrustDomain,
): EntryFilter {
  if (wire === undefined) return {};
  const { bySpiffeId, byParentId, bySelectors, byFederatesWith, byHint, byDownstream } = wire;
  const parse = <K extends keyof EntryFilter>(
    field: K,
    what: string,
    read: (() => EntryFilter[K]) | undefined,
  ): Partial<EntryFilter> =>
    read === undefined ? {} : { [field]: explained(`malformed ${what} filter`, read) };
  return {
    ...parse('spiffeId', 'SPIFFE ID', bySpiffeId && (() => memberFromWire(bySpiffeId, trustDomain))),
    ...parse('parentId', 'parent ID', byParentId && (() => memberFromWire(byParentId, trustDomain))),
    ...parse('selectors', 'selectors', bySelectors && (() => bounded(selectorMatchFromWire(bySelectors)))),
    ...parse(
      'federatesWith',
      'federates with',
      byFederatesWith && (() => bounded(federatesWithFromWire(byFederatesWith))),
    ),
    ...(byHint === undefined ? {} : { hint: byHint }),
    ...(byDownstream === undefined ? {} : { downstream: byDownstream }),
  };
}

function memberFromWire(wire: SPIFFEID, trustDomain: TrustDomain): SpiffeId {
  const id = spiffeIdFromWire(wire);
  if (id.isMemberOf(trustDomain)) return id;
  throw new AppError('invalid-argument', `"${id}" is not a member of trust domain "${trustDomain}"`);
}

function federatesWithFromWire(wire: FederatesWithMatch) {
  const match = matchBehaviorFromWire(wire.match);
  if (wire.trustDomains.length === 0) throw new AppError('invalid-argument', 'empty trust domain set');
  return { wanted: wire.trustDomains.map((name) => TrustDomain.parseNameOrId(name)), match };
}

function bounded<T extends { readonly wanted: readonly unknown[] }>(filter: T): T {
  const { length } = filter.wanted;
  if (length <= maxNames) return filter;
  throw new AppError('invalid-argument', `${length} names; at most ${maxNames} are allowed`);
}
