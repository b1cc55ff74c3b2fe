import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WorkloadClient } from '../clients/workload-client.ts';
import { HealthService, State } from '../gen/signet/health/v1/health.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { UnixWorkloadAttestor } from '../plugins/workload-attestor/unix.ts';
import { callUnary, unixChannel } from '../rpc/grpc-client.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { silentLogger } from '../runtime/log.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { until } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { TcpGate } from '../testing/tcp-gate.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { type AgentParts, runAgent } from './agent.ts';
import { agentConfigSchema } from './config.ts';

const trustDomain = TrustDomain.parse('example.org');
const uid = process.getuid?.() ?? 0;

/** A whole agent of a whole server, both real but for the clock; it runs until the test ends. */
async function start(
  options: { readonly token?: string; readonly peerIdentification?: AgentParts['peerIdentification'] } = {},
) {
  // In the past, so that certificates made by it later are valid by the clock of the machine too.
  const clock = new FakeClock(Date.now() - 50 * 60_000);
  const server = await TestServer.start({ clock });
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
    attestorType: 'join_token',
    attestor: new JoinTokenAgentAttestor({ token: options.token ?? value }),
    keyManager: await DiskKeyManager.open({ dataDir: dir }),
    workloadAttestors: new Map([['unix', unix]]),
    peerIdentification: options.peerIdentification ?? 'SO_PEERPIDFD',
  };
  const stopping = new AbortController();
  const ready = Promise.withResolvers<void>();
  const running = runAgent(config, parts, { signal: stopping.signal, onReady: ready.resolve });
  running.catch(ready.reject);
  onTestFinished(() => {
    stopping.abort();
    return running;
  });
  await ready.promise;
  const channel = unixChannel(config.adminSocket);
  onTestFinished(() => channel.close());
  const health = async () => {
    const report = await callUnary(channel, HealthService.getHealth, {});
    return { ...report, check: new Map(report.checks.map((check) => [check.name, check])) };
  };
  return { config, server, gate, clock, health };
}

type Health = Awaited<ReturnType<Awaited<ReturnType<typeof start>>['health']>>;

/** Asks until the report is as wanted. */
async function healthy(health: () => Promise<Health>, isSo: (report: Health) => boolean): Promise<Health> {
  for (;;) {
    const report = await health();
    if (isSo(report)) return report;
  }
}

const isOk = ({ state }: Health) => state === State.OK;

describe('an agent', () => {
  it('gives a workload of this host its identity, and takes it away', async () => {
    const { config, server, clock, health } = await start();
    await healthy(health, isOk);
    const [agent] = await server.admin.agents.list({ signal: noAbort });
    const [created] = await server.admin.entries.create(
      [
        {
          ...testEntry({ id: '', spiffeId: 'spiffe://example.org/me', selectors: [`unix:uid:${uid}`] }),
          parentId: agent!.id,
        },
      ],
      { signal: noAbort },
    );
    const client = WorkloadClient.connect(`unix://${config.workloadSocket}`);
    onTestFinished(() => client.close());
    await expect(client.fetchX509Svids({ signal: noAbort })).rejects.toMatchObject({
      code: 'permission-denied',
    });
    await clock.advance(config.syncInterval);
    await healthy(health, ({ check }) => check.get('identities')?.message.includes('1 with') === true);
    const { svids } = await client.fetchX509Svids({ signal: noAbort });
    expect(svids.map(({ svid }) => svid.id.toString())).toEqual(['spiffe://example.org/me']);
    await server.admin.entries.delete([created!.entry.id], { signal: noAbort });
    await clock.advance(config.syncInterval);
    await healthy(health, ({ check }) => check.get('identities')?.message.startsWith('0 ') === true);
    await expect(client.fetchX509Svids({ signal: noAbort })).rejects.toMatchObject({
      code: 'permission-denied',
    });
  });
});

describe('the health report of an agent', () => {
  it('is well when it is attested and in sync', async () => {
    const { health, server } = await start();
    const report = await healthy(health, isOk);
    expect(report).toMatchObject({ role: 'agent', trustDomain: 'example.org' });
    expect(report.checks.map(({ name }) => name)).toEqual([
      'identity',
      'server',
      'identities',
      'caller identification',
    ]);
    const [agent] = await server.admin.agents.list({ signal: noAbort });
    expect(report.check.get('identity')?.message).toContain(agent!.id.toString());
    expect(report.checks.map(({ nextStep }) => nextStep)).toEqual(['', '', '', '']);
  });

  it('is not ready without an identity, and says why and what to do', async () => {
    const { health } = await start({ token: 'no-such-token' });
    const report = await healthy(
      health,
      ({ check }) => check.get('identity')?.message.includes('join token') === true,
    );
    expect(report.state).toBe(State.NOT_READY);
    expect(report.check.get('identity')).toMatchObject({ state: State.NOT_READY });
    expect(report.check.get('identity')?.nextStep).toContain('signet token create');
    expect(report.check.get('server')).toMatchObject({ state: State.NOT_READY });
    expect(report.check.get('server')?.message).toContain('never in sync');
  });

  it('is degraded once the server has been gone for several rounds', async () => {
    const { health, gate, clock } = await start();
    await healthy(health, isOk);
    await gate.close();
    await clock.advance(30_000);
    const report = await healthy(health, ({ state }) => state === State.DEGRADED);
    expect(report.check.get('server')?.message).toMatch(/^last in sync \d\d s ago: ./);
    expect(report.check.get('identity')?.state).toBe(State.OK);
  });

  it('says when callers cannot be named without a race', async () => {
    const { health } = await start({ peerIdentification: 'pidfd_open' });
    const { check } = await healthy(health, ({ check }) => check.get('server')?.state === State.OK);
    expect(check.get('caller identification')).toMatchObject({ state: State.OK });
    expect(check.get('caller identification')?.message).toContain('Linux 6.5');
  });
});

it('an agent that cannot open its sockets ends with the reason', async () => {
  const { config } = await start();
  const clock = new FakeClock();
  const parts: AgentParts = {
    trustDomain,
    attestorType: 'join_token',
    attestor: new JoinTokenAgentAttestor({}),
    keyManager: await DiskKeyManager.open({ dataDir: tempDir() }),
    workloadAttestors: new Map(),
    peerIdentification: 'SO_PEERPIDFD',
    clock,
    log: silentLogger,
  };
  const second = runAgent({ ...config, dataDir: tempDir() }, parts, {
    signal: new AbortController().signal,
    onReady: () => undefined,
  });
  await expect(second).rejects.toMatchObject({
    code: 'failed-precondition',
    message: expect.stringContaining(config.workloadSocket),
  });
  await until(() => clock.sleepers === 0, 'everything has stopped');
});
