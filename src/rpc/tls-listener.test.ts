import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { Observable } from '../runtime/observable.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { type SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { closed, memoryLogger, sampleServices, until } from '../testing/grpc-listener.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { Caller } from './caller.ts';
import { type ClientChannel, callServerStream, callUnary, tlsChannel } from './grpc-client.ts';
import { GrpcListener } from './grpc-server.ts';
import type { ClientTls } from './tls-credentials.ts';
import type { TlsIdentity } from './tls-listener.ts';

// OpenSSL looks at the system's clock.
const hourMs = 3_600_000;
const validity = { notBeforeMs: Date.now() - hourMs, notAfterMs: Date.now() + hourMs };
const check = HealthService.check;
const serving = { status: 1 };
const serverId = 'spiffe://example.org/spire/server';
const agentId = 'spiffe://example.org/spire/agent/x';

let root: TestIdentity;
let foreignRoot: TestIdentity;
let server: TestIdentity;

beforeAll(async () => {
  [root, foreignRoot] = await Promise.all([
    TestIdentity.root('example.org', validity),
    TestIdentity.root('foreign.org', validity),
  ]);
  server = await root.issue(serverId, validity);
});

function bundleOf(name: string, authority: TestIdentity): Bundle {
  return new Bundle({
    trustDomain: TrustDomain.parse(name),
    x509Authorities: [{ certificate: authority.certificate, tainted: false }],
    sequence: 1,
    refreshHintSeconds: 0,
  });
}

/** Verifies as server and agent do: in the bundle of the certificate's own trust domain. */
function verify(chain: readonly Certificate[]): SpiffeId {
  const bundles = [bundleOf('example.org', root), bundleOf('foreign.org', foreignRoot)];
  const find = (domain: TrustDomain) => bundles.find((bundle) => bundle.trustDomain.equals(domain));
  return verifyX509Svid({ chain, bundles: find, nowMs: Date.now() }).id;
}

function tlsOf(identity: TestIdentity, intermediates: readonly TestIdentity[] = []): TlsIdentity {
  const chain = [identity, ...intermediates].map(({ certificate }) => certificate.toPem());
  return {
    certificateChainPem: chain.join(''),
    privateKeyPem: identity.privateKeyPem,
    // Both in one pool, as OpenSSL must have them.
    clientCaPem: root.certificate.toPem() + foreignRoot.certificate.toPem(),
  };
}

async function start(
  options: { readonly handshakeTimeoutMs?: number; readonly maxHandshakes?: number } = {},
) {
  const callers: Caller[] = [];
  const { log, lines } = memoryLogger();
  const identity = new Observable<TlsIdentity | undefined>(tlsOf(server));
  const { maxHandshakes = 16, ...rest } = options;
  const listener = await GrpcListener.tls({
    host: '127.0.0.1',
    port: 0,
    identity,
    verifyClient: verify,
    services: sampleServices({
      check: async (_, { caller }) => void callers.push(caller),
      async *watch(_, { signal }) {
        yield;
        await once(signal, 'abort');
      },
    }),
    authorize: () => undefined,
    limits: { maxHandshakes },
    log,
    ...rest,
  });
  onTestFinished(() => listener.stop(0));
  return { listener, identity, callers, lines };
}

/** A channel that expects this server ID. */
function channelTo(address: string, client?: Partial<ClientTls>, expected = serverId): ClientChannel {
  const verifyServer = (chain: readonly Certificate[]) => {
    const id = verify(chain);
    if (id.toString() !== expected) throw new Error(`the server is "${id}"`);
  };
  const channel = tlsChannel({ address, tls: { verifyServer, ...client } });
  onTestFinished(() => channel.close());
  return channel;
}

const call = (channel: ClientChannel) => callUnary(channel, check, { service: '' }, { timeoutMs: 5_000 });

