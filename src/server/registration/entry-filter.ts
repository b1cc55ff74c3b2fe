import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { type MatchBehavior, type Selector, selectorText, setMatcher } from '../../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';

/** Which entries are meant: those for which all that is given holds. */
export interface EntryFilter {
  readonly spiffeId?: SpiffeId;
  readonly parentId?: SpiffeId;
  readonly selectors?: { readonly wanted: readonly Selector[]; readonly match: MatchBehavior };
  readonly federatesWith?: { readonly wanted: readonly TrustDomain[]; readonly match: MatchBehavior };
  /** Empty = those without a hint. */
  readonly hint?: string;
  readonly downstream?: boolean;
}

/** The filter as a test of one entry after the other. */
export function entryMatcher(filter: EntryFilter): (entry: RegistrationEntry) => boolean {
  const { spiffeId, parentId, selectors, federatesWith, hint, downstream } = filter;
  const tests: ((entry: RegistrationEntry) => boolean)[] = [];
  if (spiffeId !== undefined) tests.push((entry) => entry.spiffeId.equals(spiffeId));
  if (parentId !== undefined) tests.push((entry) => entry.parentId.equals(parentId));
  if (hint !== undefined) tests.push((entry) => entry.hint === hint);
  if (downstream !== undefined) tests.push((entry) => entry.downstream === downstream);
  if (federatesWith !== undefined) {
    const matches = setMatcher(namesOf(federatesWith.wanted), federatesWith.match);
    tests.push((entry) => matches(namesOf(entry.federatesWith)));
  }
  if (selectors !== undefined) {
    const matches = setMatcher(selectors.wanted.map(selectorText), selectors.match);
    tests.push((entry) => matches(entry.selectors.map(selectorText)));
  }
  return (entry) => tests.every((test) => test(entry));
}

/** Each once: an entry may name a trust domain twice. */
function namesOf(domains: readonly TrustDomain[]): readonly string[] {
  return [...new Set(domains.map((domain) => domain.name))];
}
