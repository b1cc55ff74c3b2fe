import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect, createConnection, type Socket as NetSocket, Socket } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { closed, memoryLogger, sampleServices, startListener, until } from '../testing/grpc-listener.ts';
import { UnfinishedRequests } from './unfinished-requests.ts';

/** Without the 512 bytes that each call counts for besides. */
const call = 512;

function setUp() {
  const clock = new FakeClock();
  const stop = new AbortController();
  let dropped = 0;
  const onDrop = () => {
    dropped += 1;
  };
  const limits = { lateBytes: 10_000, bytes: 100_000 };
  const requests = new UnfinishedRequests(limits, { clock, signal: stop.signal, onDrop });
  /** A connection on which bytes come as told. */
  const open = (group = 'uid 1') => {
    const socket = new Socket();
    const peer = randomUUID();
    const state = { bytesRead: 0 };
    Object.defineProperties(socket, {
      remoteAddress: { value: peer },
      bytesRead: { get: () => state.bytesRead },
    });
    requests.add(socket, group);
    const receive = (bytes: number) => {
      state.bytesRead += bytes;
    };
    return { socket, receive, begin: () => requests.begin(peer) };
  };
  return { clock, stop, requests, open, dropped: () => dropped };
}

describe('requests that are not complete', () => {
  it('may be large for a while, as in a storm of honest callers', async () => {
    const { clock, open, dropped } = setUp();
    const { socket, receive, begin } = open();
    const end = begin();
    receive(90_000);
    await clock.advance(2_800);
    end();
    await clock.advance(10_000);
    expect([socket.destroyed, dropped(), clock.sleepers]).toEqual([false, 0, 0]);
  });

  it('that have been coming for too long are dropped, the largest first, until little is left', async () => {
    const { clock, open, dropped } = setUp();
    const [small, large, middle] = [open(), open(), open()];
    for (const [{ begin, receive }, bytes] of [
      [small, 2_000],
      [large, 9_000],
      [middle, 6_000],
    ] as const) {
      begin();
      receive(bytes);
    }
    await clock.advance(3_000);
    expect([small, large, middle].map(({ socket }) => socket.destroyed)).toEqual([false, true, false]);
    expect(dropped()).toBe(1);
  });

  it('are dropped at once when there is too much of them', async () => {
    const { clock, open } = setUp();
    const { socket, receive, begin } = open();
    begin();
    receive(100_001);
    await clock.advance(200);
    expect(socket.destroyed).toBe(true);
  });

  it('count for something even when nothing has come of them', async () => {
    const { clock, open } = setUp();
    const { socket, begin } = open();
    for (let i = 0; i * call <= 10_000; i += 1) begin();
    await clock.advance(3_000);
    expect(socket.destroyed).toBe(true);
  });

  it('count only against those of the same group', async () => {
    const { clock, open } = setUp();
    const others = Array.from({ length: 5 }, (_, i) => open(`uid ${i}`));
    for (const { begin, receive } of others) {
      begin();
      receive(6_000);
    }
    await clock.advance(10_000);
    expect(others.filter(({ socket }) => socket.destroyed)).toEqual([]);
  });

  it('are forgotten one by one as they are completed', async () => {
    const { clock, open } = setUp();
    const { socket, receive, begin } = open();
    // Never without one for a minute, but none is old.
    let end = begin();
    for (let seconds = 0; seconds < 60; seconds += 1) {
      receive(50_000);
      const next = begin();
      end();
      end = next;
      await clock.advance(1_000);
    }
    expect(socket.destroyed).toBe(false);
  });

  it('are not watched after the stop, and nobody minds a connection that is gone', async () => {
    const { clock, stop, open, requests } = setUp();
    const gone = open();
    gone.begin();
    gone.socket.destroy();
    await once(gone.socket, 'close');
    requests.begin('unknown')();
    open().begin();
    expect(clock.sleepers).toBe(1);
    stop.abort();
    await clock.advance(1_000);
    expect(clock.sleepers).toBe(0);
  });
});

describe('a process that never finishes its requests', () => {
  it('loses its connection, which others keep', async () => {
    const clock = new FakeClock();
    const { log, lines } = memoryLogger();
    const listener = await startListener({
      peerOf: 'process',
      mode: 0o666,
      clock,
      log,
      services: sampleServices({ check: async () => undefined }),
      limits: { maxReceiveBytes: 1024 * 1024, maxStreamsPerConnection: 100 },
    });
    const greedy = createConnection(listener.address);
    const gone = closed(greedy);
    await halfSend(greedy, { streams: 20, bytes: 900_000 });
    const honest = connect(listener.address);
    onTestFinished(() => void honest.destroy());
    await until(() => listener.connections === 2, 'both are in');
    // The requests of both are seen before the time goes on.
    await until(() => clock.sleepers >= 2, 'they are watched');
    await clock.advance(6_000);
    await gone;
    expect(honest.destroyed).toBe(false);
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'warn', message: expect.stringContaining('unfinished') }),
    );
  });
});

/** Opens calls and sends only part of each request. */
async function halfSend(
  socket: NetSocket,
  { streams, bytes }: { readonly streams: number; readonly bytes: number },
): Promise<void> {
  const session = connectHttp2('http://localhost', { createConnection: () => socket });
  session.on('error', () => undefined);
  onTestFinished(() => session.destroy());
  const head = Buffer.alloc(5);
  head.writeUInt32BE(1_000_000, 1);
  const headers = {
    ':method': 'POST',
    ':path': HealthService.check.path,
    'content-type': 'application/grpc',
    te: 'trailers',
  };
  const sent = Array.from({ length: streams }, async () => {
    const stream = session.request(headers);
    stream.on('error', () => undefined);
    await new Promise((resolve) => stream.write(Buffer.concat([head, Buffer.alloc(bytes)]), resolve));
  });
  await Promise.all(sent);
}
