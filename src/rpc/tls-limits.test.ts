import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { closed, until } from '../testing/grpc-listener.ts';
import {
  agentId,
  call,
  check,
  h2,
  portOf,
  rawTls,
  root,
  serving,
  startTls,
  tlsChannelTo,
  tlsOf,
  validity,
} from '../testing/tls-listener.ts';
import { FailureBudget } from './failure-budget.ts';
import { type ClientChannel, callServerStream, callUnary } from './grpc-client.ts';
import type { ClientTls } from './tls-credentials.ts';

describe('a TLS client that says nothing', () => {
  it('is cut off in time', async () => {
    const { listener } = await startTls({ handshakeTimeoutMs: 100 });
    const idle = connectTcp(portOf(listener.address), '127.0.0.1');
    await closed(idle);
    // On a busy machine an honest client may need more than one attempt, too.
    const honest = tlsChannelTo(listener.address);
    await eventually(async () => expect(await call(honest)).toEqual(serving));
  });

  it('keeps nobody else out, not even in a crowd of 600', async () => {
    const { listener, lines } = await startTls();
    const silent = Array.from({ length: 600 }, () => connectTcp(portOf(listener.address), '127.0.0.1'));
    onTestFinished(() => {
      for (const socket of silent) socket.destroy();
    });
    const gone = silent.map((socket) => closed(socket));
    await Promise.all(silent.map((socket) => once(socket, 'connect')));
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
    // Only as many as had to make room, and the oldest of them: 600 and the call are 89 more than 512.
    await Promise.all(gone.slice(0, 89));
    expect(silent.slice(89).every((socket) => !socket.closed)).toBe(true);
    const said = lines.filter(({ message }) => String(message).includes('too many TLS handshakes'));
    expect(said).toHaveLength(20);
  });
});

describe('a connection without a client certificate', () => {
  const openStreams = async (address: string, tls?: Partial<ClientTls>) => {
    const channel = tlsChannelTo(address, tls);
    const streams = Array.from({ length: 6 }, () =>
      callServerStream(channel, HealthService.watch, { service: '' }),
    );
    let open = 0;
    const opened = streams.map(async (stream) => {
      await stream.next();
      open += 1;
    });
    await Promise.all(opened.slice(0, 4));
    return { opened, open: () => open };
  };

  it('has a few streams at a time, one with a certificate has its own number', async () => {
    const { listener, callers } = await startTls();
    const anonymous = await openStreams(listener.address);
    // They wait until the end of the test.
    void Promise.allSettled(anonymous.opened);
    const identified = await openStreams(listener.address, tlsOf(await root.issue(agentId, validity)));
    await Promise.all(identified.opened);
    expect(anonymous.open()).toBe(4);
    expect(callers).toEqual([]);
  });

  it('sends small messages only, one with a certificate larger ones', async () => {
    const { listener } = await startTls();
    const agent = tlsChannelTo(listener.address, tlsOf(await root.issue(agentId, validity)));
    const send = (channel: ClientChannel, bytes: number) =>
      callUnary(channel, check, { service: 'x'.repeat(bytes) }, { timeoutMs: 5_000 });
    expect(await send(tlsChannelTo(listener.address), 60_000)).toEqual(serving);
    await expect(send(tlsChannelTo(listener.address), 70_000)).rejects.toMatchObject({
      code: 'resource-exhausted',
    });
    expect(await send(agent, 1_000_000)).toEqual(serving);
    await expect(send(agent, 1_100_000)).rejects.toMatchObject({ code: 'resource-exhausted' });
  });

  it('makes room for the next one when there are too many', async () => {
    const { listener, lines } = await startTls({ maxAnonymousConnections: 2 });
    const identified = rawTls(listener.address, h2(tlsOf(await root.issue(agentId, validity))));
    await once(identified, 'secureConnect');
    const open = async () => {
      const socket = rawTls(listener.address, h2());
      await once(socket, 'secureConnect');
      return socket;
    };
    const [first, second] = [await open(), await open()];
    await until(() => listener.connections === 3, 'all are in');
    const gone = closed(first);
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
    await gone;
    expect(listener.connections).toBe(3);
    expect(second.closed || identified.closed).toBe(false);
    expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', group: 'no certificate' }));
  });
});

