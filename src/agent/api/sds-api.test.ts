import { EventEmitter } from 'node:events';
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from 'node:http2';
import { createConnection } from 'node:net';
import { status } from '@grpc/grpc-js';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { type DiscoveryRequest, DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceClient } from '../../gen/envoy/service/secret/v3/sds.ts';
import { AppError } from '../../runtime/error.ts';
import { createLogger } from '../../runtime/log.ts';
import { discoveryRequest, envoyNode } from '../../testing/envoy-node.ts';
import { eventually } from '../../testing/eventually.ts';
import { Received } from '../../testing/received.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { defaultSdsSettings } from '../../testing/sds-settings.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { connectTo, startWorkloadSocket } from '../../testing/workload-socket.ts';
import type { AgentConfig } from '../config.ts';
import type { HeldSvid } from '../workload-view.ts';
import { openSecretServices } from './secret-services.ts';
import { secretTypeUrl } from './secrets.ts';
import { defaultStreamBudget, StreamBudget, type StreamBudgetLimits } from './stream-budget.ts';

const streamSecretsPath = '/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets';
const asBytes = (value: Buffer) => value;
const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', createdAt: 1 });
const api = testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api', createdAt: 2 });
let domain: TestTrustDomain;
let webSvid: HeldSvid;
let webRenewed: HeldSvid;
let apiSvid: HeldSvid;
beforeAll(async () => {
  domain = await TestTrustDomain.create('example.org');
  webSvid = await domain.sign(web);
  webRenewed = await domain.sign(web);
  apiSvid = await domain.sign(api);
});

async function start(
  options: {
    maxNames?: number;
    peerOf?: 'process' | 'local';
    budget?: Partial<StreamBudgetLimits>;
    sds?: Partial<AgentConfig['sds']>;
  } = {},
) {
  const budget = new StreamBudget({ ...defaultStreamBudget, ...options.budget });
  const lines: Record<string, unknown>[] = [];
  const write = (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>);
  const socket = await startWorkloadSocket({
    log: createLogger({ level: 'info', format: 'json', write }),
    services: (deps) => {
      const limits = options.maxNames === undefined ? {} : { maxNames: options.maxNames };
      const settings = { ...defaultSdsSettings, ...options.sds };
      return openSecretServices(settings, { ...deps, budget, limits }).services;
    },
    peerOf: options.peerOf ?? 'process',
  });
  const fill = () => {
    socket.cache.setBundle(domain.bundle());
    socket.cache.setEntries([web]);
    socket.cache.putSvids([webSvid]);
  };
  return { ...socket, fill, lines, budget, connect: () => new TestProxy(socket.target) };
}

/** A proxy: one connection, with as many streams as wanted. */
class TestProxy {
  readonly client: SecretDiscoveryServiceClient;

  constructor(target: string) {
    this.client = connectTo(SecretDiscoveryServiceClient, target);
  }

  /** Acknowledges what it gets, unless told otherwise. */
  stream(names?: readonly string[], { acknowledges = true } = {}) {
    const call = this.client.streamSecrets();
    const received = new Received<DiscoveryResponse>(call);
    let asked: readonly string[] = [];
    const ask = (fields: Parameters<typeof request>[0]) => {
      asked = fields.names ?? [];
      call.write(request(fields));
    };
    if (acknowledges) {
      call.on('data', ({ nonce }: DiscoveryResponse) => call.write(request({ names: asked, nonce })));
    }
    if (names !== undefined) ask({ names });
    return { call, received, ask, next: () => received.next() };
  }

  fetch(names: readonly string[], fields: Partial<DiscoveryRequest> = {}): Promise<DiscoveryResponse> {
    return new Promise((resolve, reject) => {
      this.client.fetchSecrets({ ...request({ names }), ...fields }, (error, response) =>
        error === null ? resolve(response) : reject(error),
      );
    });
  }
}

/** A client on plain HTTP/2 that does not read: grpc-js would read ahead without end. */
class SlowReader {
  readonly #session: ClientHttp2Session;
  readonly #stream: ClientHttp2Stream;

  constructor(target: string) {
    const path = target.replace(/^unix:/, '');
    this.#session = connectHttp2('http://localhost', { createConnection: () => createConnection(path) });
    onTestFinished(() => this.#session.destroy());
    this.#stream = this.#session.request({
      ':method': 'POST',
      ':path': streamSecretsPath,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
  }

  ask(message: Buffer): void {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    this.#stream.write(Buffer.concat([head, message]));
  }

  startReading(): Received<DiscoveryResponse> {
    const messages = new EventEmitter();
    const received = new Received<DiscoveryResponse>(messages as never);
    let bytes = Buffer.alloc(0);
    this.#stream.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
        const end = 5 + bytes.readUInt32BE(1);
        messages.emit('data', DiscoveryResponse.decode(bytes.subarray(5, end)));
        bytes = bytes.subarray(end);
      }
    });
    return received;
  }
}

