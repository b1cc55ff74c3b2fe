import { describe, expect, it } from 'vitest';
import { AppError } from './error.ts';
import { Backoff } from './time.ts';

const limited = new AppError('resource-exhausted', 'too many', { retryAfterMs: 2_000 });

describe('waits between retries', () => {
  it('double up to the cap, and start again after a success', () => {
    const backoff = new Backoff({ baseMs: 100, capMs: 1_000, random: () => 1 });
    expect([1, 2, 3, 4, 5, 6].map(() => backoff.nextMs())).toEqual([100, 200, 400, 800, 1_000, 1_000]);
    backoff.reset();
    expect(backoff.nextMs()).toBe(100);
  });

  it.each([
    { random: 0, expected: 2_000 },
    { random: 1, expected: 2_400 },
  ])('are at least what the other side asks for, spread a little: $expected', ({ random, expected }) => {
    const backoff = new Backoff({ baseMs: 100, capMs: 1_000, random: () => random });
    expect(backoff.nextMs(limited)).toBe(expected);
    expect(backoff.nextMs(new Error('other'))).toBeLessThanOrEqual(200);
  });

  it('grow beyond what the other side asks for when it is less', () => {
    const backoff = new Backoff({ baseMs: 60_000, capMs: 300_000, random: () => 1 });
    expect(backoff.nextMs(limited)).toBe(60_000);
  });
});
