import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { EntryService } from '../gen/spire/api/server/entry/v1/entry.ts';
import { AppError, type ErrorCode } from '../runtime/error.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import {
  channelTo,
  closed,
  memoryLogger,
  sampleServices,
  startListener,
  until,
} from '../testing/grpc-listener.ts';
import type { Caller } from './caller.ts';
import { callServerStream, callUnary, openBidi } from './grpc-client.ts';
import type { CallContext } from './handlers.ts';
import { rawBidi, serviceOf } from './handlers.ts';

const check = HealthService.check;
const serving = { status: 1 };

/** Collects a stream; the error that ended it is the last element. */
async function collect(messages: AsyncIterable<unknown>): Promise<unknown[]> {
  const found: unknown[] = [];
  try {
    for await (const message of messages) found.push(message);
  } catch (error) {
    found.push(error);
  }
  return found;
}

/** Never ends by itself. */
function forever(signal: AbortSignal): Promise<void> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

describe('a unary call', () => {
  it('gets its answer, and its handler knows caller, method and metadata', async () => {
    const seen: CallContext[] = [];
    const listener = await startListener({
      services: sampleServices({ check: async (_, context) => void seen.push(context) }),
    });
    const answer = await callUnary(
      channelTo(listener),
      check,
      { service: '' },
      { metadata: { 'x-test': 'yes' } },
    );
    expect(answer).toEqual(serving);
    expect(seen[0]?.caller).toEqual({ kind: 'local' });
    expect(seen[0]?.method).toBe('/grpc.health.v1.Health/Check');
    expect(seen[0]?.metadata.get('x-test')).toEqual(['yes']);
  });

  it.each<{ name: string; thrown: unknown; code: ErrorCode; message: string; level: string }>([
    {
      name: 'an AppError with its code and text',
      thrown: new AppError('not-found', 'no entry "x"'),
      code: 'not-found',
      message: 'no entry "x"',
      level: 'debug',
    },
    {
      name: 'a refusal at info',
      thrown: new AppError('permission-denied', 'not you'),
      code: 'permission-denied',
      message: 'not you',
      level: 'info',
    },
    {
      name: 'an internal error without its text',
      thrown: new AppError('internal', 'key 42 is broken'),
      code: 'internal',
      message: 'internal error',
      level: 'error',
    },
    {
      name: 'any other error without its text',
      thrown: new TypeError('x is undefined'),
      code: 'internal',
      message: 'internal error',
      level: 'error',
    },
    {
      name: 'text that cannot be percent-encoded',
      thrown: new AppError('invalid-argument', 'bad \ud800 text'),
      code: 'invalid-argument',
      message: 'bad \ufffd text',
      level: 'debug',
    },
  ])('fails with $name, logged once', async ({ thrown, code, message, level }) => {
    const { log, lines } = memoryLogger();
    const services = sampleServices({ check: () => Promise.reject(thrown) });
    const listener = await startListener({ services, log });
    await expect(callUnary(channelTo(listener), check, { service: '' })).rejects.toMatchObject({
      code,
      message,
    });
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level, code, caller: 'local', method: check.path });
  });

  it('does not fill the log when it fails again and again, whoever is to blame', async () => {
    const { log, lines } = memoryLogger();
    const clock = new FakeClock();
    const services = sampleServices({
      check: async (service) => {
        throw service === 'fault' ? new Error('broken') : new AppError('permission-denied', 'not you');
      },
    });
    const listener = await startListener({ services, log, clock });
    const channel = channelTo(listener);
    const fail = (service: string) => callUnary(channel, check, { service }).catch(() => undefined);
    for (let i = 0; i < 150; i += 1) await Promise.all([fail('fault'), fail('refused')]);
    const count = (code: string) => lines.filter((line) => line['code'] === code).length;
    expect({ faults: count('internal'), refusals: count('permission-denied') }).toEqual({
      faults: 100,
      refusals: 20,
    });
    await clock.advance(10_000);
    await fail('refused');
    expect(lines.at(-1)).toMatchObject({ code: 'permission-denied', suppressed: 130 });
    // The time of this stop is the clock's, which nobody moves any more.
    const stopped = listener.stop(0);
    await clock.advance(1_000);
    await stopped;
  });

  it('is not seen by its handler when it is not authorized', async () => {
    let calls = 0;
    const asked: [Caller, string][] = [];
    const listener = await startListener({
      services: sampleServices({ check: async () => void calls++ }),
      authorize: async (caller, method) => {
        asked.push([caller, method]);
        throw new AppError('permission-denied', 'not you');
      },
    });
    await expect(callUnary(channelTo(listener), check, { service: '' })).rejects.toMatchObject({
      code: 'permission-denied',
    });
    expect(calls).toBe(0);
    expect(asked).toEqual([[{ kind: 'local' }, check.path]]);
  });

  it.each([
    { name: 'its caller gives up', timeoutMs: undefined, code: 'cancelled' },
    { name: 'its deadline passes', timeoutMs: 50, code: 'deadline-exceeded' },
  ])('has its signal aborted when $name', async ({ timeoutMs, code }) => {
    const started = Promise.withResolvers<AbortSignal>();
    const services = sampleServices({
      check: (_, { signal }) => {
        started.resolve(signal);
        return forever(signal);
      },
    });
    const listener = await startListener({ services });
    const giveUp = new AbortController();
    const options = { signal: giveUp.signal, ...(timeoutMs === undefined ? {} : { timeoutMs }) };
    const call = callUnary(channelTo(listener), check, { service: '' }, options);
    const outcome = expect(call).rejects.toMatchObject({ code });
    const signal = await started.promise;
    if (timeoutMs === undefined) giveUp.abort();
    await outcome;
    await until(() => signal.aborted, 'the handler hears of it');
  });
});

