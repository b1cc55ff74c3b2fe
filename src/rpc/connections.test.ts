import { once } from 'node:events';
import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { LogLimiter } from '../runtime/log-limiter.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger } from '../testing/grpc-listener.ts';
import { ConnectionTable } from './connections.ts';

/** A table of at most four connections, and how one comes in for a group: undefined when it is refused. */
function start() {
  const { log, lines } = memoryLogger();
  const table = new ConnectionTable(new LogLimiter({ clock: new FakeClock(), log }), 4);
  const connect = (name?: string, dropsOldest = true) => {
    const group = name === undefined ? undefined : { name, limit: 0, dropsOldest };
    if (!table.admits(group)) return undefined;
    const socket = new Socket();
    table.add(socket, {
      callerOf: () => ({ kind: 'local' }),
      ...(group === undefined ? {} : { group }),
    });
    return socket;
  };
  return { table, connect, lines };
}

describe('a full table', () => {
  it('makes room at the cost of who has most, oldest first, for who has less', () => {
    const { table, connect, lines } = start();
    const many = [connect('many'), connect('many'), connect('many')];
    const other = connect('other');
    expect(connect('new')).toBeDefined();
    expect(many.map((socket) => socket?.destroyed)).toEqual([true, false, false]);
    expect([other?.destroyed, table.size]).toEqual([false, 4]);
    expect(lines).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        group: 'many',
        message: 'connection closed to make room: too many connections are open',
      }),
    );
  });

  it('has no room for one more of who has most already', () => {
    const { table, connect } = start();
    const many = [connect('many'), connect('many'), connect('many'), connect('other')];
    expect(connect('many')).toBeUndefined();
    expect([many.every((socket) => socket?.destroyed === false), table.size]).toEqual([true, 4]);
  });

  it('has no room where everybody has one connection, and none for who may not push others out', () => {
    const { connect } = start();
    const all = ['a', 'b', 'c', 'd'].map((name) => connect(name));
    expect(connect('e')).toBeUndefined();
    expect(all.every((socket) => socket?.destroyed === false)).toBe(true);
    const second = start();
    for (let i = 0; i < 4; i += 1) second.connect('many');
    expect([second.connect('uid 1', false), second.connect()]).toEqual([undefined, undefined]);
  });

  it('has room again when a connection has closed', async () => {
    const { table, connect } = start();
    const [first] = ['a', 'b', 'c', 'd'].map((name) => connect(name));
    first?.destroy();
    await once(first!, 'close');
    expect(table.size).toBe(3);
    expect(connect('e')).toBeDefined();
  });
});
