import { expect, it } from 'vitest';
import type { EnvoyProcess } from './support/envoy.ts';
import { eventually } from './support/eventually.ts';
import { Load, LongLivedConnection } from './support/load.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Collects into `serials` what the Envoy presents now. */
async function noteSerials(envoy: EnvoyProcess, serials: Set<string>): Promise<void> {
  for (const { serial } of await envoy.ownCertificates()) serials.add(serial);
}

describeWith({ envoy: true, linux: true }, 'rotation under load', () => {
  // The root lives 48 s: its successor is published in time, takes over, and is without it in the end.
  it('replaces certificates and the root without one failed request', { timeout: 180_000 }, async () => {
    const sandbox = await testSandbox();
    const { agent, sidecars } = await startMesh(sandbox, {
      server: { authority: { caTtl: '48s', x509SvidTtl: '8s', agentTtl: '8s' } },
      oneRequestPerConnection: true,
    });
    const load = Load.start({ url: sidecars.url, perSecond: 25 });
    sandbox.onDispose(() => load.stop());
    const streams = await Promise.all([1, 2, 3].map(() => LongLivedConnection.open(`${sidecars.url}stream`)));
    sandbox.onDispose(() => {
      for (const stream of streams) stream.close();
    });
    const [firstRoot, ...otherRoots] = await sidecars.backend.trustedRoots();
    expect(otherRoots).toEqual([]);

    const used = { backend: new Set<string>(), frontend: new Set<string>() };
    const overlap = new Set<number>();
    await agent.process.until(
      'both Envoys without the first root',
      async () => {
        await noteSerials(sidecars.backend, used.backend);
        await noteSerials(sidecars.frontend, used.frontend);
        const trusted = await Promise.all(sidecars.all.map((envoy) => envoy.trustedRoots()));
        for (const { size } of trusted) overlap.add(size);
        // A failure decides the test: no need to go on.
        return load.failures.length > 0 || trusted.every((roots) => !roots.has(firstRoot!));
      },
      { timeoutMs: 90_000, intervalMs: 200 },
    );
    await load.waitForMore(50);
    await load.stop();

    expect(load.failures).toEqual([]);
    expect(load.succeeded).toBeGreaterThan(500);
    expect(overlap).toContain(2);
    // Every 3 to 5 seconds for 48 seconds.
    expect(used.backend.size).toBeGreaterThan(6);
    expect(used.frontend.size).toBeGreaterThan(6);
    for (const envoy of sidecars.all) {
      expect(await envoy.stats(/^sds\..*\.update_(rejected|failure)$/)).not.toContain(1);
    }
    // Opened with certificates that have expired since, under a root that is gone: open connections stay.
    for (const stream of streams) {
      expect(stream.end).toBeUndefined();
      const before = stream.received;
      await eventually('more of a long answer', () => stream.received > before);
    }
    // Renewed in time, and not more often than the other certificates.
    const renewals = agent.process.lines.filter((line) => line.includes('agent SVID renewed')).length;
    expect(renewals).toBeGreaterThan(3);
    expect(renewals).toBeLessThan(30);
  });
});
