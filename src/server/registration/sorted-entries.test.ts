import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { SortedEntries } from './sorted-entries.ts';

/** Upper case comes before lower case in code units, whatever a dictionary says. */
const anyId = fc.constantFrom('A', 'B', 'a', 'a-', 'a.b', 'aa', 'b', 'é');
const change = fc.record({
  id: anyId,
  hint: fc.constantFrom('', 'new'),
  isRemoval: fc.boolean(),
  isRead: fc.boolean(),
});

it('is a sorted list without duplicates, whatever was put in and taken out', () => {
  fc.assert(
    fc.property(
      fc.array(change, { maxLength: 30 }),
      fc.option(anyId, { nil: undefined }),
      (changes, after) => {
        const sorted = new SortedEntries();
        const naive = new Map<string, RegistrationEntry>();
        for (const { id, hint, isRemoval, isRead } of changes) {
          // Order is mended at any time, or late for many changes.
          if (isRead) sorted.values();
          const entry = testEntry({ id, hint });
          if (isRemoval) sorted.remove(id);
          else sorted.put(entry);
          if (isRemoval) naive.delete(id);
          else naive.set(id, entry);
        }
        const expected = [...naive.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
        expect(sorted.values()).toEqual(expected);
        expect(sorted.size).toBe(expected.length);
        expect(changes.map(({ id }) => sorted.find(id))).toEqual(changes.map(({ id }) => naive.get(id)));
        expect([...sorted.after(after)]).toEqual(
          expected.filter(({ id }) => after === undefined || id > after),
        );
      },
    ),
  );
});
