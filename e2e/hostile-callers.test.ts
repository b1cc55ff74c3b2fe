import { createConnection } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Secret } from '../src/gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { DiscoveryResponse } from '../src/gen/envoy/service/discovery/v3/discovery.ts';
import { discoveryRequest, envoyNode } from '../src/testing/envoy-node.ts';
import { parsePemCertificates } from '../src/x509/certificate.ts';
import { fetchOnce } from './support/load.ts';
import { type Mesh, sidecarIds, startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { callAs } from './support/plain-calls.ts';
import { frame, type PlainAnswer, type PlainCall } from './support/plain-grpc.ts';
import { createProxyIdentity, type ProxyIdentity } from './support/proxy-identity.ts';
import { Sandbox } from './support/sandbox.ts';

const sds = '/envoy.service.secret.v3.SecretDiscoveryService';
const fetchX509Svid = '/SpiffeWorkloadAPI/FetchX509SVID';
const ownId = 'spiffe://example.org/attacker';
const trustDomain = 'spiffe://example.org';

/** gRPC status codes. */
const code = { invalid: 3, notFound: 5, denied: 7, exhausted: 8, unimplemented: 12, internal: 13 } as const;

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
const request = (fields: Parameters<typeof discoveryRequest>[0]) => base64(frame(discoveryRequest(fields)));

/** FetchSecrets with these names. */
function fetch(name: string, fields: Parameters<typeof discoveryRequest>[0]): PlainCall {
  return { name, path: `${sds}/FetchSecrets`, steps: [{ send: request(fields) }] };
}

/** Bytes in the place of a request. */
function raw(name: string, bytes: Uint8Array, path = `${sds}/FetchSecrets`): PlainCall {
  return { name, path, steps: [{ send: base64(bytes) }] };
}

/** The victim's identity, written in ways that might be taken for it. */
const disguises = [
  sidecarIds.frontend,
  sidecarIds.frontend.toUpperCase(),
  'spiffe://EXAMPLE.ORG/frontend',
  `${sidecarIds.frontend}/`,
  `${sidecarIds.frontend}?key=ec-p256`,
  `${sidecarIds.frontend}#`,
  `${sidecarIds.frontend}\0`,
  ` ${sidecarIds.frontend}`,
  'spiffe://example.org//frontend',
  'spiffe://example.org/attacker/../frontend',
  'spiffe://example.org/%66rontend',
  'spiffe://example.org:443/frontend',
  'spiffe://user@example.org/frontend',
  `${ownId},${sidecarIds.frontend}`,
  'hint:frontend',
  '*',
  '../frontend',
  '__proto__',
  'constructor',
];

describeWith({ envoy: true, linux: true }, 'a hostile process on the workload socket', () => {
  let sandbox: Sandbox;
  let mesh: Mesh;
  let attacker: ProxyIdentity;
  let nobody: ProxyIdentity;
  let asAttacker: (calls: readonly PlainCall[]) => Promise<ReadonlyMap<string, PlainAnswer>>;
  let asNobody: typeof asAttacker;

  beforeAll(async () => {
    sandbox = await Sandbox.create();
    mesh = await startMesh(sandbox, { agent: { limits: { connectionsPerUid: 500 } } });
    attacker = await createProxyIdentity(sandbox, 'attacker', process.execPath);
    nobody = await createProxyIdentity(sandbox, 'nobody', process.execPath);
    asAttacker = (calls) => call(attacker, calls);
    asNobody = (calls) => call(nobody, calls);
    const { selectors } = attacker;
    await mesh.server.createEntry({ spiffeId: ownId, parent: mesh.agent.alias, selectors });
    await mesh.agent.process.until('the own certificate', async () => {
      const answers = await asAttacker([fetch('own', { names: ['default'] })]);
      return answers.get('own')?.messages.length === 1;
    });
  });
  afterAll(async () => await sandbox?.dispose());

  /** Makes the calls in a process of its own. */
  async function call(
    who: ProxyIdentity,
    calls: readonly PlainCall[],
  ): Promise<ReadonlyMap<string, PlainAnswer>> {
    const answers = await callAs(sandbox, who, { socket: mesh.agent.socket, calls });
    for (const [name, { messages }] of answers) for (const message of messages) expectNoLeak(name, message);
    return answers;
  }

  /** Whatever was asked: no certificate of anybody else may be in the answer. */
  function expectNoLeak(call: string, message: string): void {
    const bytes = Buffer.from(message, 'base64');
    for (const victim of Object.values(sidecarIds))
      expect([call, bytes.includes(victim)]).toEqual([call, false]);
  }

  /** The secrets of an answer: for a certificate whose it is, else `trust`. */
  function secretsIn(answer: PlainAnswer | undefined): Readonly<Record<string, string | undefined>> {
    const responses = (answer?.messages ?? []).map((m) => DiscoveryResponse.decode(Buffer.from(m, 'base64')));
    const secrets = responses.flatMap(({ resources }) => resources.map(({ value }) => Secret.decode(value)));
    return Object.fromEntries(secrets.map((secret) => [secret.name, subjectOf(secret)]));
  }

  function subjectOf({ type }: Secret): string | undefined {
    if (type?.$case !== 'tlsCertificate') return 'trust';
    const source = type.value.certificateChain?.specifier;
    if (source?.$case !== 'inlineBytes' && source?.$case !== 'inlineString') return undefined;
    return parsePemCertificates(Buffer.from(source.value).toString())[0]?.uris[0];
  }

  async function expectHealthy(): Promise<void> {
    expect(mesh.agent.process.exit).toBeUndefined();
    await mesh.agent.waitUntilHealthy({ timeoutMs: 10_000 });
    expect((await fetchOnce(mesh.sidecars.url)).status).toBe(200);
    const log = mesh.agent.process.lines.join('\n');
    expect(log).not.toMatch(/uncaught|unhandled|\n\s+at .*\(|PRIVATE KEY/i);
  }

  it('gets only its own identity, whatever it asks for', async () => {
    const answers = await asAttacker([
      fetch('everything', {}),
      ...disguises.map((name) => fetch(name, { names: [name] })),
      fetch('node of the victim', { names: ['default'], node: envoyNode({ id: 'frontend-sidecar' }) }),
      {
        ...fetch('headers', { names: ['default', sidecarIds.frontend] }),
        headers: {
          'x-forwarded-client-cert': `URI=${sidecarIds.frontend}`,
          'x-forwarded-for': '127.0.0.1',
          'workload.spiffe.io': 'true',
          authorization: `Bearer ${sidecarIds.frontend}`,
          'x-spiffe-id': sidecarIds.frontend,
        },
      },
    ]);
    expect(secretsIn(answers.get('everything'))).toEqual({ [trustDomain]: 'trust', [ownId]: ownId });
    expect(secretsIn(answers.get('node of the victim'))).toEqual({ default: ownId });
    expect(secretsIn(answers.get('headers'))).toEqual({ default: ownId });
    for (const name of disguises)
      expect(answers.get(name)).toMatchObject({ status: code.notFound, messages: [] });
    await expectHealthy();
  });

  it('waits for ever on a stream for what is not its own', async () => {
    const names = [...disguises.filter((name) => !name.includes('\0')), 'ALL'];
    const stream = await asAttacker([
      {
        name: 'stream',
        path: `${sds}/StreamSecrets`,
        // Sent in the order asked for: when `default` is there, all that could come before it has come.
        steps: [
          { send: request({ names }), until: 1 },
          { send: request({ names: [...names, 'default'], nonce: '1' }), until: 2 },
        ],
        isStream: true,
      },
      { name: 'all', path: `${sds}/StreamSecrets`, steps: [{ send: request({}), until: 2 }], isStream: true },
    ]);
    expect(secretsIn(stream.get('stream'))).toEqual({ ALL: 'trust', default: ownId });
    expect(stream.get('stream')?.status).toBeUndefined();
    expect(secretsIn(stream.get('all'))).toEqual({ [trustDomain]: 'trust', [ownId]: ownId });
    await expectHealthy();
  });

  it('without a registration entry gets nothing at all', async () => {
    const security = { 'workload.spiffe.io': 'true' };
    const empty = { path: fetchX509Svid, steps: [{ send: base64(frame(Buffer.alloc(0))) }] };
    const answers = await asNobody([
      fetch('everything', {}),
      fetch('default', { names: ['default', 'ROOTCA', 'ALL', trustDomain, sidecarIds.frontend] }),
      { name: 'x509', ...empty, headers: security },
      { name: 'no header', ...empty },
    ]);
    const denied = { status: code.denied, messages: [] };
    expect(answers.get('everything')).toMatchObject(denied);
    expect(answers.get('default')).toMatchObject(denied);
    expect(answers.get('x509')).toMatchObject(denied);
    expect(answers.get('no header')).toMatchObject({ status: code.invalid, messages: [] });
    await expectHealthy();
  });

  describe('is refused, and the agent goes on, when it sends', () => {
    const lengthLie = Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    const many = Array.from({ length: 5_000 }, (_, i) => `spiffe://example.org/${i}`);
    it.each<{ call: PlainCall; status?: number }>([
      {
        call: fetch('another type_url', { names: ['default'], typeUrl: 'type.googleapis.com/x.Cluster' }),
        status: code.invalid,
      },
      { call: raw('garbage', frame(Buffer.from('ff00fe01aa55', 'hex'))), status: code.invalid },
      {
        call: raw('garbage on a stream', frame(Buffer.alloc(4_096, 0xff)), `${sds}/StreamSecrets`),
        status: code.invalid,
      },
      { call: fetch('a name of 100 KB', { names: ['x'.repeat(100_000)] }), status: code.invalid },
      { call: fetch('a name of 2 MB', { names: ['x'.repeat(2_000_000)] }), status: code.exhausted },
      { call: fetch('5,000 names', { names: many }), status: code.exhausted },
      { call: fetch('names that are no text', { names: ['\ud800', '\u202e', ''] }), status: code.notFound },
      { call: raw('a length that is a lie', lengthLie) },
      { call: raw('a compressed message that is none', Buffer.from([1, 0, 0, 0, 3, 9, 9, 9])) },
      { call: raw('half a frame', Buffer.from([0, 0])) },
      { call: raw('nothing', Buffer.alloc(0)) },
      {
        call: raw('an unknown method', frame(Buffer.alloc(0)), `${sds}/StealSecrets`),
        status: code.unimplemented,
      },
      {
        call: raw('a path of dots', frame(Buffer.alloc(0)), '/../../etc/passwd'),
        status: code.unimplemented,
      },
      { call: { ...fetch('another content type', {}), headers: { 'content-type': 'text/html' } } },
      { call: { ...fetch('a deadline that is none', {}), headers: { 'grpc-timeout': '99999999999999H' } } },
      { call: { ...fetch('a header of 200 KB', {}), headers: { 'x-big': 'x'.repeat(200_000) } } },
    ])('$call.name', async ({ call, status }) => {
      const answer = (await asAttacker([call])).get(call.name);
      if (status !== undefined) expect(answer).toMatchObject({ status, messages: [] });
      else expect(answer?.status === 0 ? secretsIn(answer) : {}).not.toHaveProperty(sidecarIds.frontend);
      expect(answer?.error).not.toBe('no answer');
      await expectHealthy();
    });

    it.each([
      { name: 'HTTP/1.1', bytes: Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n') },
      { name: 'TLS', bytes: Buffer.from('16030100a5010000a10303', 'hex') },
      { name: 'zeros', bytes: Buffer.alloc(100_000) },
    ])('$name', async ({ bytes }) => {
      const socket = createConnection(mesh.agent.socket);
      const ended = new Promise<void>((resolve) => socket.on('close', () => resolve()));
      socket.on('error', () => undefined);
      socket.write(bytes);
      socket.resume();
      await ended;
      await expectHealthy();
    });
  });

  it('does not shut out others with many connections', async () => {
    const open = Array.from({ length: 600 }, () => createConnection(mesh.agent.socket));
    sandbox.onDispose(() => {
      for (const socket of open) socket.destroy();
    });
    let refused = 0;
    for (const socket of open) {
      socket.on('error', () => undefined);
      socket.on('close', () => {
        refused += 1;
      });
    }
    // One user may have 500; as root here, the Envoys and the attacker are other users.
    await mesh.agent.process.waitForLine(/too many connections are open/);
    await mesh.agent.process.until('those beyond the limit refused', () => refused >= 100);
    expect(refused).toBeLessThan(200);
    if (process.getuid?.() === 0) {
      const answers = await asAttacker([fetch('own', { names: ['default'] })]);
      expect(secretsIn(answers.get('own'))).toEqual({ default: ownId });
    }
    await expectHealthy();
  });
});