function request(fields: {
  readonly names?: readonly string[];
  readonly nonce?: string;
  readonly error?: string;
  readonly typeUrl?: string;
  readonly metadata?: Record<string, unknown>;
}): DiscoveryRequest {
  const { names = [], nonce = '', error, typeUrl = secretTypeUrl, metadata } = fields;
  const node = { id: 'n', cluster: 'c', metadata, userAgentName: 'envoy', userAgentVersionType: undefined };
  return {
    versionInfo: '',
    node: metadata === undefined ? undefined : node,
    resourceNames: [...names],
    typeUrl,
    responseNonce: nonce,
    errorDetail: error === undefined ? undefined : { code: 13, message: error, details: [] },
  };
}

function secretsOf(response: DiscoveryResponse): Secret[] {
  return response.resources.map(({ value }) => Secret.decode(value));
}

function nameOf(response: DiscoveryResponse): string {
  return secretsOf(response)
    .map(({ name }) => name)
    .join();
}

describe('a stream of secrets', () => {
  test('answers each name it has with one response of its own, in any combination of names', async () => {
    const { fill, connect } = await start();
    fill();
    const names = ['ROOTCA', 'default', 'ALL', 'spiffe://example.org/web', 'spiffe://example.org'];
    const { received } = connect().stream(names);
    const responses = await received.take(names.length);
    // Trust first.
    expect(responses.map(nameOf)).toEqual([
      ...['ROOTCA', 'ALL', 'spiffe://example.org'],
      ...['default', 'spiffe://example.org/web'],
    ]);
    expect(responses.map(({ nonce }) => nonce)).toEqual(['1', '2', '3', '4', '5']);
    for (const response of responses) {
      expect(response.typeUrl).toBe(secretTypeUrl);
      expect(response.versionInfo).toMatch(/^[0-9a-f]{16}$/);
      expect(response.controlPlane?.identifier).toMatch(/^signet-agent\//);
      expect(secretsOf(response)[0]?.type).toBeDefined();
    }
  });

  test('sends everything once when it names nothing', async () => {
    const { fill, connect } = await start();
    fill();
    const { received } = connect().stream([]);
    expect((await received.take(2)).map(nameOf)).toEqual([
      'spiffe://example.org',
      'spiffe://example.org/web',
    ]);
  });

  test('waits for what is not there, and gets it the moment it is', async () => {
    const { fill, connect, cache } = await start();
    const { received } = connect().stream(['default', 'spiffe://example.org/api']);
    fill();
    expect(nameOf(await received.next())).toBe('default');
    cache.setEntries([web, api]);
    cache.putSvids([apiSvid]);
    expect(nameOf(await received.next())).toBe('spiffe://example.org/api');
  });

  test('gets a renewed secret, and nothing when something else changes', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const proxy = connect();
    const certificate = proxy.stream(['default']);
    const bundle = proxy.stream(['ROOTCA']);
    const [first] = [await certificate.next(), await bundle.next()];
    cache.setEntries([
      { ...web, hint: 'changed', revision: 1 },
      api,
      testEntry({ id: 'x', selectors: ['unix:uid:9'] }),
    ]);
    cache.putSvids([apiSvid]);
    cache.putSvids([webRenewed]);
    const second = await certificate.next();
    expect([second.nonce, second.versionInfo === first.versionInfo]).toEqual(['2', false]);
    const withNewRoot = domain
      .bundle()
      .withAuthority((await TestTrustDomain.create('example.org')).root.certificate);
    cache.setBundle(withNewRoot);
    // Its second response, so that nothing came in between.
    expect(await bundle.next()).toMatchObject({ nonce: '2' });
  });

  test('has the same versions for everybody', async () => {
    const { fill, connect } = await start();
    fill();
    const versions = async () =>
      (await connect().stream(['default', 'ALL']).received.take(2)).map((r) => r.versionInfo).sort();
    expect(await versions()).toEqual(await versions());
  });

  test('is not sent again what it refused, but the next version', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const { ask, next } = connect().stream(['default'], { acknowledges: false });
    const bad = await next();
    ask({ names: ['default'], nonce: '1', error: 'no good' });
    ask({ names: [], nonce: '1' });
    ask({ names: ['default', 'ROOTCA'], nonce: '1' });
    const { nonce } = await next();
    ask({ names: ['default', 'ROOTCA'], nonce });
    cache.putSvids([webRenewed]);
    const good = await next();
    expect([nameOf(good), good.versionInfo === bad.versionInfo]).toEqual(['default', false]);
  });

  test('holds at most the newest version for a slow reader', async () => {
    const { fill, connect, cache, target } = await start();
    fill();
    const slow = new SlowReader(target);
    slow.ask(discoveryRequest({ names: ['ROOTCA'] }));
    const others = await Promise.all(Array.from({ length: 20 }, () => TestTrustDomain.create('example.org')));
    const roots = others.map((other) => other.root.certificate);
    const bundles = [bundleOf('example.org', roots), bundleOf('example.org', roots.slice(1))];
    // Another proxy shows that all changes were pushed, and is not disturbed.
    const quick = connect().stream(['ROOTCA']);
    await quick.next();
    for (let i = 0; i < 300; i += 1) {
      cache.setBundle(bundles[i % 2]!);
      await quick.next();
    }
    cache.setBundle(bundleOf('example.org', roots.slice(2)));
    const newest = (await quick.next()).versionInfo;
    const received = slow.startReading();
    let count = 1;
    while ((await received.next()).versionInfo !== newest) count += 1;
    expect(count).toBeLessThan(100);
    // Nothing older comes after it.
    cache.setBundle(domain.bundle());
    expect((await received.next()).versionInfo).toBe((await quick.next()).versionInfo);
  });

  test('is one of many that a proxy opens at once', async () => {
    const { fill, connect, facts } = await start();
    fill();
    const proxy = connect();
    const streams = Array.from({ length: 300 }, (_, i) => proxy.stream([i % 2 === 0 ? 'default' : 'ALL']));
    const responses = await Promise.all(streams.map(({ next }) => next()));
    expect(new Set(responses.map(({ versionInfo }) => versionInfo)).size).toBe(2);
    expect(facts.attestations).toBe(1);
  });

  test('reads the node of the connection once', async () => {
    const { fill, connect } = await start();
    fill();
    const proxy = connect();
    const first = proxy.stream();
    first.ask({ names: ['ROOTCA'], metadata: { disable_spiffe_cert_validation: true } });
    const response = await first.next();
    const second = proxy.stream();
    second.ask({ names: ['ROOTCA'], metadata: { disable_spiffe_cert_validation: false } });
    expect((await second.next()).versionInfo).toBe(response.versionInfo);
    const [secret] = secretsOf(response);
    expect(secret?.type).toMatchObject({
      $case: 'validationContext',
      value: { customValidatorConfig: undefined },
    });
  });

  test('ends well when the proxy closes its side, and lets go of everything', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const { call, received, next } = connect().stream(['default']);
    await next();
    const { view, release } = cache.watch([{ type: 'unix', value: 'uid:1000' }]);
    expect(view.followers).toBe(1);
    call.end();
    expect(await received.ended).toBeUndefined();
    await eventually(() => expect(view.followers).toBe(0));
    release();
  });

  test('lets go of everything when the proxy breaks off', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const { call, next } = connect().stream(['default']);
    await next();
    const { view, release } = cache.watch([{ type: 'unix', value: 'uid:1000' }]);
    call.cancel();
    await eventually(() => expect(view.followers).toBe(0));
    release();
  });
});

