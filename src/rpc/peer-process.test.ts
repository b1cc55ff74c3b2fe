import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { startNode, type TestProcess } from '../testing/child-process.ts';
import { channelTo, memoryLogger, sampleServices, startListener, until } from '../testing/grpc-listener.ts';
import { tempDir } from '../testing/temp-dir.ts';
import type { Caller } from './caller.ts';
import { callUnary } from './grpc-client.ts';
import { type TrackedPeer, takePeer, takePeerByNumber } from './peer-process.ts';

/** Runs as root only: others cannot become somebody else. */
const otherUser = { uid: 65_534, gid: 65_533 };
const isRoot = process.getuid?.() === 0;

/** A listening socket, and what was accepted so far. */
async function listen(): Promise<{ readonly path: string; readonly accepted: () => Promise<Socket> }> {
  const path = join(tempDir(), 'peer.sock');
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket));
  await once(server.listen(path), 'listening');
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    path,
    async accepted() {
      await until(() => sockets.length > 0, 'a connection');
      return sockets.shift()!;
    },
  };
}

/** A process that connects, says `connected`, and obeys. */
function startClient(path: string, user?: { readonly uid: number; readonly gid: number }): TestProcess {
  return startNode(`
    import { spawn } from 'node:child_process';
    import { connect } from 'node:net';
    import { createInterface } from 'node:readline';
    const user = ${JSON.stringify(user ?? null)};
    if (user) { process.setgroups([]); process.setgid(user.gid); process.setuid(user.uid); }
    const socket = connect(${JSON.stringify(path)}, () => console.log('connected'));
    for await (const line of createInterface({ input: process.stdin })) {
      if (line !== 'leave the connection to a child') continue;
      const child = spawn('sleep', ['60'], { stdio: [socket, 'ignore', 'ignore'], detached: true });
      console.log(child.pid);
      process.exit();
    }
  `);
}

function take(socket: Socket, takeIt: (socket: Socket) => TrackedPeer): TrackedPeer {
  const peer = takeIt(socket);
  onTestFinished(() => peer.close());
  return peer;
}

describe.each([
  { way: 'SO_PEERPIDFD', takeIt: (socket: Socket) => takePeer(socket, { requirePeerPidfd: true }) },
  { way: 'pidfd_open', takeIt: takePeerByNumber },
] as const)('the process behind a socket, by $way', ({ way, takeIt }) => {
  it('is named with its ids and seen to die', async () => {
    const { path, accepted } = await listen();
    const client = startClient(path);
    const peer = take(await accepted(), takeIt);
    expect(peer).toMatchObject({
      pid: client.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      identifiedBy: way,
    });
    expect(peer.isAlive()).toBe(true);
    await client.kill('SIGKILL');
    expect(peer.isAlive()).toBe(false);
  });

  it.runIf(isRoot)('may be another user', async () => {
    const { path, accepted } = await listen();
    chmodSync(dirname(path), 0o755);
    chmodSync(path, 0o666);
    const client = startClient(path, otherUser);
    expect(take(await accepted(), takeIt)).toMatchObject({ pid: client.pid, ...otherUser });
  });

  it('is the same process on each of its connections, and another than its successor', async () => {
    const { path, accepted } = await listen();
    const script = `
      import { connect } from 'node:net';
      const open = () => connect(${JSON.stringify(path)}, () => console.log('connected'));
      open();
      open();
    `;
    startNode(script);
    const [one, other] = [take(await accepted(), takeIt), take(await accepted(), takeIt)];
    expect(one.instance).toMatch(/^started \d+$/);
    expect(other).toMatchObject({ pid: one.pid, instance: one.instance });
    startClient(path);
    expect(take(await accepted(), takeIt).instance).not.toBe(one.instance);
  });

  it('is refused when it has exited before accept', async () => {
    const { path, accepted } = await listen();
    // While spawnSync runs nothing is accepted here: the connection waits in the backlog.
    const script = `require('node:net').connect(${JSON.stringify(path)}, () => process.exit())`;
    expect(spawnSync(process.execPath, ['--eval', script]).status).toBe(0);
    const socket = await accepted();
    expect(() => takeIt(socket)).toThrow(expect.objectContaining({ code: 'permission-denied' }));
  });

  it('is dead although its child holds the connection open', async () => {
    const { path, accepted } = await listen();
    const client = startClient(path);
    const socket = await accepted();
    const peer = take(socket, takeIt);
    await client.nextLine();
    client.writeLine('leave the connection to a child');
    const child = Number(await client.nextLine());
    onTestFinished(() => void process.kill(child, 'SIGKILL'));
    await until(() => !peer.isAlive(), 'the process that connected is gone');
    expect(socket.readableEnded || socket.destroyed).toBe(false);
  });
});

describe('the descriptor of a peer', () => {
  it('is given back once', async () => {
    const { path, accepted } = await listen();
    startClient(path);
    const socket = await accepted();
    const before = openDescriptors();
    const peer = takePeer(socket);
    expect(openDescriptors()).toBe(before + 1);
    peer.close();
    peer.close();
    expect(openDescriptors()).toBe(before);
    expect(peer.isAlive()).toBe(false);
  });

  it('is refused for a socket that has none any more', async () => {
    const { path, accepted } = await listen();
    startClient(path);
    const socket = await accepted();
    socket.destroy();
    expect(() => takePeer(socket)).toThrow(expect.objectContaining({ code: 'permission-denied' }));
  });
});

describe('a listener that identifies processes', () => {
  it('gives every call of a connection the same peer and connection, and closes both with it', async () => {
    const callers: Caller[] = [];
    const listener = await startListener({
      peerOf: 'process',
      services: sampleServices({ check: async (_, { caller }) => void callers.push(caller) }),
    });
    const before = openDescriptors();
    const [one, other] = [channelTo(listener), channelTo(listener)];
    for (const channel of [one, one, other]) {
      await callUnary(channel, HealthService.check, { service: '' });
    }
    const [first, second, third] = callers as Extract<Caller, { kind: 'process' }>[];
    expect(first).toMatchObject({ kind: 'process', peer: { pid: process.pid } });
    expect(second?.connection).toBe(first?.connection);
    expect(third?.connection).not.toBe(first?.connection);
    expect(first?.connection.closed.aborted).toBe(false);

    one.close();
    other.close();
    await until(() => listener.connections === 0, 'both connections are closed');
    expect(first?.connection.closed.aborted).toBe(true);
    expect(first?.peer.isAlive()).toBe(false);
    await until(() => openDescriptors() === before, 'all descriptors are given back');
  });

  it('drops a connection whose process cannot be identified', async () => {
    const { log, lines } = memoryLogger();
    const listener = await startListener({ peerOf: 'process', services: [], log });
    const script = `require('node:net').connect(${JSON.stringify(listener.address)}, () => process.exit())`;
    spawnSync(process.execPath, ['--eval', script]);
    await until(() => lines.length > 0, 'the refusal is logged');
    expect(lines).toMatchObject([{ level: 'warn', message: expect.stringMatching(/^connection refused/) }]);
    expect(listener.connections).toBe(0);
  });
});

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
