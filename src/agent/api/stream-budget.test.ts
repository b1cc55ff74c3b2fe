import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { StreamBudget } from './stream-budget.ts';

const exhausted = (text: string) =>
  expect.objectContaining({ code: 'resource-exhausted', message: expect.stringContaining(text) });

describe('the budget of a user', () => {
  test('has a number of streams, and a place again when one ends', () => {
    const budget = new StreamBudget({ streams: 2, nameBytes: 100 });
    const first = budget.open(7);
    budget.open(7);
    expect(() => budget.open(7)).toThrow(exhausted('uid 7 has 2 streams open'));
    budget.open(8);
    first.close();
    first.close();
    budget.open(7);
    expect(() => budget.open(7)).toThrow(exhausted('limits.streamsPerUid'));
  });

  test('has no number of streams when that is 0', () => {
    const budget = new StreamBudget({ streams: 0, nameBytes: 100 });
    for (let i = 0; i < 100; i += 1) budget.open(7);
  });

  test('has bytes for names, whichever streams hold them', () => {
    const budget = new StreamBudget({ streams: 0, nameBytes: 100 });
    const [first, second, other] = [budget.open(7), budget.open(7), budget.open(8)];
    first.holdNames(60);
    second.holdNames(40);
    expect(() => second.holdNames(41)).toThrow(exhausted('101 bytes; at most 100'));
    other.holdNames(100);
    first.holdNames(59);
    second.holdNames(41);
    first.close();
    second.holdNames(100);
  });

  test('is whole again when all streams have ended, whatever they did', () => {
    const step = fc.record({
      uid: fc.constantFrom(1, 2),
      bytes: fc.integer({ min: 0, max: 80 }),
      isEnd: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const budget = new StreamBudget({ streams: 4, nameBytes: 100 });
        const open: { uid: number; held: number; lease: ReturnType<StreamBudget['open']> }[] = [];
        const heldBy = (uid: number) =>
          open.filter((stream) => stream.uid === uid).reduce((sum, { held }) => sum + held, 0);
        for (const { uid, bytes, isEnd } of steps) {
          if (isEnd) open.shift()?.lease.close();
          try {
            const lease = budget.open(uid);
            const stream = { uid, held: 0, lease };
            open.push(stream);
            lease.holdNames(bytes);
            stream.held = bytes;
          } catch {
            // Over the limit; what it holds is checked next.
          }
          expect(heldBy(uid)).toBeLessThanOrEqual(100);
          expect(budget.users).toBe(new Set(open.map((stream) => stream.uid)).size);
        }
        for (const { lease } of open) lease.close();
        expect(budget.users).toBe(0);
      }),
    );
  });
});