describe('a stream is refused', () => {
  test('for another type of resource, without any secret', async () => {
    const { fill, connect } = await start();
    fill();
    const { received, ask } = connect().stream();
    ask({ names: ['default'], typeUrl: 'type.googleapis.com/envoy.config.cluster.v3.Cluster' });
    expect(await received.ended).toMatchObject({ code: status.INVALID_ARGUMENT });
  });

  test('for more names than allowed', async () => {
    const { fill, connect } = await start({ maxNames: 2 });
    fill();
    const { received } = connect().stream(['a', 'b', 'c']);
    expect(await received.ended).toMatchObject({ code: status.RESOURCE_EXHAUSTED });
  });

  test('for bytes that are no request, and other streams do not notice', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const proxy = connect();
    const healthy = proxy.stream(['default']);
    await healthy.next();
    const call = proxy.client.makeBidiStreamRequest(streamSecretsPath, asBytes, asBytes);
    const received = new Received<Buffer>(call);
    call.write(Buffer.from([0xff, 0xff, 0xff]));
    expect(await received.ended).toMatchObject({ code: status.INVALID_ARGUMENT });
    cache.putSvids([webRenewed]);
    await healthy.next();
  });

  test.each([
    { name: 'when attestation fails', refusal: () => new Error('docker is down'), code: status.UNAVAILABLE },
    {
      name: 'when attestation refuses the caller',
      refusal: () => new AppError('permission-denied', 'setuid'),
      code: status.PERMISSION_DENIED,
    },
  ])('$name', async ({ refusal, code }) => {
    const { fill, connect, facts } = await start();
    fill();
    facts.refusal = refusal();
    const proxy = connect();
    expect(await proxy.stream(['default']).received.ended).toMatchObject({ code });
    facts.refusal = undefined;
    await proxy.stream(['default']).next();
  });

  test('when nobody knows the process behind it', async () => {
    const { fill, connect } = await start({ peerOf: 'local' });
    fill();
    expect(await connect().stream(['default']).received.ended).toMatchObject({
      code: status.PERMISSION_DENIED,
    });
  });
});

