import { expect, it } from 'vitest';
import { compileFaultyModule, faultyHsm } from '../src/testing/faulty-hsm.ts';
import { describeWithSoftHsm } from '../src/testing/soft-hsm.ts';
import { eventually } from './support/eventually.ts';
import { hsmFolder, hsmIn, keyManagerOf, moduleProcessOf, takeTokenAway } from './support/hsm.ts';
import { Load } from './support/load.ts';
import { type Mesh, startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import type { Sandbox } from './support/sandbox.ts';
import { type SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** How long the token is away; longer than `signTimeout` where that matters. */
const outageMs = 30_000;
/** Where every certificate comes from the token none may end meanwhile, and a test's certificates live 25 s. */
const directOutageMs = 10_000;
/** How soon after its return signatures are made again. */
const recoveryMs = 5_000;
const slow = { timeoutMs: 60_000, intervalMs: 100 };

const show = (server: SignetServer) => server.call(({ authorities }, signal) => authorities.show({ signal }));

/** The signing certificates of a state; several only when they are old. */
async function signing(server: SignetServer, state: 'prepared' | 'active' | 'old') {
  const { authorities } = await show(server);
  return authorities.filter((one) => one.role === 'signing' && one.state === state);
}

async function active(server: SignetServer) {
  const [found] = await signing(server, 'active');
  if (found === undefined) throw new Error('no signing certificate is active');
  return found;
}

/** Makes another signing certificate, below a new root if so asked, and lets it sign once both Envoys trust it. */
async function rotate({ server, sidecars }: Mesh, options: { readonly newRoot: boolean }): Promise<void> {
  const { id } = await server.call(({ authorities }, signal) => authorities.prepare({ ...options, signal }));
  const isKnown = async () => (await show(server)).details?.agentsBehind === 0;
  await server.process.until('agents with the new root', isKnown);
  const roots = new Set(
    (await show(server)).authorities.map((one) => (one.rootId === '' ? one.id : one.rootId)),
  );
  for (const envoy of sidecars.all) {
    await envoy.until('all roots', async () => (await envoy.trustedRoots()).size === roots.size);
  }
  await server.call(({ authorities }, signal) => authorities.activate(id, { signal }));
}

const serials = ({ sidecars }: Mesh) =>
  Promise.all(sidecars.all.map(async (envoy) => (await envoy.ownCertificates())[0]?.serial));

/** Waits until both Envoys present other certificates than in `before`. */
async function others(mesh: Mesh, before: readonly unknown[]): Promise<void> {
  await mesh.agent.process.until(
    'other certificates in both Envoys',
    async () => (await serials(mesh)).every((serial, i) => serial !== before[i]),
    slow,
  );
}

/** Failed handshakes that the Envoys have counted, by name of the counter. */
async function failedHandshakes({ sidecars }: Mesh) {
  const counters = /ssl\.(connection_error|fail_verify_(error|no_cert|san|cert_hash))$/;
  const counted = await Promise.all(sidecars.all.map((envoy) => envoy.stats(counters)));
  return counted.map((stats) => Object.fromEntries(stats));
}

/** A steady load whose end says whether anything failed meanwhile. */
async function underLoad(sandbox: Sandbox, mesh: Mesh) {
  const before = await failedHandshakes(mesh);
  const load = Load.start({ url: mesh.sidecars.url, perSecond: 25 });
  sandbox.onDispose(() => load.stop());
  await load.waitForMore(10);
  return {
    /** Ends it after some more requests. */
    async end() {
      await load.waitForMore(50);
      await load.stop();
      expect(load.failures).toEqual([]);
      expect(await failedHandshakes(mesh)).toEqual(before);
      expect(Object.keys(before[0]!).length).toBeGreaterThan(0);
    },
  };
}

/** Whether the server says that its token is away, and ends with 4 for it. */
async function isDegraded(server: SignetServer): Promise<boolean> {
  const { code, stdout } = await trySignet(['health', '--socket', server.adminSocket]);
  return (
    code === 4 && /^key manager( of the root)?\s+degraded\s+nothing can be signed: token "ca"/m.test(stdout)
  );
}

describeWithSoftHsm('a mesh with an HSM', () => {
  describeWith({ envoy: true, linux: true }, 'and two Envoys under load', () => {
    it('whose root is in the HSM goes on without it, finishes a rotation when it is back, and replaces the root', {
      timeout: 180_000,
    }, async () => {
      const sandbox = await testSandbox();
      const hsm = await hsmIn(sandbox);
      const mesh = await startMesh(sandbox, {
        server: {
          authority: { caTtl: '5m', x509SvidTtl: '6s', agentTtl: '6s' },
          keyManager: { memory: {} },
          upstreamAuthority: { local_root: { ...keyManagerOf(hsm), rootTtl: '1h' } },
        },
        agent: { svid: { firstWindow: [0.3, 0.5], renewWindow: [0.3, 0.5] } },
        oneRequestPerConnection: true,
      });
      const { server, sidecars } = mesh;
      const load = await underLoad(sandbox, mesh);

      const { id } = await active(server);
      const before = await serials(mesh);
      const putBack = takeTokenAway(hsm, server);
      const awayAt = performance.now();
      await server.process.until('degraded', () => isDegraded(server));
      // What signs is in memory.
      await others(mesh, before);
      // Asked for so late that it waits until then, and for less than `signTimeout`.
      await eventually('most of the outage', () => performance.now() - awayAt > outageMs - 5_000, slow);
      const successor = rotate(mesh, { newRoot: false });
      await eventually('the end of the outage', () => performance.now() - awayAt > outageMs, slow);
      expect((await show(server)).authorities.map(({ state }) => state)).toEqual(['active', 'active']);
      expect((await active(server)).id).toBe(id);
      putBack();
      const backAt = performance.now();
      await successor;
      expect(performance.now() - backAt).toBeLessThan(recoveryMs);
      expect((await active(server)).id).not.toBe(id);

      const { rootId } = await active(server);
      await rotate(mesh, { newRoot: true });
      await server.call(({ authorities }, signal) => authorities.taint(rootId, { isUpstream: true, signal }));
      // Refused while anything below it is in use.
      const revoke = () =>
        server.call(({ authorities }, signal) =>
          authorities.revoke(rootId, { isUpstream: true, force: false, signal }).then(() => true),
        );
      await server.process.until('nothing below the old root', revoke, slow);
      for (const envoy of sidecars.all) {
        await envoy.until('one root', async () => (await envoy.trustedRoots()).size === 1);
      }
      await others(mesh, await serials(mesh));
      await load.end();
      await server.waitUntilHealthy();
      await mesh.agent.waitUntilHealthy();
    });

    it('whose HSM signs everything waits with new certificates while it is away, and loses nothing', {
      timeout: 120_000,
    }, async () => {
      const sandbox = await testSandbox();
      const dir = hsmFolder(sandbox);
      const hsm = await faultyHsm(dir, compileFaultyModule(dir));
      const mesh = await startMesh(sandbox, {
        server: {
          // Long enough for the outage; renewed every two to four seconds.
          authority: { caTtl: '150s', x509SvidTtl: '25s', agentTtl: '25s' },
          ...keyManagerOf(hsm, { signTimeout: '2s' }),
        },
        agent: { svid: { firstWindow: [0.08, 0.16], renewWindow: [0.08, 0.16] } },
        oneRequestPerConnection: true,
      });
      const { server } = mesh;
      const load = await underLoad(sandbox, mesh);
      const mint = () => server.mint('spiffe://example.org/minted', { ttlSeconds: 10 });

      // All sessions are closed, and the process that runs the module is killed, in the middle of a rotation.
      hsm.order('C_SignInit', 'close-all');
      const [moduleProcess, first] = [moduleProcessOf(server), await active(server)];
      await mint();
      await rotate(mesh, { newRoot: false });
      process.kill(moduleProcess, 'SIGKILL');
      await mint();
      expect((await active(server)).id).not.toBe(first.id);
      await others(mesh, await serials(mesh));

      const putBack = takeTokenAway(hsm, server);
      const awayAt = performance.now();
      await expect(mint()).rejects.toMatchObject({ code: 'unavailable' });
      await server.process.until('degraded', () => isDegraded(server));
      const before = await serials(mesh);
      await eventually('the end of the outage', () => performance.now() - awayAt > directOutageMs, slow);
      expect(await serials(mesh)).toEqual(before);
      putBack();
      const backAt = performance.now();
      await server.process.until('a signature', mint);
      expect(performance.now() - backAt).toBeLessThan(recoveryMs);
      await others(mesh, before);
      await load.end();
      await server.waitUntilHealthy();
      await mesh.agent.waitUntilHealthy();
      const strays = await server.call(({ authorities }, signal) =>
        authorities.pruneKeys({ dryRun: true, signal }),
      );
      expect(strays).toEqual([]);
    });
  });
});