describe('a method nobody handles', () => {
  it.each([
    { kind: 'unary', call: (c: ReturnType<typeof channelTo>) => callUnary(c, HealthService.list, {}) },
    {
      kind: 'server stream',
      call: async (c: ReturnType<typeof channelTo>) => {
        for await (const _ of callServerStream(c, HealthService.watch, { service: '' })) return;
      },
    },
    {
      kind: 'bidi',
      call: (c: ReturnType<typeof channelTo>) => openBidi(c, EntryService.syncAuthorizedEntries).next(),
    },
    {
      kind: 'of an unknown service',
      call: (c: ReturnType<typeof channelTo>) =>
        callUnary(c, { ...check, path: '/no.such/Thing' }, { service: '' }),
    },
  ])('answers unimplemented ($kind)', async ({ call }) => {
    const listener = await startListener({ services: sampleServices({}) });
    await expect(call(channelTo(listener))).rejects.toMatchObject({ code: 'unimplemented' });
  });
});

describe('a stream', () => {
  it('ends well after its last message', async () => {
    const services = sampleServices({
      async *watch() {
        yield;
        yield;
      },
    });
    const channel = channelTo(await startListener({ services }));
    const stream = callServerStream(channel, HealthService.watch, { service: '' });
    expect(await collect(stream)).toEqual([serving, serving]);
  });

  it('ends with the error of its handler, after the messages before it', async () => {
    const services = sampleServices({
      async *watch() {
        yield;
        throw new AppError('aborted', 'enough');
      },
    });
    const channel = channelTo(await startListener({ services }));
    const found = await collect(callServerStream(channel, HealthService.watch, { service: '' }));
    expect(found).toMatchObject([serving, { code: 'aborted', message: 'enough' }]);
  });

  it('is asked for no more than its caller reads', async () => {
    let made = 0;
    const over = Promise.withResolvers<void>();
    const services = sampleServices({
      async *watch() {
        try {
          for (; ; made += 1) yield;
        } finally {
          over.resolve();
        }
      },
    });
    const channel = channelTo(await startListener({ services }));
    const stream = channel.client.makeServerStreamRequest(
      HealthService.watch.path,
      HealthService.watch.requestSerialize,
      HealthService.watch.responseDeserialize,
      { service: '' },
    );
    stream.on('error', () => undefined);
    await once(stream, 'readable');
    let before = -1;
    await until(() => {
      const isStill = made > 0 && made === before;
      before = made;
      return isStill;
    }, 'the handler stops producing');
    stream.cancel();
    await over.promise;
  });

  it('tells a handler that waits for something else when its caller has gone', async () => {
    const over = Promise.withResolvers<void>();
    const services = sampleServices({
      async *watch(_, { signal }) {
        try {
          yield;
          await forever(signal);
        } finally {
          over.resolve();
        }
      },
    });
    const channel = channelTo(await startListener({ services }));
    for await (const _ of callServerStream(channel, HealthService.watch, { service: '' })) break;
    await over.promise;
  });

  it('in both directions answers as it is asked', async () => {
    const asked: string[][] = [];
    const services = sampleServices({ sync: async (ids) => void asked.push([...ids]) });
    const channel = channelTo(await startListener({ services }));
    const call = openBidi(channel, EntryService.syncAuthorizedEntries);
    for (const ids of [['a'], ['b', 'more']]) {
      call.send({ outputMask: undefined, ids });
      expect(await call.next()).toMatchObject({ more: ids.includes('more') });
    }
    call.conclude();
    expect(await call.next()).toBeUndefined();
    expect(asked).toEqual([['a'], ['b', 'more']]);
  });

  it('can be handled raw, with its own end', async () => {
    const { log, lines } = memoryLogger();
    const entries = serviceOf(EntryService, {
      syncAuthorizedEntries: rawBidi((call, { end, caller }) => {
        expect(caller).toEqual({ kind: 'local' });
        call.on('data', ({ ids }) => {
          if (ids.length === 0) end();
          else if (ids[0] === 'bad') end(new AppError('invalid-argument', 'bad id'));
          else call.write({ entryRevisions: [], entries: [], more: true });
        });
      }),
    });
    const channel = channelTo(await startListener({ services: [entries], log }));
    const ask = async (...asked: string[][]) => {
      const call = openBidi(channel, EntryService.syncAuthorizedEntries);
      const answers: unknown[] = [];
      for (const ids of asked) {
        call.send({ outputMask: undefined, ids });
        answers.push(await call.next().catch((error: unknown) => error));
      }
      return answers;
    };
    expect(await ask(['x'], [])).toEqual([{ entryRevisions: [], entries: [], more: true }, undefined]);
    expect((await ask(['bad']))[0]).toMatchObject({ code: 'invalid-argument' });
    expect(lines.map((line) => line['code'])).toEqual(['invalid-argument']);
  });
});