function rawTls(address: string, options: ConnectionOptions): TLSSocket {
  const socket = connect({ host: '127.0.0.1', port: portOf(address), rejectUnauthorized: false, ...options });
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

function portOf(address: string): number {
  return Number(address.split(':').at(-1));
}

describe('a TLS client', () => {
  it('without a certificate is anonymous', async () => {
    const { listener, callers } = await start();
    expect(await call(channelTo(listener.address))).toEqual(serving);
    expect(callers).toEqual([{ kind: 'anonymous', address: expect.stringMatching(/^127\.0\.0\.1:\d+$/) }]);
  });

  it('with a certificate is who the certificate says', async () => {
    const { listener, callers } = await start();
    const agent = await root.issue(agentId, validity);
    expect(await call(channelTo(listener.address, tlsOf(agent)))).toEqual(serving);
    expect(callers).toMatchObject([{ kind: 'svid', address: expect.stringMatching(/^127\./) }]);
    const [caller] = callers as Extract<Caller, { kind: 'svid' }>[];
    expect(caller?.id.toString()).toBe(agentId);
    expect(caller?.certificate.fingerprint).toBe(agent.certificate.fingerprint);
  });

  it('may present intermediates', async () => {
    const { listener, callers } = await start();
    const intermediate = await root.intermediate(validity);
    const agent = await intermediate.issue(agentId, validity);
    expect(await call(channelTo(listener.address, tlsOf(agent, [intermediate])))).toEqual(serving);
    expect(callers).toMatchObject([{ kind: 'svid' }]);
  });

  it.each<{ name: string; make: () => Promise<TestIdentity> }>([
    {
      name: 'of an unknown authority',
      make: async () => (await TestIdentity.root('example.org', validity)).issue(agentId, validity),
    },
    {
      name: 'that another trust domain signed',
      make: () => foreignRoot.issue(agentId, validity),
    },
    {
      name: 'that has expired',
      make: () =>
        root.issue(agentId, { notBeforeMs: Date.now() - 2 * hourMs, notAfterMs: Date.now() - hourMs }),
    },
    {
      name: 'that is not valid yet',
      make: () =>
        root.issue(agentId, { notBeforeMs: Date.now() + hourMs, notAfterMs: Date.now() + 2 * hourMs }),
    },
    {
      name: 'without a URI name',
      make: () => root.issue('', { ...validity, uris: [], dnsNames: ['a.test'] }),
    },
    {
      name: 'with two URI names',
      make: () => root.issue('', { ...validity, uris: [agentId, 'spiffe://example.org/other'] }),
    },
    { name: 'whose URI is no SPIFFE ID', make: () => root.issue('https://example.org/x', validity) },
    { name: 'that is a CA', make: () => root.issue(agentId, { ...validity, ca: true }) },
  ])('with a certificate $name never reaches a handler', async ({ make }) => {
    const { listener, callers, lines } = await start();
    await expect(call(channelTo(listener.address, tlsOf(await make())))).rejects.toMatchObject({
      code: 'unavailable',
    });
    expect(callers).toEqual([]);
    expect(listener.connections).toBe(0);
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'info', message: 'TLS client refused', address: expect.any(String) }),
    );
  });

  it('without the key of its certificate does not get through the handshake', async () => {
    const { listener, callers } = await start();
    const agent = await root.issue(agentId, validity);
    const other = await root.issue(agentId, validity);
    const mixed = { ...tlsOf(agent), privateKeyPem: other.privateKeyPem };
    await expect(call(channelTo(listener.address, mixed))).rejects.toMatchObject({ code: 'unavailable' });
    expect(callers).toEqual([]);
  });

  it.each<{ name: string; options: ConnectionOptions }>([
    { name: 'TLS 1.2', options: { maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] } },
    { name: 'HTTP/1.1 only', options: { ALPNProtocols: ['http/1.1'] } },
    { name: 'no ALPN', options: {} },
  ])('that speaks $name is cut off', async ({ options }) => {
    const { listener } = await start();
    await closed(rawTls(listener.address, options));
    expect(listener.connections).toBe(0);
  });

  it('cannot resume a session', async () => {
    const { listener } = await start();
    const agent = tlsOf(await root.issue(agentId, validity));
    const options = { ALPNProtocols: ['h2'], cert: agent.certificateChainPem, key: agent.privateKeyPem };
    const first = rawTls(listener.address, options);
    const [session] = await once(first, 'session');
    const second = rawTls(listener.address, { ...options, session });
    await once(second, 'secureConnect');
    expect(second.isSessionReused()).toBe(false);
  });

  it('that sends garbage is cut off', async () => {
    const { listener, callers } = await start();
    const socket = connectTcp(portOf(listener.address), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET / HTTP/1.1\r\n\r\n');
    await closed(socket);
    expect(await call(channelTo(listener.address))).toEqual(serving);
    expect(callers).toHaveLength(1);
  });

  it('that says nothing is cut off in time, and makes room for others', async () => {
    const { listener } = await start({ handshakeTimeoutMs: 100, maxHandshakes: 2 });
    const idle = [0, 1].map(() => connectTcp(portOf(listener.address), '127.0.0.1'));
    await Promise.all(idle.map((socket) => once(socket, 'connect')));
    const tooMany = connectTcp(portOf(listener.address), '127.0.0.1');
    tooMany.on('error', () => undefined);
    await closed(tooMany);
    expect(idle.every((socket) => !socket.readableEnded)).toBe(true);
    await Promise.all(idle.map((socket) => closed(socket)));
    await until(() => listener.connections === 0, 'all are forgotten');
    expect(await call(channelTo(listener.address))).toEqual(serving);
  });
});

