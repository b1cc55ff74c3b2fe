import { expect, it } from 'vitest';
import type { EnvoyProcess } from './support/envoy.ts';
import { fetchOnce } from './support/load.ts';
import { createSidecarIdentities, registerSidecars, Sidecars, startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** What tells a push from none: for each secret its version and how often it was taken. */
async function pushes(envoy: EnvoyProcess): Promise<Readonly<Record<string, number>>> {
  const stats = await envoy.stats(/^sds\..*\.(update_(attempt|success|rejected)|version)$/);
  return Object.fromEntries(stats);
}

describeWith({ envoy: true, linux: true }, 'registration entries', () => {
  it('heal an Envoy that has asked before, within 6 s and without a restart', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox);
    const agent = await SignetAgent.join(sandbox, { server, config: { syncInterval: '5s' } });
    const start = async (prefix: string, initialFetchTimeout: string) => {
      const who = await createSidecarIdentities(sandbox, prefix);
      const agentSocket = agent.socket;
      return { who, sidecars: await Sidecars.start(sandbox, who, { agentSocket, initialFetchTimeout }) };
    };
    const patient = await start('patient-', '0s');
    const hasty = await start('hasty-', '0.1s');
    const pairs = [patient, hasty];
    const envoys = pairs.flatMap(({ sidecars }) => sidecars.all);
    await agent.process.until('all questions', () => {
      const held = agent.process.lines.filter((line) => line.includes('"reason":"no registration entry"'));
      return held.length === 2 * envoys.length;
    });
    // Closed until the secrets are there, or, after the timeout, open but of no use.
    await expect(fetchOnce(patient.sidecars.url)).rejects.toThrow('ECONNREFUSED');
    for (const envoy of hasty.sidecars.all) await envoy.waitUntilReady();
    expect((await fetchOnce(hasty.sidecars.url)).status).toBe(503);
    const inbound = `http://127.0.0.1:${hasty.sidecars.inboundPort}/`;
    await expect(fetchOnce(inbound)).rejects.toThrow(/ECONNRESET|hang up/);

    await Promise.all(pairs.map(({ who }) => registerSidecars(server, agent.alias, who)));
    const createdAt = performance.now();
    await Promise.all(pairs.map(({ sidecars }) => sidecars.firstAnswer()));
    expect(performance.now() - createdAt).toBeLessThan(6_000);
    expect(envoys.map((envoy) => envoy.process.exit)).toEqual([undefined, undefined, undefined, undefined]);
  });

  it('of others cause no push', async () => {
    const { server, agent, sidecars, who, entries } = await startMesh(await testSandbox(), {
      agent: { log: { level: 'debug' } },
    });
    const { backend, frontend } = sidecars;
    const signed = async (id: string, times: number) => {
      const isIt = (line: string) => line.includes('SVID signed') && line.includes(`"${id}"`);
      await agent.process.until(`${id} signed`, () => agent.process.lines.filter(isIt).length >= times);
    };
    const before = [await pushes(backend), await pushes(frontend)];
    const parent = agent.alias;

    const otherId = 'spiffe://example.org/other';
    const other = await server.createEntry({ spiffeId: otherId, parent, selectors: ['unix:uid:64999'] });
    await signed(otherId, 1);
    await server.admin('entry', 'update', '--id', other, '--x509-ttl', '30m');
    await signed(otherId, 2);
    await server.deleteEntry(other);
    // Of the same workload, but younger: its default identity stays what it is.
    const secondId = 'spiffe://example.org/second';
    await server.createEntry({ spiffeId: secondId, parent, selectors: who.backend.selectors });
    await signed(secondId, 1);
    expect([await pushes(backend), await pushes(frontend)]).toEqual(before);

    // One that does concern the backend arrives, and only that: the agent had seen all those before.
    await server.admin('entry', 'update', '--id', entries.backend, '--x509-ttl', '30m');
    await backend.until(
      'a new certificate',
      async () => (await pushes(backend))['sds.default.version'] !== before[0]?.['sds.default.version'],
    );
    const after = await pushes(backend);
    expect(after['sds.default.update_success']).toBe(before[0]!['sds.default.update_success']! + 1);
    expect(after['sds.ALL.update_success']).toBe(before[0]!['sds.ALL.update_success']!);
    expect(await pushes(frontend)).toEqual(before[1]);
  });
});
