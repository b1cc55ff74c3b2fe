import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { TokenBuckets } from './token-buckets.ts';

describe('token buckets', () => {
  it('give a burst at once, and then as much as the rate', async () => {
    const clock = new FakeClock();
    const buckets = new TokenBuckets(clock, { perSecond: 10, burst: 20 });
    expect(buckets.take('a', 20)).toBe(0);
    expect(buckets.take('a')).toBe(100);
    await clock.advance(100);
    expect(buckets.take('a')).toBe(0);
    expect(buckets.take('a', 5)).toBe(500);
  });

  it('keep keys apart, and never hold more than a burst', async () => {
    const clock = new FakeClock();
    const buckets = new TokenBuckets(clock, { perSecond: 10, burst: 20 });
    expect(buckets.take('a', 20)).toBe(0);
    expect(buckets.take('b', 20)).toBe(0);
    await clock.advance(3_600_000);
    expect(buckets.take('a', 20)).toBe(0);
    expect(buckets.take('a', 1)).toBe(100);
  });

  it('let through what is larger than a bucket when it is full, and let later calls wait for it', async () => {
    const clock = new FakeClock();
    const buckets = new TokenBuckets(clock, { perSecond: 10, burst: 10 });
    expect(buckets.take('a', 50)).toBe(0);
    expect(buckets.take('a', 50)).toBe(5_000);
    await clock.advance(4_999);
    expect(buckets.take('a', 50)).toBe(1);
    await clock.advance(1);
    expect(buckets.take('a', 50)).toBe(0);
  });

  it('with a rate of 0 do not limit, and remember nobody', () => {
    const buckets = new TokenBuckets(new FakeClock(), { perSecond: 0, burst: 0 });
    for (let i = 0; i < 100; i += 1) expect(buckets.take('a', 1_000)).toBe(0);
    buckets.spend('a', 1_000);
    expect(buckets.waitMs('a')).toBe(0);
    expect(buckets.size).toBe(0);
  });

  it('forget those who have been quiet for longest when there are too many', () => {
    const buckets = new TokenBuckets(new FakeClock(), { perSecond: 1, burst: 1 });
    for (let i = 0; i < 20_000; i += 1) buckets.take(`key-${i}`);
    buckets.spend('key-0');
    buckets.take('one more');
    expect(buckets.size).toBe(20_000);
    expect([buckets.waitMs('key-0') > 0, buckets.waitMs('key-1')]).toEqual([true, 0]);
  });

  it('never give more than burst and rate allow, and never less to who waits as told', async () => {
    const step = fc.record({
      cost: fc.integer({ min: 1, max: 30 }),
      pauseMs: fc.integer({ min: 0, max: 900 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
        const clock = new FakeClock();
        const [perSecond, burst] = [20, 15];
        const buckets = new TokenBuckets(clock, { perSecond, burst });
        let given = 0;
        for (const { cost, pauseMs } of steps) {
          await clock.advance(pauseMs);
          const waitMs = buckets.take('a', cost);
          if (waitMs > 0) {
            await clock.advance(waitMs);
            expect(buckets.take('a', cost)).toBe(0);
          }
          given += cost;
          // A batch above the burst is paid for afterwards.
          const allowed = burst + (clock.monotonic() / 1000) * perSecond + Math.max(0, cost - burst);
          expect(given).toBeLessThanOrEqual(allowed + 1e-6);
        }
      }),
      { numRuns: 200 },
    );
  });
});
