import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { describe, expect, it, onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { Observable } from '../runtime/observable.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { closed, memoryLogger, sampleServices } from '../testing/grpc-listener.ts';
import {
  agentId,
  call,
  foreignRoot,
  hourMs,
  portOf,
  rawTls,
  root,
  server,
  serverId,
  serving,
  startTls,
  tlsChannelTo,
  tlsOf,
  validity,
  verify,
} from '../testing/tls-listener.ts';
import type { Caller } from './caller.ts';
import { callServerStream, callUnary, tlsChannel } from './grpc-client.ts';
import { GrpcListener } from './grpc-server.ts';
import type { TlsIdentity } from './tls-listener.ts';

describe('a TLS client', () => {
  it('without a certificate is anonymous', async () => {
    const { listener, callers } = await startTls();
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
    expect(callers).toEqual([{ kind: 'anonymous', address: expect.stringMatching(/^127\.0\.0\.1:\d+$/) }]);
  });

  it('with a certificate is who the certificate says', async () => {
    const { listener, callers } = await startTls();
    const agent = await root.issue(agentId, validity);
    expect(await call(tlsChannelTo(listener.address, tlsOf(agent)))).toEqual(serving);
    expect(callers).toMatchObject([{ kind: 'svid', address: expect.stringMatching(/^127\./) }]);
    const [caller] = callers as Extract<Caller, { kind: 'svid' }>[];
    expect(caller?.id.toString()).toBe(agentId);
    expect(caller?.certificate.fingerprint).toBe(agent.certificate.fingerprint);
  });

  it('may present intermediates', async () => {
    const { listener, callers } = await startTls();
    const intermediate = await root.intermediate(validity);
    const agent = await intermediate.issue(agentId, validity);
    expect(await call(tlsChannelTo(listener.address, tlsOf(agent, [intermediate])))).toEqual(serving);
    expect(callers).toMatchObject([{ kind: 'svid' }]);
  });

  it.each<{ name: string; make: () => Promise<TestIdentity>; text?: string }>([
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
      text: 'does not verify: CERT_HAS_EXPIRED',
    },
    {
      name: 'that is not valid yet',
      make: () =>
        root.issue(agentId, { notBeforeMs: Date.now() + hourMs, notAfterMs: Date.now() + 2 * hourMs }),
    },
    {
      name: 'without a URI name',
      make: () => root.issue('', { ...validity, uris: [], dnsNames: ['a.test'] }),
      text: 'client certificate has no URI SAN',
    },
    {
      name: 'with two URI names',
      make: () => root.issue('', { ...validity, uris: [agentId, 'spiffe://example.org/other'] }),
      text: 'client certificate has more than one URI SAN',
    },
    {
      name: 'whose URI is no SPIFFE ID',
      make: () => root.issue('https://example.org/x', validity),
      text: 'client certificate has a malformed URI SAN: ',
    },
    { name: 'that is a CA', make: () => root.issue(agentId, { ...validity, ca: true }) },
  ])('with a certificate $name is told so and never reaches a handler', async ({ make, text = '' }) => {
    const { listener, callers, lines } = await startTls();
    const channel = tlsChannelTo(listener.address, tlsOf(await make()));
    const refused = { code: 'unauthenticated', message: expect.stringContaining(text) };
    await expect(call(channel)).rejects.toMatchObject(refused);
    await expect(callUnary(channel, HealthService.list, {}, { timeoutMs: 5_000 })).rejects.toMatchObject(
      refused,
    );
    expect(callers).toEqual([]);
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'info', message: 'TLS client refused', address: expect.any(String) }),
    );
  });

  it('without the key of its certificate does not get through the handshake', async () => {
    const { listener, callers } = await startTls();
    const agent = await root.issue(agentId, validity);
    const other = await root.issue(agentId, validity);
    const mixed = { ...tlsOf(agent), privateKeyPem: other.privateKeyPem };
    await expect(call(tlsChannelTo(listener.address, mixed))).rejects.toMatchObject({ code: 'unavailable' });
    expect(callers).toEqual([]);
  });

  it.each<{ name: string; options: ConnectionOptions }>([
    { name: 'TLS 1.2', options: { maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] } },
    { name: 'HTTP/1.1 only', options: { ALPNProtocols: ['http/1.1'] } },
    { name: 'no ALPN', options: {} },
  ])('that speaks $name is cut off', async ({ options }) => {
    const { listener } = await startTls();
    await closed(rawTls(listener.address, options));
    expect(listener.connections).toBe(0);
  });

  it('cannot resume a session', async () => {
    const { listener } = await startTls();
    const agent = tlsOf(await root.issue(agentId, validity));
    const options = { ALPNProtocols: ['h2'], cert: agent.certificateChainPem, key: agent.privateKeyPem };
    const first = rawTls(listener.address, options);
    const [session] = await once(first, 'session');
    const second = rawTls(listener.address, { ...options, session });
    await once(second, 'secureConnect');
    expect(second.isSessionReused()).toBe(false);
  });

  it('that sends garbage is cut off', async () => {
    const { listener, callers } = await startTls();
    const socket = connectTcp(portOf(listener.address), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write('GET / HTTP/1.1\r\n\r\n');
    await closed(socket);
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
    expect(callers).toHaveLength(1);
  });
});

describe('the identity of the listener', () => {
  it('is what clients verify, exactly', async () => {
    const { listener, callers } = await startTls();
    await expect(
      call(tlsChannelTo(listener.address, {}, 'spiffe://example.org/other')),
    ).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining(`the server is "${serverId}"`),
    });
    expect(callers).toEqual([]);
  });

  it('must be of the right trust domain, whoever vouches for it', async () => {
    const { listener, identity } = await startTls();
    identity.set(tlsOf(await foreignRoot.issue(serverId, validity)));
    await expect(call(tlsChannelTo(listener.address))).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('changes for new connections, and open ones live on', async () => {
    const { listener, identity } = await startTls();
    const before = tlsChannelTo(listener.address);
    const stream = callServerStream(before, HealthService.watch, { service: '' });
    await stream.next();
    const renewed = await root.issue('spiffe://example.org/renewed', validity);
    identity.set(tlsOf(renewed));

    expect(await call(tlsChannelTo(listener.address, {}, 'spiffe://example.org/renewed'))).toEqual(serving);
    expect(await call(before)).toEqual(serving);
    await stream.return();
  });

  it('stays as it was when the new one is no good', async () => {
    const { listener, identity, lines } = await startTls();
    identity.set({ ...tlsOf(server), privateKeyPem: 'no key' });
    identity.set({ ...tlsOf(server), clientCaPem: '' });
    identity.set(undefined);
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
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
    const { listener } = await startTls();
    await listener.stop(0);
    await expect(call(tlsChannelTo(listener.address))).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });

  it('finds a listener again that comes back on the same port', async () => {
    const { listener } = await startTls();
    const channel = tlsChannelTo(listener.address);
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