describe('limits', () => {
  it('refuse a message that is too large, and the connection lives on', async () => {
    const listener = await startListener({
      services: sampleServices({ check: async () => undefined }),
      limits: { maxReceiveBytes: 1_000 },
    });
    const channel = channelTo(listener);
    await expect(callUnary(channel, check, { service: 'x'.repeat(2_000) })).rejects.toMatchObject({
      code: 'resource-exhausted',
    });
    expect(await callUnary(channel, check, { service: 'x'.repeat(900) })).toEqual(serving);
    expect(listener.connections).toBe(1);
  });

  it.each([
    { name: 'too many', count: 200, size: 10 },
    { name: 'too large', count: 60, size: 8_000 },
  ])('refuse headers that are $name, and others are served', async ({ count, size }) => {
    const seen: string[] = [];
    const services = sampleServices({ check: async (service) => void seen.push(service) });
    const listener = await startListener({ services });
    const metadata = Object.fromEntries(
      Array.from({ length: count }, (_, i) => [`x-${i}`, 'x'.repeat(size)]),
    );
    const call = callUnary(channelTo(listener), check, { service: 'big' }, { metadata, timeoutMs: 5_000 });
    await expect(call).rejects.toMatchObject({ name: 'AppError' });
    await callUnary(channelTo(listener), check, { service: 'small' });
    expect(seen).toEqual(['small']);
  });

  it('let 400 streams run on one connection', async () => {
    let open = 0;
    const services = sampleServices({
      async *watch(_, { signal }) {
        open += 1;
        yield;
        await forever(signal);
      },
    });
    const listener = await startListener({ services });
    const channel = channelTo(listener);
    const streams = Array.from({ length: 400 }, () =>
      callServerStream(channel, HealthService.watch, { service: '' }),
    );
    await Promise.all(streams.map((stream) => stream.next()));
    expect(open).toBe(400);
    expect(listener.connections).toBe(1);
    await Promise.all(streams.map((stream) => stream.return()));
  });

  it.each([
    { name: 'in all', limits: { maxConnections: 2 } },
    { name: 'of one user', limits: { maxConnections: 0, maxConnectionsPerUid: 2 } },
  ])('cut off connections above the number $name, and let others in when one closes', async ({ limits }) => {
    const { log, lines } = memoryLogger();
    const listener = await startListener({ services: [], limits, peerOf: 'process', log });
    const open = () => connect(listener.address);
    const [first, second] = [open(), open()];
    await until(() => listener.connections === 2, 'two are in');
    const third = open();
    await closed(third);
    expect(lines).toMatchObject([{ level: 'warn', message: expect.stringMatching(/^connection refused/) }]);
    first.destroy();
    await until(() => listener.connections === 1, 'one is gone');
    const fourth = open();
    await until(() => listener.connections === 2, 'another is in');
    for (const socket of [second, fourth]) socket.destroy();
  });
});

