import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import {
  canonicalSelectors,
  type MatchBehavior,
  parseSelector,
  selectorText,
} from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import type { EntryFilter } from './entry-filter.ts';
import { EntryIndex } from './entry-index.ts';

const trustDomain = TrustDomain.parse('example.org');
const anyId = fc.constantFrom('/a', '/b', '/c').map((path) => SpiffeId.of(trustDomain, path));
const anySelectors = fc.uniqueArray(fc.constantFrom('a:1', 'a:2', 'b:1'), { minLength: 1 });
const anyDomains = fc.array(fc.constantFrom('one.org', 'two.org', 'three.org'), { maxLength: 4 });
const anyMatch = fc.constantFrom<MatchBehavior>('exact', 'subset', 'superset', 'any');

const anyEntry = fc
  .record({
    spiffeId: anyId.map(String),
    parentId: anyId,
    selectors: anySelectors,
    federatesWith: anyDomains,
    hint: fc.constantFrom('', 'one'),
    downstream: fc.boolean(),
  })
  .map(testEntry);
const anyEntries = fc
  .array(anyEntry, { maxLength: 12 })
  .map((list) => list.map((entry, i) => ({ ...entry, id: `e${i}` })));

/** Each part is there or not. */
const anyFilter: fc.Arbitrary<EntryFilter> = fc.record(
  {
    spiffeId: anyId,
    parentId: anyId,
    selectors: fc.record({ wanted: anySelectors.map((list) => list.map(parseSelector)), match: anyMatch }),
    federatesWith: fc.record({
      wanted: anyDomains.map((names) => names.map((name) => TrustDomain.parse(name))),
      match: anyMatch,
    }),
    hint: fc.constantFrom('', 'one', 'two'),
    downstream: fc.boolean(),
  },
  { requiredKeys: [] },
);

/** SPIRE's words: a match behaviour says what the entry's set must be, seen from the filter's. */
function isMatch(have: Set<string>, wanted: Set<string>, match: MatchBehavior): boolean {
  if (match === 'any') return !have.isDisjointFrom(wanted);
  if (match === 'superset') return have.isSupersetOf(wanted);
  if (match === 'subset') return have.size > 0 && have.isSubsetOf(wanted);
  return have.isSubsetOf(wanted) && have.isSupersetOf(wanted);
}

function isMeant(entry: RegistrationEntry, filter: EntryFilter): boolean {
  const { spiffeId, parentId, selectors, federatesWith, hint, downstream } = filter;
  const names = (domains: readonly TrustDomain[]) => new Set(domains.map(({ name }) => name));
  return (
    (spiffeId === undefined || entry.spiffeId.toString() === spiffeId.toString()) &&
    (parentId === undefined || entry.parentId.toString() === parentId.toString()) &&
    (hint === undefined || entry.hint === hint) &&
    (downstream === undefined || entry.downstream === downstream) &&
    (selectors === undefined ||
      isMatch(
        new Set(entry.selectors.map(selectorText)),
        new Set(selectors.wanted.map(selectorText)),
        selectors.match,
      )) &&
    (federatesWith === undefined ||
      isMatch(names(entry.federatesWith), names(federatesWith.wanted), federatesWith.match))
  );
}

it('means the entries for which all of it holds, in pages that miss none and give none twice', () => {
  fc.assert(
    fc.property(anyEntries, anyFilter, fc.integer({ min: 1, max: 5 }), (entries, filter, limit) => {
      const index = new EntryIndex(trustDomain);
      for (const entry of entries) index.put(entry);
      const meant = entries.filter((entry) => isMeant(entry, filter)).map(({ id }) => id);
      meant.sort();
      expect(index.list(filter).map(({ id }) => id)).toEqual(meant);
      expect(index.count(filter)).toBe(meant.length);
      const paged: string[] = [];
      for (let afterId: string | undefined; ; afterId = paged.at(-1)) {
        const page = index.list(filter, { afterId, limit });
        paged.push(...page.map(({ id }) => id));
        if (page.length < limit) break;
      }
      expect(paged).toEqual(meant);
    }),
    { numRuns: 400 },
  );
});

it('tells a set of selectors from another that is written alike', () => {
  const index = new EntryIndex(trustDomain);
  index.put({ ...testEntry(), selectors: canonicalSelectors([{ type: 'a', value: 'b:c' }]) });
  const wanted = (text: string) => ({
    selectors: { wanted: [parseSelector(text)], match: 'exact' as const },
  });
  expect(index.count(wanted('a:b:c'))).toBe(1);
  expect(index.count(wanted('a:b'))).toBe(0);
});
