import { describe, expect, it, onTestFinished } from 'vitest';
import { WorkloadClient } from '../clients/workload-client.ts';
import { State } from '../gen/signet/health/v1/health.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { silentLogger } from '../runtime/log.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { until } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { type Health, healthy, healthyInTime, startAgent as start } from '../testing/running-agent.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { noAbort } from '../testing/test-server.ts';
import { TestTrustDomain } from '../testing/trust-domain.ts';
import { type AgentParts, runAgent } from './agent.ts';

const trustDomain = TrustDomain.parse('example.org');
const uid = process.getuid?.() ?? 0;
const isOk = ({ state }: Health) => state === State.OK;

describe('an agent', () => {
  it('gives a workload of this host its identity, and takes it away', async () => {
    const running = await start();
    const { config, server, health } = running;
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
    await healthyInTime(running, ({ check }) => check.get('identities')?.message.includes('1 with') === true);
    const { svids } = await client.fetchX509Svids({ signal: noAbort });
    expect(svids.map(({ svid }) => svid.id.toString())).toEqual(['spiffe://example.org/me']);
    await server.admin.entries.delete([created!.entry.id], { signal: noAbort });
    await healthyInTime(running, ({ check }) => check.get('identities')?.message.startsWith('0 ') === true);
    await expect(client.fetchX509Svids({ signal: noAbort })).rejects.toMatchObject({
      code: 'permission-denied',
    });
  });
});

describe('an agent of a server with federated bundles', () => {
  it('gives them to those workloads whose entries federate, and to no other', async () => {
    const running = await start();
    const { config, server, clock, health } = running;
    await healthy(health, isOk);
    const call = { signal: noAbort };
    const other = (await TestTrustDomain.create('other.org')).bundle();
    await server.admin.bundles.set(other, call);
    const [agent] = await server.admin.agents.list(call);
    const base = { parentId: agent!.id, selectors: [`unix:uid:${uid}`] };
    const mine = testEntry({ ...base, id: 'mine', spiffeId: 'spiffe://example.org/me' });
    const others = {
      ...base,
      id: 'others',
      selectors: ['unix:uid:4000000000'],
      federatesWith: ['other.org'],
    };
    await server.admin.entries.create([mine, testEntry(others)], call);
    const client = WorkloadClient.connect(`unix://${config.workloadSocket}`);
    onTestFinished(() => client.close());
    await healthyInTime(
      running,
      ({ check }) => check.get('federation')?.message.startsWith('1 of 1') === true,
    );
    await healthyInTime(running, ({ check }) => check.get('identities')?.message.includes('2 with') === true);
    const bundles = async () => [...(await client.fetchX509Svids(call)).bundles.keys()].sort();
    expect(await bundles()).toEqual(['example.org']);
    await server.admin.entries.update({ ...mine, federatesWith: [other.trustDomain] }, call);
    await eventually(async () => {
      await clock.advance(1_000);
      expect(await bundles()).toEqual(['example.org', 'other.org']);
    });
    const update = await client.fetchX509Svids(call);
    expect(update.bundles.get('other.org')?.toPem()).toBe(other.toPem());
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