describe('the budget of a user', () => {
  const long = (i: number) => `spiffe://example.org/${String(i).padStart(2_000, '0')}`;

  test('bounds what is held for all streams together, and comes back when they end', async () => {
    const { fill, connect, budget } = await start({ budget: { nameBytes: 150_000 } });
    fill();
    const [proxy, other] = [connect(), connect()];
    const first = proxy.stream([...Array(40).keys()].map(long).concat('ROOTCA'));
    await first.next();
    const refused = other.stream([...Array(40).keys()].map(long));
    expect(await refused.received.ended).toMatchObject({
      code: status.RESOURCE_EXHAUSTED,
      details: expect.stringContaining('at most 150000 are allowed'),
    });
    // Names that nobody is ever served are not held, and cost nothing.
    const unknown = other.stream([...Array(1_000).keys()].map((i) => `never-${i}`).concat('ROOTCA'));
    await unknown.next();
    first.call.cancel();
    const second = await eventually(async () => {
      const stream = other.stream([...Array(40).keys()].map(long).concat('ROOTCA'));
      await stream.next();
      return stream;
    });
    expect(budget.users).toBe(1);
    for (const { call } of [unknown, second]) call.cancel();
    await eventually(() => expect(budget.users).toBe(0));
  });

  test('bounds the streams, and all that ended are given back, however they ended', async () => {
    const { fill, connect, budget, facts } = await start({ maxNames: 2, budget: { streams: 3 } });
    fill();
    const proxy = connect();
    facts.refusal = new Error('docker is down');
    await Promise.all([1, 2, 3].map(() => proxy.stream(['ROOTCA']).received.ended));
    facts.refusal = undefined;
    await expect(proxy.fetch(['nonsense'])).rejects.toMatchObject({ code: status.NOT_FOUND });
    await proxy.stream(['a', 'b', 'c']).received.ended;
    await eventually(() => expect(budget.users).toBe(0));
    const open = [1, 2, 3].map(() => proxy.stream(['ROOTCA']));
    await Promise.all(open.map(({ next }) => next()));
    expect(await connect().stream(['ROOTCA']).received.ended).toMatchObject({
      code: status.RESOURCE_EXHAUSTED,
      details: expect.stringContaining('limits.streamsPerUid'),
    });
    const [ended, cancelled, left] = open;
    ended?.call.end();
    cancelled?.call.cancel();
    left?.ask({ names: ['x'.repeat(5_000)] });
    await eventually(() => expect(budget.users).toBe(0));
  });
});

describe('a private key', () => {
  test('is never sent to a program other than the one that was attested', async () => {
    const { fill, connect, cache, facts } = await start();
    fill();
    const proxy = connect();
    const certificate = proxy.stream(['default']);
    const bundle = proxy.stream(['ROOTCA']);
    await Promise.all([certificate.next(), bundle.next()]);
    facts.program = '/bin/sh';
    cache.putSvids([webRenewed]);
    expect(await certificate.received.ended).toMatchObject({ code: status.PERMISSION_DENIED });
    await expect(certificate.next()).rejects.toThrow('ended');
    // The next call is the new program's, and attested as such.
    facts.selectors = [];
    await expect(proxy.fetch(['default'])).rejects.toMatchObject({ code: status.PERMISSION_DENIED });
    // What is no secret goes on.
    cache.setBundle(
      domain.bundle().withAuthority((await TestTrustDomain.create('example.org')).root.certificate),
    );
    await bundle.next();
  });

  test('is not sent when the identity is withdrawn while the program is looked at', async () => {
    const { fill, connect, cache } = await start();
    fill();
    const { received, next } = connect().stream(['default']);
    await next();
    cache.putSvids([webRenewed]);
    cache.setEntries([]);
    cache.setEntries([api]);
    cache.putSvids([apiSvid]);
    const after = await received.next();
    const { type } = secretsOf(after)[0]!;
    const chain =
      type?.$case === 'tlsCertificate' ? type.value.certificateChain?.specifier?.value.toString() : '';
    expect(chain).toBe(apiSvid.svid.leaf.toPem());
  });
});

