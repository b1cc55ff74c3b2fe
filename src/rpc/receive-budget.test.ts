import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { ReceiveBudget } from './receive-budget.ts';

function setUp(limits: { readonly each: number; readonly together: number }) {
  const clock = new FakeClock();
  const stop = new AbortController();
  let dropped = 0;
  const budget = new ReceiveBudget(limits, { clock, signal: stop.signal, onDrop: () => (dropped += 1) });
  return {
    clock,
    stop,
    dropped: () => dropped,
    /** A connection on which so many bytes have come. */
    open(bytesRead: number): Socket {
      const socket = new Socket();
      Object.defineProperty(socket, 'bytesRead', { value: bytesRead });
      budget.add(socket);
      return socket;
    },
  };
}

describe('the budget of connections that nobody vouches for', () => {
  it('drops one that has sent more than its share', async () => {
    const { clock, open, dropped } = setUp({ each: 100, together: 1_000 });
    const [greedy, modest] = [open(101), open(100)];
    await clock.advance(1_000);
    expect([greedy.destroyed, modest.destroyed, dropped()]).toEqual([true, false, 1]);
  });

  it('drops those that have sent most when all together have sent too much', async () => {
    const { clock, open } = setUp({ each: 100, together: 160 });
    const sockets = [20, 90, 30, 80, 25].map(open);
    await clock.advance(1_000);
    expect(sockets.map(({ destroyed }) => destroyed)).toEqual([false, true, false, false, false]);
  });

  it('is watched while there is a connection, until the stop', async () => {
    const { clock, stop, open } = setUp({ each: 100, together: 150 });
    expect(clock.sleepers).toBe(0);
    const first = open(1);
    open(1);
    await clock.advance(1_000);
    expect(clock.sleepers).toBe(1);
    first.destroy();
    stop.abort();
    await clock.advance(1_000);
    expect(clock.sleepers).toBe(0);
  });
});
