import { expect, test } from 'vitest';
import { FakeClock } from '../../testing/fake-clock.ts';
import { WakeTimer } from './wake-timer.ts';

test('it wakes once, at the earliest deadline, and holds one timer', async () => {
  const clock = new FakeClock();
  const woken: number[] = [];
  const timer = new WakeTimer(clock, () => woken.push(clock.monotonic()));
  for (const ms of [300, 100, 200]) timer.within(ms);
  await clock.advance(0);
  expect(clock.sleepers).toBe(1);
  await clock.advance(1_000);
  expect(woken).toEqual([100]);
  timer.within(50);
  await clock.advance(50);
  expect(woken).toEqual([100, 1_050]);
});

test('it does not wake after it was stopped', async () => {
  const clock = new FakeClock();
  const timer = new WakeTimer(clock, () => expect.unreachable());
  timer.within(10);
  timer.stop();
  await clock.advance(100);
  expect(clock.sleepers).toBe(0);
});
