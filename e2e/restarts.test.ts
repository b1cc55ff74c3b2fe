import { expect, it } from 'vitest';
import type { EnvoyProcess } from './support/envoy.ts';
import { Load } from './support/load.ts';
import { type Mesh, startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import type { Sandbox } from './support/sandbox.ts';
import { testSandbox } from './support/test-sandbox.ts';

async function underLoad(sandbox: Sandbox, mesh: Mesh): Promise<Load> {
  const load = Load.start({ url: mesh.sidecars.url, perSecond: 25 });
  sandbox.onDispose(() => load.stop());
  await load.waitForMore(10);
  return load;
}

async function serialOf(envoy: EnvoyProcess): Promise<string> {
  const [own] = await envoy.ownCertificates();
  if (own === undefined) throw new Error(`envoy ${envoy.identity.name} has no certificate`);
  return own.serial;
}

async function bundleVersionOf(envoy: EnvoyProcess): Promise<string> {
  const version = (await envoy.secretVersions()).get('ALL');
  if (version === undefined) throw new Error(`envoy ${envoy.identity.name} has no bundle`);
  return version;
}

/** Waits until every Envoy presents another certificate than in `before`. */
async function waitForOthers(envoys: readonly EnvoyProcess[], before: readonly string[]): Promise<void> {
  for (const [i, envoy] of envoys.entries()) {
    const isNew = async () => (await serialOf(envoy)) !== before[i];
    await envoy.until('another certificate', isNew, { timeoutMs: 20_000, intervalMs: 100 });
  }
}

describeWith({ envoy: true, linux: true }, 'restarts under load', () => {
  it('of the agent cost no request, whether it was stopped or killed', async () => {
    const sandbox = await testSandbox();
    const mesh = await startMesh(sandbox, { oneRequestPerConnection: true });
    const load = await underLoad(sandbox, mesh);
    const { all } = mesh.sidecars;
    const bundles = await Promise.all(all.map(bundleVersionOf));
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const serials = await Promise.all(all.map(serialOf));
      const exit = await mesh.agent.stop({ signal });
      expect(exit).toEqual(signal === 'SIGTERM' ? { code: 0, signal: null } : { code: null, signal });
      await load.waitForMore(25);
      // Told that it goes, Envoy says nothing about it.
      const complaints = all.flatMap(({ process }) =>
        process.lines.filter((line) => /gRPC config/.test(line)),
      );
      if (signal === 'SIGTERM') expect(complaints).toEqual([]);
      await mesh.agent.start();
      // Its keys live in memory only: it has new certificates made, and both Envoys come back for them.
      await waitForOthers(all, serials);
    }
    await load.waitForMore(25);
    await load.stop();

    expect(load.failures).toEqual([]);
    // The same bundle has the same version: it is a hash of the content.
    expect(await Promise.all(all.map(bundleVersionOf))).toEqual(bundles);
    for (const envoy of all) expect(await envoy.stat('sds.ALL.update_rejected')).toBe(0);
  });

  it('of the agent while there is no server cost no request; all comes back with the server', async () => {
    const sandbox = await testSandbox();
    const mesh = await startMesh(sandbox, { oneRequestPerConnection: true });
    const load = await underLoad(sandbox, mesh);
    const { all } = mesh.sidecars;
    const serials = await Promise.all(all.map(serialOf));
    await mesh.server.stop();
    await mesh.agent.stop();
    await mesh.agent.launch();
    await mesh.agent.process.waitForLine(/identity read from disk/);
    for (const envoy of all) {
      const isBack = async () => (await envoy.stat('sds.ALL.control_plane.connected_state')) === 1;
      await envoy.until('its stream', isBack);
    }
    await load.waitForMore(25);
    // The agent has nothing for them, and says nothing: what they hold stays in use.
    expect(await Promise.all(all.map(serialOf))).toEqual(serials);
    await mesh.server.start();
    await waitForOthers(all, serials);
    await load.waitForMore(25);
    await load.stop();
    expect(load.failures).toEqual([]);
  });

  it('of the server cost no request; rotation goes on once it is back', async () => {
    const sandbox = await testSandbox();
    const mesh = await startMesh(sandbox, {
      server: { authority: { caTtl: '5m', x509SvidTtl: '12s', agentTtl: '12s' } },
      // Early, so that there is time left to be without a server.
      agent: { svid: { firstWindow: [0.3, 0.4], renewWindow: [0.3, 0.4] } },
      oneRequestPerConnection: true,
    });
    const load = await underLoad(sandbox, mesh);
    const { agent, server, sidecars } = mesh;
    const logged = (text: string) => agent.process.lines.filter((line) => line.includes(text)).length;
    for (const [times, signal] of (['SIGTERM', 'SIGKILL'] as const).entries()) {
      await server.stop({ signal });
      await agent.process.until('the outage', () => logged('sync with the server failed') > times);
      await load.waitForMore(25);
      const serials = await Promise.all(sidecars.all.map(serialOf));
      await server.start();
      await agent.process.until('its end', () => logged('sync with the server works again') > times);
      await waitForOthers(sidecars.all, serials);
    }
    await load.waitForMore(25);
    await load.stop();
    expect(load.failures).toEqual([]);
    await agent.waitUntilHealthy();
  });
});