describe('whatever bytes come', () => {
  it.each([
    { name: 'HTTP/1.1', bytes: 'GET / HTTP/1.1\r\nhost: x\r\n\r\n' },
    { name: 'a preface and a broken frame', bytes: `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'\xff'.repeat(64)}` },
    { name: 'zeros', bytes: '\0'.repeat(100_000) },
    { name: 'a TLS hello', bytes: '\x16\x03\x01\x00\xff\x01\x00\x00\xfb\x03\x03' },
  ])('the connection ends and others are served ($name)', async ({ bytes }) => {
    const listener = await startListener({ services: sampleServices({ check: async () => undefined }) });
    const socket = connect(listener.address);
    socket.on('error', () => undefined);
    socket.write(Buffer.from(bytes, 'latin1'));
    await closed(socket);
    expect(await callUnary(channelTo(listener), check, { service: '' })).toEqual(serving);
    await until(() => listener.connections === 1, 'the broken connection is forgotten');
  });

  it('a request that is not gRPC is refused', async () => {
    const listener = await startListener({ services: sampleServices({ check: async () => undefined }) });
    const session = connectHttp2('http://localhost', { createConnection: () => connect(listener.address) });
    const request = session.request({ ':method': 'POST', ':path': check.path, 'content-type': 'text/html' });
    const [headers] = await once(request, 'response');
    expect(headers[':status']).toBe(415);
    session.destroy();
  });
});

describe('stop', () => {
  it('ends streams and answers new calls with unavailable, lets a unary call finish, then closes', async () => {
    const { log, lines } = memoryLogger();
    const finish = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    const services = sampleServices({
      check: async (service) => {
        if (service !== 'slow') return;
        started.resolve();
        await finish.promise;
      },
      async *watch(_, { signal }) {
        yield;
        await forever(signal);
      },
    });
    const listener = await startListener({ services, log });
    const channel = channelTo(listener);
    const slow = callUnary(channel, check, { service: 'slow' });
    const stream = callServerStream(channel, HealthService.watch, { service: '' });
    await Promise.all([stream.next(), started.promise]);

    const stopped = listener.stop(5_000);
    expect(listener.stop(0)).toBe(stopped);
    await expect(stream.next()).rejects.toMatchObject({ code: 'unavailable', message: 'shutting down' });
    await expect(callUnary(channel, check, { service: '' })).rejects.toMatchObject({ code: 'unavailable' });
    finish.resolve();
    expect(await slow).toEqual(serving);
    await stopped;
    expect(listener.connections).toBe(0);
    expect(lines.filter(({ level }) => level !== 'debug')).toEqual([]);
  });

  it('ends unary calls that take longer than the grace', async () => {
    const started = Promise.withResolvers<void>();
    const services = sampleServices({
      check: (_, { signal }) => {
        started.resolve();
        return forever(signal);
      },
    });
    const listener = await startListener({ services });
    const call = callUnary(channelTo(listener), check, { service: '' });
    const outcome = expect(call).rejects.toMatchObject({ code: 'unavailable' });
    await started.promise;
    await listener.stop(20);
    await outcome;
  });

  it('closes connections that never say anything', async () => {
    const listener = await startListener({ services: [] });
    const silent = connect(listener.address);
    await until(() => listener.connections === 1, 'it is in');
    const gone = closed(silent);
    await listener.stop(0);
    await gone;
  });
});
