import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { selectorText } from '../spiffe/selector.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { EntryMatcher } from './entry-matcher.ts';

const all = ['unix:uid:0', 'unix:uid:1', 'k8s:ns:a', 'k8s:ns:b', 'docker:label:x'];

describe('matching entries to a workload', () => {
  test('finds exactly the entries whose selectors the workload has, oldest first', () => {
    const selectors = fc.subarray(all, { minLength: 1 });
    const entries = fc.array(fc.tuple(selectors, fc.integer({ min: 1, max: 3 })), { maxLength: 30 });
    fc.assert(
      fc.property(entries, fc.subarray(all), (drawn, have) => {
        const list = drawn.map(([wanted, createdAt], index) =>
          testEntry({ id: `e${String(index).padStart(2, '0')}`, selectors: wanted, createdAt }),
        );
        const expected = list
          .filter((entry) => entry.selectors.every((selector) => have.includes(selectorText(selector))))
          .sort((a, b) => a.createdAt - b.createdAt || Number(a.id.slice(1)) - Number(b.id.slice(1)));
        expect(new EntryMatcher(list).match(new Set(have))).toEqual(expected);
      }),
    );
  });

  test('never gives an entry without selectors to anybody', () => {
    expect(new EntryMatcher([testEntry({ selectors: [] })]).match(new Set(all))).toEqual([]);
  });

  test('never gives out an entry that is for an SVID store', () => {
    const entry = testEntry({ selectors: ['unix:uid:0'], storeSvid: true });
    expect(new EntryMatcher([entry]).match(new Set(all))).toEqual([]);
  });

  test('looks at few entries even when all share a selector', () => {
    const entries = Array.from({ length: 20_000 }, (_, i) =>
      testEntry({ id: `e${i}`, selectors: ['unix:uid:0', `unix:path:/bin/${i}`] }),
    );
    const matcher = new EntryMatcher(entries);
    const started = performance.now();
    for (let i = 0; i < 20_000; i += 1) {
      expect(matcher.match(new Set(['unix:uid:0', `unix:path:/bin/${i}`])).length).toBe(1);
    }
    // All against all would be 400 million comparisons, more than ten seconds.
    expect(performance.now() - started).toBeLessThan(8_000);
  });
});