describe('FetchSecrets', () => {
  test('answers with all it has of what was named', async () => {
    const { fill, connect } = await start();
    fill();
    const proxy = connect();
    const both = await proxy.fetch(['default', 'nonsense', 'ALL']);
    expect(secretsOf(both).map(({ name }) => name)).toEqual(['default', 'ALL']);
    expect([both.typeUrl, both.nonce]).toEqual([secretTypeUrl, '']);
    const one = await proxy.fetch(['default']);
    expect(one.versionInfo).toBe((await proxy.stream(['default']).next()).versionInfo);
    expect(both.versionInfo).not.toBe(one.versionInfo);
    expect((await proxy.fetch(['default', 'ALL'])).versionInfo).toBe(both.versionInfo);
  });

  test('answers with everything when nothing is named', async () => {
    const { fill, connect } = await start();
    fill();
    const response = await connect().fetch([]);
    expect(secretsOf(response).map(({ name }) => name)).toEqual([
      'spiffe://example.org',
      'spiffe://example.org/web',
    ]);
  });

  test.each([
    { name: 'before the first sync', prepare: () => undefined, names: ['default'], code: status.UNAVAILABLE },
    { name: 'without an entry', prepare: 'nobody', names: ['ALL'], code: status.PERMISSION_DENIED },
    { name: 'with an unsigned identity', prepare: 'unsigned', names: ['default'], code: status.UNAVAILABLE },
    { name: 'for unknown names only', prepare: 'filled', names: ['nonsense'], code: status.NOT_FOUND },
    {
      name: "for another's identity only",
      prepare: 'filled',
      names: ['spiffe://example.org/api'],
      code: status.NOT_FOUND,
    },
  ])('fails $name rather than send nothing', async ({ prepare, names, code }) => {
    const { fill, connect, cache } = await start();
    if (prepare === 'nobody') cache.setEntries([]);
    if (prepare === 'unsigned') cache.setEntries([web]);
    if (prepare === 'filled') fill();
    await expect(connect().fetch(names)).rejects.toMatchObject({ code });
  });

  test('refuses another type of resource', async () => {
    const { fill, connect } = await start();
    fill();
    await expect(connect().fetch(['default'], { typeUrl: 'x' })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
    });
  });
});

describe('the log', () => {
  test('says once for a connection why a name is held, as soon as that is known', async () => {
    const { fill, connect, cache, lines } = await start();
    const proxy = connect();
    const [first, second] = [proxy.stream(['nonsense', 'ROOTCA']), proxy.stream(['nonsense', 'ROOTCA'])];
    fill();
    await Promise.all([first.next(), second.next()]);
    cache.setEntries([{ ...web, hint: 'changed', revision: 1 }]);
    expect(lines).toEqual([
      expect.objectContaining({
        level: 'info',
        message: 'secret held; it is sent once it is there',
        resource: 'nonsense',
        reason: 'unknown name',
        pid: process.pid,
      }),
    ]);
  });

  test('says what a proxy refused, with its text made harmless', async () => {
    const { fill, connect, lines } = await start();
    fill();
    const { ask, next } = connect().stream(['ROOTCA'], { acknowledges: false });
    const { versionInfo } = await next();
    ask({ names: ['ROOTCA', 'default'], nonce: '1', error: 'no\u001b good' });
    await next();
    expect(lines).toEqual([
      expect.objectContaining({
        level: 'warn',
        resource: 'ROOTCA',
        version: versionInfo,
        refusal: 'no\\u{1b} good',
      }),
    ]);
  });
});

test("Envoy's own request of 61 KB is served", async () => {
  const { fill, connect } = await start();
  fill();
  const call = connect().client.makeBidiStreamRequest(streamSecretsPath, asBytes, asBytes);
  const received = new Received<Buffer>(call);
  call.write(discoveryRequest({ names: ['default'], node: envoyNode() }));
  expect((await received.next()).length).toBeGreaterThan(500);
});
