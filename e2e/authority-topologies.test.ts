import { expect, it } from 'vitest';
import { Company } from './support/company.ts';
import { eventually } from './support/eventually.ts';
import { Load } from './support/load.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import type { SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const slow = { timeoutMs: 60_000, intervalMs: 500 };
const times = { caTtl: '36s', x509SvidTtl: '6s', agentTtl: '6s' };

/** The certificates of the server, as `signet authority x509 show -o json` has them. */
interface Shown {
  readonly id: string;
  readonly role: string;
  readonly state: string;
  readonly rootId: string;
}

async function show(server: SignetServer): Promise<readonly Shown[]> {
  return JSON.parse(await server.admin('authority', 'x509', 'show', '-o', 'json')).authorities;
}

describeWith({ envoy: true, linux: true }, 'real Envoys', () => {
  it('take chains below a root of our own, and its rotation by hand, without one failed request', {
    timeout: 180_000,
  }, async () => {
    const sandbox = await testSandbox();
    const { server, sidecars } = await startMesh(sandbox, {
      server: {
        authority: { ...times, nameConstraints: true },
        keyManager: { memory: {} },
        upstreamAuthority: { local_root: { keyManager: { disk: {} }, rootTtl: '1d' } },
      },
      oneRequestPerConnection: true,
    });
    const load = Load.start({ url: sidecars.url, perSecond: 25 });
    sandbox.onDispose(() => load.stop());
    const root = (await show(server)).find(({ role }) => role === 'root')!;
    const active = async () =>
      (await show(server)).find(({ role, state }) => role === 'signing' && state === 'active')!;
    const { id: firstCa } = await active();
    await eventually('another signing certificate', async () => (await active()).id !== firstCa, slow);
    expect((await active()).rootId).toBe(root.id);

    const prepared = JSON.parse(
      await server.admin('authority', 'x509', 'prepare', '--new-root', '-o', 'json'),
    );
    // Refused until then.
    await eventually('agents that hold the new root', () =>
      server.admin('authority', 'x509', 'activate', prepared.id),
    );
    await server.admin('authority', 'x509', 'taint', root.id);
    await eventually(
      'nothing below the old root in use',
      () => server.admin('authority', 'x509', 'revoke', root.id),
      slow,
    );
    await eventually('Envoys that trust the new root only', async () =>
      (await Promise.all(sidecars.all.map((envoy) => envoy.trustedRoots()))).every(({ size }) => size === 1),
    );
    await load.waitForMore(50);
    await load.stop();
    expect(load.failures).toEqual([]);
  });

  it('take chains of three below a company CA', { timeout: 60_000 }, async () => {
    const sandbox = await testSandbox();
    const { sidecars } = await startMesh(sandbox, {
      server: { authority: times, upstreamAuthority: { disk: (await Company.create(sandbox)).config } },
      oneRequestPerConnection: true,
    });
    const load = Load.start({ url: sidecars.url, perSecond: 25 });
    sandbox.onDispose(() => load.stop());
    await load.waitForMore(200);
    await load.stop();
    expect(load.failures).toEqual([]);
  });
});