describe('an identity', () => {
  it('keeps its newest connections when it opens too many, and nobody else loses one', async () => {
    const { listener, lines } = await startTls({ maxConnectionsPerIdentity: 2 });
    const open = async (id: string) => {
      const socket = rawTls(listener.address, h2(tlsOf(await root.issue(id, validity))));
      await once(socket, 'secureConnect');
      return socket;
    };
    const other = await open(`${agentId}-2`);
    const [first, second] = [await open(agentId), await open(agentId)];
    await until(() => listener.connections === 3, 'all are in');
    const gone = closed(first);
    const agent = tlsChannelTo(listener.address, tlsOf(await root.issue(agentId, validity)));
    expect(await call(agent)).toEqual(serving);
    await gone;
    expect([other.closed, second.closed, listener.connections]).toEqual([false, false, 3]);
    expect(lines).toContainEqual(expect.objectContaining({ level: 'warn', group: agentId }));
  });
});

describe('an address', () => {
  const waits = (failures: FailureBudget) => failures.waitMs('127.0.0.1:1') > 0;
  const budget = () => new FailureBudget(new FakeClock(), { perMinute: 1 });

  it.each<{ name: string; isCharged: boolean; misbehave: (address: string) => Promise<void> }>([
    {
      name: 'garbage instead of a handshake',
      isCharged: true,
      async misbehave(address) {
        const socket = connectTcp(portOf(address), '127.0.0.1');
        socket.write('GET / HTTP/1.1\r\n\r\n');
        await closed(socket);
      },
    },
    {
      name: 'a certificate that is refused',
      isCharged: true,
      async misbehave(address) {
        const foreign = await TestIdentity.root('example.org', validity);
        const tls = tlsOf(await foreign.issue(agentId, validity));
        await expect(call(tlsChannelTo(address, tls))).rejects.toMatchObject({ code: 'unauthenticated' });
      },
    },
    {
      name: 'a protocol that is not HTTP/2',
      isCharged: true,
      misbehave: (address) => closed(rawTls(address, { ALPNProtocols: ['http/1.1'] })),
    },
    {
      name: 'a look whether the port is open',
      isCharged: false,
      async misbehave(address) {
        const socket = connectTcp(portOf(address), '127.0.0.1');
        await once(socket, 'connect');
        socket.destroy();
        await closed(socket);
      },
    },
    {
      name: 'honest work',
      isCharged: false,
      async misbehave(address) {
        expect(await call(tlsChannelTo(address))).toEqual(serving);
      },
    },
  ])('is charged for $name: $isCharged', async ({ isCharged, misbehave }) => {
    const failures = budget();
    const { listener } = await startTls({ failures });
    await misbehave(listener.address);
    if (isCharged) await until(() => waits(failures), 'the charge');
    // Served after it, and so after the other connection is forgotten.
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
    expect(waits(failures)).toBe(isCharged);
  });

  it('with too many failures gets no handshake while there are too few, and displaces nobody', async () => {
    const failures = budget();
    const { listener } = await startTls({ maxHandshakes: 2, failures });
    const open = async () => {
      const socket = connectTcp(portOf(listener.address), '127.0.0.1');
      await once(socket, 'connect');
      return socket;
    };
    failures.charge('127.0.0.1:1');
    const [first, second] = [await open(), await open()];
    await closed(await open());
    expect([first.closed, second.closed]).toEqual([false, false]);
    first.destroy();
    await eventually(async () => expect(await call(tlsChannelTo(listener.address))).toEqual(serving));
    second.destroy();
  });
});

describe('the log', () => {
  it('of clients that are refused is bounded', async () => {
    const { listener, lines } = await startTls();
    const foreign = tlsOf(await (await TestIdentity.root('example.org', validity)).issue(agentId, validity));
    for (let i = 0; i < 30; i += 1) {
      await expect(call(tlsChannelTo(listener.address, foreign))).rejects.toThrow();
    }
    expect(lines.filter(({ message }) => message === 'TLS client refused')).toHaveLength(20);
  });
});

describe('a connection that has fallen silent', () => {
  it('is destroyed after two and a half keepalive periods, others stay', async () => {
    const clock = new FakeClock();
    const { listener } = await startTls({ clock });
    const silent = rawTls(listener.address, h2());
    await once(silent, 'secureConnect');
    const gone = closed(silent);
    const live = tlsChannelTo(listener.address);
    await call(live);
    await until(() => listener.connections === 2, 'both are in');
    for (let seconds = 0; seconds < 80; seconds += 10) {
      expect(await call(live)).toEqual(serving);
      await clock.advance(10_000);
    }
    await gone;
    await until(() => listener.connections === 1, 'the silent one is forgotten');
    expect(await call(live)).toEqual(serving);
    await clock.advance(120_000);
    await until(() => listener.connections === 0, 'now both are');
    const stopped = listener.stop(0);
    await clock.advance(1_000);
    await stopped;
    expect(clock.sleepers).toBe(0);
  });
});
