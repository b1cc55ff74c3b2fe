import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { ServerClient } from '../src/clients/server-client.ts';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { HealthService } from '../src/gen/signet/health/v1/health.ts';
import { AgentService } from '../src/gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../src/gen/spire/api/server/bundle/v1/bundle.ts';
import { tlsChannel, unixChannel } from '../src/rpc/grpc-client.ts';
import { buildCsr } from '../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../src/x509/signature.ts';
import { type AttackedMethods, assault, badCalls, Dice, floods, garbage } from './support/attacks.ts';
import { eventually } from './support/eventually.ts';
import { emptySettings, frameType, grpcCall, http2Frame, preface } from './support/http2-frames.ts';
import { describeWith } from './support/parts.ts';
import type { RunningProcess } from './support/process.ts';
import {
  heapSnapshotOptions,
  liveHeapMebibytes,
  openDescriptors,
  residentMebibytes,
} from './support/resources.ts';
import { Sandbox } from './support/sandbox.ts';
import { type CertificateWithKey, SignetAgent, SignetServer } from './support/signet.ts';

const workloadMethods: AttackedMethods = {
  unary: '/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets',
  stream: '/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets',
};
const serverMethods: AttackedMethods = {
  unary: BundleService.getBundle.path,
  stream: AgentService.attestAgent.path,
};
const adminMethods: AttackedMethods = {
  unary: HealthService.getHealth.path,
  stream: AgentService.attestAgent.path,
};

