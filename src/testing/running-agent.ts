import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { type AgentParts, runAgent } from '../agent/agent.ts';
import { type AgentConfig, agentConfigSchema } from '../agent/config.ts';
import { HealthService } from '../gen/signet/health/v1/health.ts';
import type { AgentNodeAttestor, ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { UnixWorkloadAttestor } from '../plugins/workload-attestor/unix.ts';
import { callUnary, unixChannel } from '../rpc/grpc-client.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { silentLogger } from '../runtime/log.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { eventually } from './eventually.ts';
import { FakeClock } from './fake-clock.ts';
import { TcpGate } from './tcp-gate.ts';
import { tempDir } from './temp-dir.ts';
import { noAbort, TestServer } from './test-server.ts';

const trustDomain = TrustDomain.parse('example.org');

/** Both halves of a node attestor in which every node is `/spire/agent/test/1` and may attest as often as it likes. */
export const reattestable: { readonly agent: AgentNodeAttestor; readonly server: ServerNodeAttestor } = {
  agent: {
    payload: async () => Buffer.from('proof'),
    answer: () => Promise.reject(new Error('there is no challenge')),
  },
  server: {
    verify: async () => ({ agentPath: '/spire/agent/test/1', selectors: [], canReattest: true }),
  },
};

/** A whole agent of a whole server, both real but for the clock; it runs until the test ends. */
export async function startAgent(
  options: {
    readonly token?: string;
    readonly peerIdentification?: AgentParts['peerIdentification'];
    /** Instead of join_token. */
    readonly attestor?: typeof reattestable;
    /** Besides what every test agent has. */
    readonly settings?: Readonly<Record<string, unknown>>;
    /** Besides what every test server has. */
    readonly serverSettings?: Readonly<Record<string, unknown>>;
  } = {},
) {
  // In the past, so that certificates made by it later are valid by the clock of the machine too.
  const clock = new FakeClock(Date.now() - 50 * 60_000);
  const { attestor, serverSettings = {} } = options;
  const server = await TestServer.start({
    clock,
    settings: serverSettings,
    ...(attestor === undefined ? {} : { attestors: { test: attestor.server } }),
  });
  const gate = await TcpGate.before(server.address);
  const dir = tempDir();
  const bundleFile = join(dir, 'bundle.pem');
  writeFileSync(bundleFile, (await server.admin.bundles.getOwn({ signal: noAbort })).toPem());
  const config = parseConfig(
    {
      trustDomain: trustDomain.name,
      dataDir: dir,
      server: gate.address,
      trustBundle: { file: bundleFile },
      workloadSocket: join(dir, 'workload', 'api.sock'),
      adminSocket: join(dir, 'admin', 'admin.sock'),
      nodeAttestor: { join_token: {} },
      ...options.settings,
    },
    agentConfigSchema,
    'test',
  );
  const { value } = await server.admin.agents.createJoinToken({ ttlSeconds: 600, signal: noAbort });
  const common = { clock, log: silentLogger };
  const unix = new UnixWorkloadAttestor(common, { hashExecutable: false, maxExecutableBytes: 0 });
  const parts: AgentParts = {
    ...common,
    trustDomain,
    attestorType: attestor === undefined ? 'join_token' : 'test',
    attestor: attestor?.agent ?? new JoinTokenAgentAttestor({ token: options.token ?? value }),
    keyManager: await DiskKeyManager.open({ dataDir: dir }),
    workloadAttestors: new Map([['unix', unix]]),
    peerIdentification: options.peerIdentification ?? 'SO_PEERPIDFD',
  };
  await runInTest(config, parts);
  const channel = unixChannel(config.adminSocket);
  onTestFinished(() => channel.close());
  const health = async () => {
    const report = await callUnary(channel, HealthService.getHealth, {});
    return { ...report, check: new Map(report.checks.map((check) => [check.name, check])) };
  };
  return { config, server, gate, clock, health };
}

/** An agent's health report, with its checks by name. */
export type Health = Awaited<ReturnType<Awaited<ReturnType<typeof startAgent>>['health']>>;

/** Asks until the report is as wanted. */
export async function healthy(
  health: () => Promise<Health>,
  isSo: (report: Health) => boolean,
): Promise<Health> {
  for (;;) {
    const report = await health();
    if (isSo(report)) return report;
  }
}

/** As `healthy`, while time passes: rounds follow each other, for the one that runs right now may have asked too early. */
export function healthyInTime(
  { health, clock }: { readonly health: () => Promise<Health>; readonly clock: FakeClock },
  isSo: (report: Health) => boolean,
): Promise<Health> {
  return eventually(async () => {
    await clock.advance(1_000);
    const report = await health();
    expect(report).toSatisfy(isSo);
    return report;
  });
}

/** Runs an agent until the test ends; returns once its sockets are open. Throws what made it stop before. */
export async function runInTest(config: AgentConfig, parts: AgentParts): Promise<void> {
  const stopping = new AbortController();
  const ready = Promise.withResolvers<void>();
  const running = runAgent(config, parts, { signal: stopping.signal, onReady: ready.resolve });
  running.catch(ready.reject);
  onTestFinished(() => {
    stopping.abort();
    return running;
  });
  await ready.promise;
}
