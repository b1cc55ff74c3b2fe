import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { FailureBudget } from './failure-budget.ts';

describe('the failures of an address', () => {
  it('make it wait when there are too many, and are forgiven with time', async () => {
    const clock = new FakeClock();
    const failures = new FailureBudget(clock, { perMinute: 6 });
    for (let i = 0; i < 6; i += 1) {
      expect(failures.waitMs('192.0.2.1:1000')).toBe(0);
      failures.charge(`192.0.2.1:${1000 + i}`);
    }
    expect(failures.waitMs('192.0.2.1:7')).toBe(10_000);
    expect(failures.waitMs('192.0.2.2:7')).toBe(0);
    await clock.advance(10_000);
    expect(failures.waitMs('192.0.2.1:7')).toBe(0);
  });

  it('never lock it out for longer than two minutes', () => {
    const failures = new FailureBudget(new FakeClock(), { perMinute: 60 });
    for (let i = 0; i < 100_000; i += 1) failures.charge('192.0.2.1:1');
    expect(failures.waitMs('192.0.2.1:1')).toBeLessThanOrEqual(120_000);
  });

  it('are not counted at a rate of 0', () => {
    const failures = new FailureBudget(new FakeClock(), { perMinute: 0 });
    for (let i = 0; i < 100; i += 1) failures.charge('192.0.2.1:1');
    expect(failures.waitMs('192.0.2.1:1')).toBe(0);
  });

  it.each([
    { one: '[2001:db8:1:2:3:4:5:6]:1', other: '[2001:db8:1:2::9]:2', isSame: true },
    { one: '[2001:DB8:1:2::]:1', other: '[2001:db8:0001:2:ffff::1]:2', isSame: true },
    { one: '[2001:db8::1]:1', other: '[2001:db8:0:0:5::]:2', isSame: true },
    { one: '[2001:db8:1:2::1]:1', other: '[2001:db8:1:3::1]:1', isSame: false },
    { one: '[::1]:1', other: '[::2]:1', isSame: true },
    { one: '[fe80::1%eth0]:1', other: '[fe80::2%eth1]:1', isSame: true },
    { one: '[::ffff:192.0.2.1]:1', other: '192.0.2.1:2', isSame: true },
    { one: '[::ffff:192.0.2.1]:1', other: '[::ffff:192.0.2.2]:1', isSame: false },
    { one: '[64:ff9b::192.0.2.1]:1', other: '[64:ff9b::192.0.2.2]:1', isSame: true },
    { one: '192.0.2.1:1', other: '192.0.2.2:1', isSame: false },
    { one: 'unknown', other: 'unknown', isSame: true },
  ])('of $one and $other count together: $isSame', ({ one, other, isSame }) => {
    const failures = new FailureBudget(new FakeClock(), { perMinute: 1 });
    failures.charge(one);
    expect(failures.waitMs(other) > 0).toBe(isSame);
  });
});
