import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import {
  canonicalSelectors,
  checkSelector,
  isSubset,
  type MatchBehavior,
  matchesSet,
  parseSelector,
  type Selector,
  selectorText,
} from './selector.ts';

const selector: fc.Arbitrary<Selector> = fc.record({
  type: fc.constantFrom('unix', 'k8s', 'docker', 'a'),
  value: fc.oneof(fc.constantFrom('uid:1', 'uid:10', 'uid:2', ':', ' '), fc.string({ minLength: 1 })),
});
const selectors = fc.array(selector, { maxLength: 12 });
const texts = (list: readonly Selector[]) => list.map(selectorText);

describe('a selector', () => {
  it.each([
    ['unix:uid:1000', { type: 'unix', value: 'uid:1000' }],
    ['a::', { type: 'a', value: ':' }],
    ['unix:path:/usr/bin/a b', { type: 'unix', value: 'path:/usr/bin/a b' }],
  ])('is read from %s, split at the first colon', (text, expected) => {
    expect(parseSelector(text)).toEqual(expected);
  });

  it.each(['', 'unix', ':', ':value', 'unix:'])('is not read from %j', (text) => {
    expect(() => parseSelector(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it.each([
    { type: '', value: 'a' },
    { type: 'a', value: '' },
    { type: 'a:b', value: 'c' },
  ])('in two parts is refused when they are $type and $value', (parts) => {
    expect(() => checkSelector(parts)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('comes back from its text', () => {
    fc.assert(
      fc.property(selector, (one) => {
        expect(parseSelector(selectorText(one))).toEqual(one);
      }),
    );
  });

  it('is refused or comes back exactly, whatever the text', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          expect(selectorText(parseSelector(text))).toBe(text);
        } catch (error) {
          expect(isAppError(error, 'invalid-argument')).toBe(true);
        }
      }),
    );
  });
});

describe('canonical selectors', () => {
  it('are sorted by type and then value in code units', () => {
    const given = ['b:1', 'a:b', 'a:B', 'a:10', 'a:2', 'a-b:0'].map(parseSelector);
    expect(texts(canonicalSelectors(given))).toEqual(['a:10', 'a:2', 'a:B', 'a:b', 'a-b:0', 'b:1']);
  });

  it('are the same for every order and repetition of the same set', () => {
    fc.assert(
      fc.property(selectors, fc.integer(), (list, seed) => {
        const shuffled = [...list, ...list].sort(
          (a, b) => ((a.value.length * seed) % 7) - ((b.value.length * seed) % 7),
        );
        const canonical = canonicalSelectors(list);
        expect(canonicalSelectors(shuffled)).toEqual(canonical);
        expect(canonicalSelectors(canonical)).toEqual(canonical);
        expect(new Set(texts(canonical))).toEqual(new Set(texts(list)));
        expect(new Set(texts(canonical)).size).toBe(canonical.length);
      }),
    );
  });
});

describe('the subset test', () => {
  it('wants every selector to be there', () => {
    const have = new Set(['a:1', 'a:2']);
    expect(isSubset([parseSelector('a:1')], have)).toBe(true);
    expect(isSubset([parseSelector('a:1'), parseSelector('a:3')], have)).toBe(false);
    expect(isSubset([], have)).toBe(true);
  });

  it('agrees with sets of texts', () => {
    fc.assert(
      fc.property(selectors, selectors, (wanted, have) => {
        const set = new Set(texts(have));
        expect(isSubset(wanted, set)).toBe(new Set(texts(wanted)).isSubsetOf(set));
      }),
    );
  });
});

describe('a set that a filter names', () => {
  it.each<{ have: string[]; wanted: string[]; matches: readonly MatchBehavior[] }>([
    { have: ['a', 'b'], wanted: ['b', 'a'], matches: ['exact', 'subset', 'superset', 'any'] },
    { have: ['a', 'b'], wanted: ['a', 'a', 'b'], matches: ['exact', 'subset', 'superset', 'any'] },
    { have: ['a'], wanted: ['a', 'b'], matches: ['subset', 'any'] },
    { have: ['a', 'b'], wanted: ['a'], matches: ['superset', 'any'] },
    { have: ['a', 'b'], wanted: ['b', 'c'], matches: ['any'] },
    { have: ['a'], wanted: ['b'], matches: [] },
    { have: [], wanted: ['a'], matches: [] },
    { have: ['a'], wanted: [], matches: ['superset'] },
    { have: [], wanted: [], matches: ['exact', 'superset'] },
  ])('$wanted is met by $have for $matches', ({ have, wanted, matches }) => {
    const all: readonly MatchBehavior[] = ['exact', 'subset', 'superset', 'any'];
    expect(all.filter((behavior) => matchesSet(have, wanted, behavior))).toEqual(matches);
  });

  it('is compared as sets are', () => {
    const set = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'));
    fc.assert(
      fc.property(set, set, (have, wanted) => {
        const [h, w] = [new Set(have), new Set(wanted)];
        expect(matchesSet(have, wanted, 'exact')).toBe(h.symmetricDifference(w).size === 0);
        expect(matchesSet(have, wanted, 'subset')).toBe(h.size > 0 && h.isSubsetOf(w));
        expect(matchesSet(have, wanted, 'superset')).toBe(h.isSupersetOf(w));
        expect(matchesSet(have, wanted, 'any')).toBe(!h.isDisjointFrom(w));
      }),
    );
  });
});
