import { describe, expect, it } from 'vitest';
import { FakeClock } from './fake-clock.ts';

describe('the fake clock', () => {
  it('stands still until it is advanced', async () => {
    const clock = new FakeClock(1000);
    expect([clock.now(), clock.monotonic()]).toEqual([1000, 0]);
    await clock.advance(250);
    expect([clock.now(), clock.monotonic()]).toEqual([1250, 250]);
  });

  it('wakes sleepers in order of their times, each at its own time', async () => {
    const clock = new FakeClock(0);
    const woken: string[] = [];
    const sleeper = async (name: string, ms: number) => {
      await clock.sleep(ms);
      woken.push(`${name}@${clock.now()}`);
    };
    const all = [
      sleeper('late', 30),
      sleeper('early', 10),
      sleeper('also early', 10),
      sleeper('too late', 100),
    ];
    await clock.advance(99);
    expect(woken).toEqual(['early@10', 'also early@10', 'late@30']);
    expect(clock.sleepers).toBe(1);
    await clock.advance(1);
    await Promise.all(all);
    expect(woken.at(-1)).toBe('too late@100');
  });

  it('lets a loop sleep again within one advance', async () => {
    const clock = new FakeClock(0);
    const ticks: number[] = [];
    const stop = new AbortController();
    const loop = (async () => {
      while (!stop.signal.aborted) {
        await clock.sleep(10, stop.signal);
        if (!stop.signal.aborted) ticks.push(clock.now());
      }
    })();
    await clock.advance(35);
    expect(ticks).toEqual([10, 20, 30]);
    stop.abort();
    await loop;
    expect(clock.sleepers).toBe(0);
  });

  it('ends a sleep at once when the signal aborts, before or during it', async () => {
    const clock = new FakeClock(0);
    await clock.sleep(1000, AbortSignal.abort());
    const stop = new AbortController();
    const sleep = clock.sleep(1000, stop.signal);
    await clock.untilSleepers(1);
    stop.abort();
    await sleep;
    expect([clock.now(), clock.sleepers]).toEqual([0, 0]);
  });

  it('steps the wall clock alone', () => {
    const clock = new FakeClock(5000);
    clock.stepWallClock(-3000);
    expect([clock.now(), clock.monotonic()]).toEqual([2000, 0]);
  });
});
