import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { SvidCache } from './svid-cache.ts';

const selectors = ['unix:uid:1', 'unix:gid:1', 'unix:user:web'];
const entry = fc
  .record({
    id: fc.uuid(),
    createdAt: fc.integer({ min: 1_700_000_000, max: 1_700_000_003 }),
    path: fc.constantFrom('/a', '/b', '/c'),
    selectors: fc.subarray(selectors, { minLength: 1 }),
    hint: fc.constantFrom('', 'internal', 'external'),
  })
  .map(({ path, ...fields }) => testEntry({ ...fields, spiffeId: `spiffe://example.org${path}` }));
const entries = fc.uniqueArray(entry, { minLength: 1, maxLength: 12, selector: ({ id }) => id });

function viewOf(known: readonly RegistrationEntry[]) {
  const cache = new SvidCache({ clock: new FakeClock(), keyType: 'ec-p256' });
  const { view } = cache.watch(selectors.map(parseSelector));
  return {
    cache,
    ids: () => view.value.identities.map(({ entry: { id } }) => id),
    set: () => cache.setEntries(known),
  };
}

test('the order of identities does not depend on the order in which the server tells the entries', () => {
  fc.assert(
    fc.property(
      entries.chain((all) => fc.tuple(fc.constant(all), fc.shuffledSubarray(all, { minLength: all.length }))),
      ([all, shuffled]) => {
        const [one, two] = [viewOf(all), viewOf(shuffled)];
        one.set();
        two.set();
        expect(two.ids()).toEqual(one.ids());
      },
    ),
  );
});

test('the default identity stays the same when younger ones are added, and while any others go', () => {
  fc.assert(
    fc.property(
      entries,
      fc.array(entry, { maxLength: 6 }),
      fc.infiniteStream(fc.boolean()),
      (all, added, coins) => {
        const { cache, ids, set } = viewOf(all);
        set();
        const [first] = ids();
        const oldest = all.find(({ id }) => id === first);
        const younger = added.map((one) => ({ ...one, createdAt: one.createdAt + 100 }));
        cache.setEntries([...younger, ...all]);
        expect(ids()[0]).toBe(first);
        cache.setEntries([...all, ...younger].filter((one) => one === oldest || coins.next().value));
        expect(ids()[0]).toBe(first);
      },
    ),
  );
});

test('adding entries never changes the order of those that were there', () => {
  fc.assert(
    fc.property(entries, entries, (all, added) => {
      const { cache, ids, set } = viewOf(all);
      set();
      const before = ids();
      cache.setEntries([...added, ...all]);
      expect(ids().filter((id) => before.includes(id))).toEqual(before);
    }),
  );
});
