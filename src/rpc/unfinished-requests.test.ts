import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from 'node:http2';
import { connect, createConnection, type Socket as NetSocket, Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  HealthService,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from '../gen/grpc/health/v1/health.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { closed, memoryLogger, startListener, until } from '../testing/grpc-listener.ts';
import { serviceOf, unary } from './handlers.ts';
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
    await clock.advance(9_800);
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
    await clock.advance(10_000);
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
    await clock.advance(10_000);
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

  it('that come one after the other on calls opened at once count until each is complete', async () => {
    const { clock, open } = setUp();
    const { socket, receive, begin } = open();
    const ends = Array.from({ length: 20 }, begin);
    for (const end of ends) {
      receive(60_000);
      await clock.advance(100);
      end(60_000);
    }
    expect(socket.destroyed).toBe(false);
  });

  it('are not paid for by earlier ones, nor by one that is told to be complete twice', async () => {
    const { clock, open } = setUp();
    const { socket, receive, begin } = open();
    const end = begin();
    receive(60_000);
    end(60_000);
    end(60_000);
    begin();
    receive(60_000);
    const again = begin();
    receive(45_000);
    again(1_000);
    again(45_000);
    await clock.advance(200);
    expect(socket.destroyed).toBe(true);
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
    const { clock, listener, lines } = await startWatchedListener();
    const greedy = createConnection(listener.address);
    const gone = closed(greedy);
    const calls = openCalls(greedy, 20);
    await Promise.all(calls.map((call) => write(call, unfinished)));
    const honest = connect(listener.address);
    onTestFinished(() => void honest.destroy());
    await until(() => listener.connections === 2, 'both are in');
    // The requests of both are seen before the time goes on.
    await until(() => clock.sleepers >= 2, 'they are watched');
    await clock.advance(20_000);
    await gone;
    expect(honest.destroyed).toBe(false);
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'warn', message: expect.stringContaining('unfinished') }),
    );
  });

  it('cannot pay for them with a little that becomes much when decompressed', async () => {
    const { clock, listener } = await startWatchedListener();
    const greedy = createConnection(listener.address);
    const gone = closed(greedy);
    const calls = openCalls(greedy, 20);
    await Promise.all(calls.map((call) => write(call, unfinished)));
    const bomb = gzipSync(Buffer.alloc(1_000_000));
    await completed(
      openCalls(greedy, 20, { 'grpc-encoding': 'gzip' }),
      Buffer.concat([head(1, bomb.length), bomb]),
    );
    await clock.advance(20_000);
    await gone;
  });
});

describe('a process that opens many calls and then sends their requests one by one', () => {
  it('keeps its connection although the last one takes long', async () => {
    const { clock, listener } = await startWatchedListener();
    const honest = createConnection(listener.address);
    const [last, ...others] = openCalls(honest, 12).reverse();
    if (last === undefined) throw new Error('no call');
    await completed(others, Buffer.concat([head(0, 1_000_000), Buffer.alloc(1_000_000)]));
    await write(last, unfinished);
    await until(() => clock.sleepers >= 2, 'it is watched');
    await clock.advance(20_000);
    await completed([...openCalls(honest, 1)], Buffer.concat([head(0, 2), Buffer.alloc(2)]));
    expect(honest.destroyed).toBe(false);
  });
});

/** A method that takes bytes as they come and gives nothing back. */
async function startWatchedListener() {
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const { check } = HealthService;
  const bytes = { requestSerialize: (b: Buffer) => b, requestDeserialize: (b: Buffer) => b };
  const listener = await startListener({
    peerOf: 'process',
    mode: 0o666,
    clock,
    log,
    services: [
      serviceOf(
        { check: { ...check, ...bytes } },
        { check: unary(async () => ({ status: ServingStatus.SERVING })) },
      ),
    ],
    limits: { maxReceiveBytes: 1024 * 1024, maxStreamsPerConnection: 100 },
  });
  return { clock, listener, lines };
}

/** What a message begins with: whether it is compressed, and its length. */
function head(compressed: 0 | 1, length: number): Buffer {
  const bytes = Buffer.of(compressed, 0, 0, 0, 0);
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

/** The greater part of a request. */
const unfinished = Buffer.concat([head(0, 1_000_000), Buffer.alloc(900_000)]);

/** Opens calls, all before anything is sent on them. */
function openCalls(socket: NetSocket, count: number, more: Record<string, string> = {}): ClientHttp2Stream[] {
  const session = sessionOn(socket);
  const headers = {
    ':method': 'POST',
    ':path': HealthService.check.path,
    'content-type': 'application/grpc',
    te: 'trailers',
    ...more,
  };
  return Array.from({ length: count }, () => session.request(headers).on('error', () => undefined));
}

const sessions = new WeakMap<NetSocket, ClientHttp2Session>();

function sessionOn(socket: NetSocket): ClientHttp2Session {
  const known = sessions.get(socket);
  if (known !== undefined) return known;
  const session = connectHttp2('http://localhost', { createConnection: () => socket });
  session.on('error', () => undefined);
  onTestFinished(() => session.destroy());
  sessions.set(socket, session);
  return session;
}

function write(call: ClientHttp2Stream, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => call.write(bytes, () => resolve()));
}

/** Sends the request on each of the calls and waits until all are answered. */
async function completed(calls: readonly ClientHttp2Stream[], request: Buffer): Promise<void> {
  for (const call of calls) {
    call.end(request);
    call.resume();
    await once(call, 'end');
  }
}
