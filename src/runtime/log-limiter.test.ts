import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { createLogger } from './log.ts';
import { LogLimiter } from './log-limiter.ts';

function setUp(lines?: number) {
  const written: Record<string, unknown>[] = [];
  const log = createLogger({
    level: 'debug',
    format: 'json',
    write: (line) => void written.push(JSON.parse(line)),
  });
  const clock = new FakeClock();
  return { limiter: new LogLimiter({ clock, log }, lines), clock, written };
}

describe('a log limiter', () => {
  it('lets 20 lines of a kind through in 10 s, then says in the next line how many there were more', async () => {
    const { limiter, clock, written } = setUp();
    for (let i = 0; i < 1_000; i += 1) limiter.write('info', { i }, 'call failed', 'unauthenticated');
    expect(written).toHaveLength(20);
    expect(written.every((line) => !('suppressed' in line))).toBe(true);
    await clock.advance(9_999);
    limiter.write('info', {}, 'call failed', 'unauthenticated');
    expect(written).toHaveLength(20);
    await clock.advance(1);
    limiter.write('info', { i: -1 }, 'call failed', 'unauthenticated');
    limiter.write('info', { i: -2 }, 'call failed', 'unauthenticated');
    expect(written.slice(20)).toMatchObject([{ i: -1, suppressed: 981, message: 'call failed' }, { i: -2 }]);
    expect(written[21]).not.toHaveProperty('suppressed');
  });

  it('counts each kind for itself', () => {
    const { limiter, written } = setUp(2);
    for (let i = 0; i < 5; i += 1) {
      limiter.write('warn', {}, 'one');
      limiter.write('warn', {}, 'two');
      limiter.write('warn', {}, 'two', 'another kind of two');
    }
    expect(written.map(({ message }) => message).sort()).toEqual(['one', 'one', 'two', 'two', 'two', 'two']);
  });

  it('lets lines that only somebody who looks for them sees through', () => {
    const { limiter, written } = setUp(1);
    for (let i = 0; i < 50; i += 1) limiter.write('debug', {}, 'x');
    limiter.write('info', {}, 'x');
    expect(written).toHaveLength(51);
  });
});
