import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isSetName, keepReplacedMs, newSetName, setsToRemove } from './old-sets.ts';

const startMs = Date.UTC(2026, 0, 1);

describe('the name of a set', () => {
  it('sorts by time and is known again', () => {
    const names = [0, 1, 999, 1_000, 60_000, 86_400_000].map((ms) => newSetName(startMs + ms));
    expect(names.toSorted()).toEqual(names);
    expect(names.every(isSetName)).toBe(true);
    expect(newSetName(startMs)).not.toBe(newSetName(startMs));
  });

  it.each([
    '',
    'lock',
    'current.new',
    'set-',
    'set-20260101T000000000Z-0',
    'set-20260101T000000000Z-00000000/..',
  ])('is not %j', (name) => {
    expect(isSetName(name)).toBe(false);
  });
});

describe('old sets', () => {
  const [first, second, third] = [0, 100_000, 200_000].map((ms) => newSetName(startMs + ms)) as [
    string,
    string,
    string,
  ];

  it.each([
    { name: 'the current one stays for ever', names: [first], current: first, afterMs: 1e9, expected: [] },
    {
      name: 'one that was just replaced stays',
      names: [first, second],
      current: second,
      afterMs: 100_000 + keepReplacedMs - 1,
      expected: [],
    },
    {
      name: 'one that was replaced a minute ago goes',
      names: ['lock', second, first],
      current: second,
      afterMs: 100_000 + keepReplacedMs,
      expected: [first],
    },
    {
      name: 'what a crash has left goes later',
      names: [first, second],
      current: first,
      afterMs: 100_000 + keepReplacedMs,
      expected: [second],
    },
    {
      name: 'what a crash may just be leaving stays',
      names: [first, second],
      current: first,
      afterMs: 100_001,
      expected: [],
    },
    {
      name: 'one from before the clock was set back goes',
      names: [first, third],
      current: first,
      afterMs: 10_000,
      expected: [third],
    },
    {
      name: 'all go when there is no current one',
      names: [first],
      current: undefined,
      afterMs: 1e9,
      expected: [first],
    },
  ])('$name', ({ names, current, afterMs, expected }) => {
    expect(setsToRemove(names, current, startMs + afterMs)).toEqual(expected);
  });

  it('never include the current one, nor what is no set', () => {
    const name = fc.integer({ min: 0, max: 1e9 }).map((ms) => newSetName(startMs + ms));
    const arrange = fc.tuple(fc.array(fc.oneof(name, fc.string()), { minLength: 1 }), fc.nat(), fc.nat(2e9));
    fc.assert(
      fc.property(arrange, ([names, index, afterMs]) => {
        const current = names[index % names.length];
        const removed = setsToRemove(names, current, startMs + afterMs);
        expect(removed).not.toContain(current);
        expect(removed.every(isSetName)).toBe(true);
      }),
    );
  });
});
