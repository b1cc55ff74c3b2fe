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
  // The root lives 36 s: its successor is published in time and takes over. Nothing outlives the root it is signed by,
  // so that what works when the first one has expired works by the second.
  it('replaces certificates and the root without one failed request', { timeout: 180_000 }, async () => {
    const sandbox = await testSandbox();
    const { agent, sidecars } = await startMesh(sandbox, {
      server: { authority: { caTtl: '36s', x509SvidTtl: '6s', agentTtl: '6s' } },
      agent: { svid: { firstWindow: [0.3, 0.5], renewWindow: [0.3, 0.5] } },
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
    const [, expiresAtMs] = firstRoot!;
    const troubles = () =>
      Promise.all(sidecars.all.map((envoy) => envoy.stats(/^sds\..*\.update_(rejected|failure)$/)));
    const troublesBefore = await troubles();
    expect(troublesBefore.map(({ size }) => size)).toEqual([4, 4]);

    const used = { backend: new Set<string>(), frontend: new Set<string>() };
    const overlap = new Set<number>();
    await agent.process.until(
      'the end of the first root',
      async () => {
        await noteSerials(sidecars.backend, used.backend);
        await noteSerials(sidecars.frontend, used.frontend);
        for (const envoy of sidecars.all) overlap.add((await envoy.trustedRoots()).size);
        // A failure decides the test: no need to go on.
        return load.failures.length > 0 || Date.now() > expiresAtMs;
      },
      { timeoutMs: 90_000, intervalMs: 200 },
    );
    expect(load.failures).toEqual([]);
    await load.waitForMore(50);
    await load.stop();
    expect(load.failures).toEqual([]);
    expect(load.succeeded).toBeGreaterThan(500);
    expect(overlap).toContain(2);
    // Every 2 to 3 seconds for 36 seconds.
    expect(used.backend.size).toBeGreaterThan(6);
    expect(used.frontend.size).toBeGreaterThan(6);
    expect(await troubles()).toEqual(troublesBefore);
    // Opened with certificates that have expired since, under a root that has, too: open connections stay.
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