describe('the identity of the listener', () => {
  it('is what clients verify, exactly', async () => {
    const { listener, callers } = await start();
    await expect(call(channelTo(listener.address, {}, 'spiffe://example.org/other'))).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining(`the server is "${serverId}"`),
    });
    expect(callers).toEqual([]);
  });

  it('must be of the right trust domain, whoever vouches for it', async () => {
    const { listener, identity } = await start();
    identity.set(tlsOf(await foreignRoot.issue(serverId, validity)));
    await expect(call(channelTo(listener.address))).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('is also verified by OpenSSL when the client gives roots', async () => {
    const { listener } = await start();
    const rootsPem = foreignRoot.certificate.toPem();
    await expect(call(channelTo(listener.address, { rootsPem }))).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('does not verify'),
    });
    expect(await call(channelTo(listener.address, { rootsPem: root.certificate.toPem() }))).toEqual(serving);
  });

  it('changes for new connections, and open ones live on', async () => {
    const { listener, identity } = await start();
    const before = channelTo(listener.address);
    const stream = callServerStream(before, HealthService.watch, { service: '' });
    await stream.next();
    const renewed = await root.issue('spiffe://example.org/renewed', validity);
    identity.set(tlsOf(renewed));

    expect(await call(channelTo(listener.address, {}, 'spiffe://example.org/renewed'))).toEqual(serving);
    expect(await call(before)).toEqual(serving);
    await stream.return();
  });

  it('stays as it was when the new one is no good', async () => {
    const { listener, identity, lines } = await start();
    identity.set({ ...tlsOf(server), privateKeyPem: 'no key' });
    identity.set({ ...tlsOf(server), clientCaPem: '' });
    identity.set(undefined);
    expect(await call(channelTo(listener.address))).toEqual(serving);
    expect(lines.filter(({ level }) => level === 'error')).toHaveLength(3);
  });

  it('must be there from the start', async () => {
    const identity = new Observable<TlsIdentity | undefined>(undefined);
    const options = { host: '127.0.0.1', port: 0, identity, verifyClient: verify, services: [] };
    const { log } = memoryLogger();
    await expect(GrpcListener.tls({ ...options, authorize: () => undefined, log })).rejects.toMatchObject({
      code: 'failed-precondition',
    });
  });
});

describe('a TLS channel', () => {
  it.each([
    '',
    'host',
    'host:0',
    'host:65536',
    'host:80/x',
    'https://host:80',
    '::1:80',
    '[host]:80',
    'a b:80',
  ])('refuses the address "%s"', (address) => {
    expect(() => tlsChannel({ address, tls: { verifyServer: () => undefined } })).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  });

  it('says that nobody listens', async () => {
    const { listener } = await start();
    await listener.stop(0);
    await expect(call(channelTo(listener.address))).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });

  it('finds a listener again that comes back on the same port', async () => {
    const { listener } = await start();
    const channel = channelTo(listener.address);
    expect(await call(channel)).toEqual(serving);
    await listener.stop(0);
    const again = await GrpcListener.tls({
      host: '127.0.0.1',
      port: portOf(listener.address),
      identity: new Observable<TlsIdentity | undefined>(tlsOf(server)),
      verifyClient: verify,
      services: sampleServices({ check: async () => undefined }),
      authorize: () => undefined,
      log: memoryLogger().log,
    });
    onTestFinished(() => again.stop(0));
    expect(await call(channel)).toEqual(serving);
  });
});
