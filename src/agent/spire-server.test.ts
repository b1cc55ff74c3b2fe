import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WorkloadClient } from '../clients/workload-client.ts';
import { HealthService, State } from '../gen/signet/health/v1/health.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { UnixWorkloadAttestor } from '../plugins/workload-attestor/unix.ts';
import { callUnary, unixChannel } from '../rpc/grpc-client.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger } from '../testing/grpc-listener.ts';
import { runInTest } from '../testing/running-agent.ts';
import { SpireServer } from '../testing/spire-server.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { noAbort } from '../testing/test-server.ts';
import { agentConfigSchema } from './config.ts';

const trustDomain = TrustDomain.parse('example.org');
const uid = process.getuid?.() ?? 0;
const halfHourMs = 1_800_000;

/** A whole agent of a SPIRE server, both real but for the clock; it runs until the test ends. */
async function start(options: Omit<Parameters<typeof SpireServer.start>[0], 'clock'> = {}) {
  const clock = new FakeClock(Date.now() - 50 * 60_000);
  const server = await SpireServer.start({ ...options, clock });
  const dir = tempDir();
  writeFileSync(join(dir, 'bundle.pem'), server.authority.root.certificate.toPem());
  const config = parseConfig(
    {
      trustDomain: trustDomain.name,
      dataDir: dir,
      server: server.address,
      trustBundle: { file: join(dir, 'bundle.pem') },
      workloadSocket: join(dir, 'workload', 'api.sock'),
      adminSocket: join(dir, 'admin', 'admin.sock'),
      nodeAttestor: { join_token: {} },
    },
    agentConfigSchema,
    'test',
  );
  const token = server.newToken();
  const { log, lines } = memoryLogger();
  const unix = new UnixWorkloadAttestor({ clock, log }, { hashExecutable: false, maxExecutableBytes: 0 });
  const parts = {
    trustDomain,
    attestorType: 'join_token',
    attestor: {
      payload: async () => Buffer.from(token),
      answer: async (challenge: Uint8Array) => Buffer.concat([challenge, Buffer.from(' seen')]),
    },
    keyManager: await DiskKeyManager.open({ dataDir: dir }),
    workloadAttestors: new Map([['unix', unix]]),
    peerIdentification: 'SO_PEERPIDFD',
    clock,
    log,
  } as const;
  await runInTest(config, parts);
  const channel = unixChannel(config.adminSocket);
  onTestFinished(() => channel.close());
  const health = async () => {
    const { state, checks } = await callUnary(channel, HealthService.getHealth, {});
    return { state, text: checks.map(({ name, message }) => `${name}: ${message}`).join('\n') };
  };
  /** Rounds follow each other until the report is as wanted. */
  const until = (text: string, state: State = State.OK) =>
    eventually(async () => {
      await clock.advance(1_000);
      expect(await health()).toMatchObject({ state, text: expect.stringContaining(text) });
    });
  const problems = () => lines.filter(({ level }) => level === 'warn' || level === 'error');
  return { server, config, clock, until, problems };
}

const ids = (count: number, prefix = 'e') => Array.from({ length: count }, (_, i) => `${prefix}-${i}`);

describe('an agent of a SPIRE server', () => {
  it('keeps 1,200 entries and their certificates, over connections that end every now and then', async () => {
    const { server, until, problems } = await start({ maxConnectionAgeMs: 150, challenges: [] });
    server.putEntries(ids(1_200));
    await until('1200 registered for this node, 1200 with a certificate');
    expect(server.asked.map(({ length }) => length)).toEqual([500, 500, 200]);
    server.asked.length = 0;
    for (const id of ids(200)) server.entries.delete(id);
    server.putEntries(ids(30, 'new'));
    server.putEntries(ids(310).slice(300), { dnsNames: ['changed.example.org'] });
    await until('1030 registered for this node, 1030 with a certificate');
    expect(server.asked.map(({ length }) => length)).toEqual([40]);
    for (const id of [...server.entries.keys()].slice(500)) server.entries.delete(id);
    await until('500 registered for this node, 500 with a certificate');
    expect(server.violations).toEqual([]);
    expect(problems()).toEqual([]);
    expect(server.calls.filter((method) => method === 'PostStatus').length).toBeGreaterThan(0);
  });

  it('asks an older one, whose revisions have no time, only for what has changed', async () => {
    const { server, until } = await start({ isOld: true });
    server.putEntries(ids(600));
    await until('600 registered for this node, 600 with a certificate');
    server.asked.length = 0;
    server.putEntries(ids(601).slice(600));
    await until('601 registered for this node, 601 with a certificate');
    expect(server.asked).toEqual([['e-600']]);
    expect(server.violations).toEqual([]);
  });

  it('gives a workload its identity under a CA with an upstream authority', async () => {
    const { server, config, until } = await start({ hasUpstream: true });
    server.putEntries(['me'], { selectors: [{ type: 'unix', value: `uid:${uid}` }], hint: 'me' });
    await until('1 registered for this node, 1 with a certificate');
    const client = WorkloadClient.connect(`unix://${config.workloadSocket}`);
    onTestFinished(() => client.close());
    const { svids } = await client.fetchX509Svids({ signal: noAbort });
    expect(svids.map(({ svid }) => svid.id.path)).toEqual(['/workload/me']);
  });

  it('answers challenges and renews its certificate', async () => {
    const challenges = [Buffer.from('one'), Buffer.from('two')];
    const { server, clock, until, problems } = await start({ challenges });
    await until('0 registered');
    expect(server.answers.map(String)).toEqual(['one seen', 'two seen']);
    await clock.advance(halfHourMs);
    await eventually(() => expect(server.calls).toContain('RenewAgent'));
    await until('0 registered');
    expect(server.violations).toEqual([]);
    expect(problems()).toEqual([]);
  });

  it('that can be attested again is attested again instead of renewed', async () => {
    const { server, clock, until, problems } = await start({ reattestable: true });
    await until('0 registered');
    await clock.advance(halfHourMs);
    const attestations = () => server.calls.filter((method) => method === 'AttestAgent');
    await eventually(() => expect(attestations()).toHaveLength(2));
    await until('0 registered');
    expect(server.calls).not.toContain('RenewAgent');
    expect(server.violations).toEqual([]);
    expect(problems()).toEqual([]);
  });

  it('is not held up by a bundle that the server does not have', async () => {
    const { server, until } = await start();
    server.putEntries(['lonely'], { federatesWith: ['other.org'] });
    server.putEntries(ids(3));
    await until('4 registered for this node, 4 with a certificate', State.DEGRADED);
    await until('0 of 1 federated bundles: other.org: bundle not found', State.DEGRADED);
    expect(server.calls).toContain('GetFederatedBundle');
    expect(server.violations).toEqual([]);
  });
});