/** To be set to the number of a failed run for the same attacks again. */
const seed = Number(process.env['SIGNET_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const attackers = 6;
/** What is alive afterwards that was not before: code compiled by then, caches, a few descriptors. */
const tolerated = { heapMebibytes: 12, residentMebibytes: 200, descriptors: 3 };
const workloadId = 'spiffe://example.org/me';

describeWith({ linux: true }, `hostile input (SIGNET_FUZZ_SEED=${seed})`, () => {
  let sandbox: Sandbox;
  let server: SignetServer;
  let agent: SignetAgent;
  let ofAWorkload: CertificateWithKey;
  let before: ReadonlyMap<RunningProcess, { heap: number; resident: number; descriptors: number }>;

  beforeAll(async () => {
    sandbox = await Sandbox.create();
    const former = process.env['NODE_OPTIONS'];
    process.env['NODE_OPTIONS'] = heapSnapshotOptions(sandbox.dir);
    sandbox.onDispose(() => {
      if (former === undefined) delete process.env['NODE_OPTIONS'];
      else process.env['NODE_OPTIONS'] = former;
    });
    server = await SignetServer.start(sandbox);
    agent = await SignetAgent.join(sandbox, { server });
    ofAWorkload = await server.mint('spiffe://example.org/attacker', { ttlSeconds: 3_600 });
    const selectors = [`unix:uid:${process.getuid?.()}`];
    await server.createEntry({ spiffeId: workloadId, parent: agent.alias, selectors });
    await agent.process.until('its identity', async () => (await fetchOwn()) === workloadId);
    const measured = await Promise.all(
      [server.process, agent.process].map(async (it) => [it, await resourcesOf(it)] as const),
    );
    before = new Map(measured);
  });
  afterAll(async () => await sandbox?.dispose());

  async function resourcesOf(process: RunningProcess) {
    const heap = await liveHeapMebibytes(process, sandbox.dir);
    return { heap, resident: residentMebibytes(process.pid), descriptors: openDescriptors(process.pid) };
  }

  const port = () => Number(server.address.split(':').at(-1));
  const tcp = () => connected(createConnection(at(port())), 'connect');
  const unix = (path: string) => connected(createConnection(path), 'connect');
  const tls = (identity?: CertificateWithKey) => {
    const options = { ...at(port()), ALPNProtocols: ['h2'], rejectUnauthorized: false, ...identity };
    return connected(connectTls(options), 'secureConnect');
  };
  const targets: Readonly<
    Record<string, { methods: AttackedMethods; connect: () => Promise<Socket>; hit: () => RunningProcess }>
  > = {
    "the server's port": { methods: serverMethods, connect: tcp, hit: () => server.process },
    'TLS without a certificate': { methods: serverMethods, connect: () => tls(), hit: () => server.process },
    'TLS with the certificate of a workload': {
      methods: serverMethods,
      connect: () => tls(ofAWorkload),
      hit: () => server.process,
    },
    "the server's admin socket": {
      methods: adminMethods,
      connect: () => unix(server.adminSocket),
      hit: () => server.process,
    },
    'the workload socket': {
      methods: workloadMethods,
      connect: () => unix(agent.socket),
      hit: () => agent.process,
    },
    "the agent's admin socket": {
      methods: adminMethods,
      connect: () => unix(agent.adminSocket),
      hit: () => agent.process,
    },
  };

  async function fetchOwn(): Promise<string | undefined> {
    const client = WorkloadClient.connect(`unix://${agent.socket}`);
    try {
      const { svids } = await client.fetchX509Svids({ signal: AbortSignal.timeout(10_000) });
      return svids[0]?.svid.id.toString();
    } finally {
      client.close();
    }
  }

  /** Attests as a new agent would. */
  async function attest(): Promise<string> {
    const signal = AbortSignal.timeout(10_000);
    const admin = unixChannel(server.adminSocket);
    const channel = tlsChannel({ address: server.address, tls: { verifyServer: () => undefined } });
    try {
      const agents = new AdminClient(admin).agents;
      const token = await agents.createJoinToken({ ttlSeconds: 60, agentId: undefined, signal });
      const csr = await buildCsr({ signer: createSoftwareSigner(await generatePrivateKey('ec-p256')) });
      const payload = Buffer.from(token.value);
      const answer = () => Promise.reject(new Error('there is no challenge'));
      const request = { type: 'join_token', payload, csr, answer, signal };
      return (await new ServerClient(channel).attestAgent(request)).id.toString();
    } finally {
      admin.close();
      channel.close();
    }
  }

  async function expectBothServe(): Promise<void> {
    expect(await attest()).toContain('/spire/agent/join_token/');
    // The streams of those who have gone count against this user until they are cleared away.
    await agent.process.until('its identity', async () => (await fetchOwn()) === workloadId);
    await server.waitUntilHealthy();
    await agent.waitUntilHealthy();
    const lines = [server, agent].flatMap(({ process }) => process.lines);
    // All that is said is said in the log, and nothing there is our fault.
    expect(lines.filter((line) => !line.startsWith('{"level":') || /"level":"error"/.test(line))).toEqual([]);
  }

  async function expectDescriptorsBack(hit: RunningProcess): Promise<void> {
    const most = (before.get(hit)?.descriptors ?? 0) + tolerated.descriptors;
    const isBack = () => openDescriptors(hit.pid) <= most;
    await eventually(`at most ${most} descriptors`, isBack, { timeoutMs: 30_000 });
  }

  const kinds = { garbage, 'bad calls': badCalls, 'a flood': floods };
  const rounds = Object.entries(kinds).flatMap(([kind, attacks]) =>
    Object.keys(targets).map((target) => ({ kind, attacks, target })),
  );
  it.each(rounds)('survives $kind on $target', async ({ attacks, target }) => {
    const { methods, connect, hit } = targets[target]!;
    for (const [name, attack] of Object.entries(attacks)) {
      const attackOnce = async (_: unknown, i: number) => {
        const dice = new Dice(seed + i);
        await assault(await connect(), attack(dice, methods), dice);
      };
      await Promise.all(Array.from({ length: attackers }, attackOnce));
      if (hit().exit !== undefined) throw new Error(`${name} ended it\n${hit().tail()}`);
    }
    await expectBothServe();
    await expectDescriptorsBack(hit());
  });

  it('survives TLS that is none, or stops half-way', async () => {
    const hello = await clientHello();
    const attackOnce = async (_: unknown, i: number) => {
      const dice = new Dice(seed + i);
      const bytes = dice.pick([
        () => hello.subarray(0, 1 + dice.below(hello.length - 1)),
        () => dice.mutate(hello),
        () => Buffer.concat([hello, dice.bytes(dice.below(2_000))]),
        () => Buffer.concat([Buffer.of(22, 3, 1, 0x40, 0), dice.bytes(0x4000)]),
        () => Buffer.concat([Buffer.of(20 + dice.below(5), 3, 3, 0, 2), dice.bytes(2)]),
      ])();
      // From the address of the honest: what is no attestation must not be held against theirs.
      await assault(await connected(createConnection(port(), '127.0.0.1'), 'connect'), bytes, dice);
    };
    await Promise.all(Array.from({ length: 200 }, attackOnce));
    await expectBothServe();
    await expectDescriptorsBack(server.process);
  });

  it('lets nobody wait for those who are slow', async () => {
    const half = http2Frame({ type: frameType.data, stream: 1, payload: Buffer.of(0, 0, 0, 9, 0, 1) });
    const open = async (connect: () => Promise<Socket>, bytes: Uint8Array) => {
      const socket = await connect();
      socket.write(bytes);
      socket.resume();
      sandbox.onDispose(() => socket.destroy());
      return socket;
    };
    const hello = await clientHello();
    const begun = (methods: AttackedMethods) =>
      Buffer.concat([preface, emptySettings, grpcCall(1, methods.unary), half, grpcCall(3, methods.stream)]);
    const slow = await Promise.all(
      Array.from({ length: 30 }, () => [
        open(tcp, Buffer.alloc(0)),
        open(tcp, hello.subarray(0, 50)),
        ...Object.entries(targets)
          .filter(([name]) => name !== "the server's port")
          .flatMap(([, { connect, methods }]) => [
            open(connect, Buffer.alloc(0)),
            open(connect, preface.subarray(0, 10)),
            open(connect, begun(methods)),
          ]),
      ]).flat(),
    );
    await expectBothServe();
    for (const socket of slow) socket.destroy();
    for (const { process } of [server, agent]) await expectDescriptorsBack(process);
  });

  it('keeps nothing of it in memory', async () => {
    for (const [process, then] of before) {
      const now = await resourcesOf(process);
      expect(now.heap - then.heap).toBeLessThan(tolerated.heapMebibytes);
      expect(now.resident - then.resident).toBeLessThan(tolerated.residentMebibytes);
    }
    await expectBothServe();
  });
});

/** From an address of their own: what they do wrong is held against it. */
function at(port: number) {
  return { host: '127.0.0.1', port, localAddress: '127.0.0.2' };
}

async function connected(socket: Socket, event: string): Promise<Socket> {
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    socket.once(event, () => resolve());
    socket.once('close', () => resolve());
  });
  return socket;
}

/** What a TLS client of this machine says first. */
async function clientHello(): Promise<Buffer> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  const client = connectTls({ host: '127.0.0.1', port, ALPNProtocols: ['h2'] });
  client.on('error', () => undefined);
  const [socket] = (await once(listener, 'connection')) as [Socket];
  const [bytes] = (await once(socket, 'data')) as [Buffer];
  for (const open of [client, socket, listener]) 'destroy' in open ? open.destroy() : open.close();
  return bytes;
}
