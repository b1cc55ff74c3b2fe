import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TestIdentity } from '../src/testing/certificates.ts';
import type { AppAnswer } from './support/app.ts';
import { startApp } from './support/app.ts';
import { type EnvoyVersion, envoyVersions } from './support/checkout.ts';
import { EnvoyProcess } from './support/envoy.ts';
import {
  type SdsVariant,
  type SidecarSettings,
  sdsVariants,
  sidecarConfig,
  withFetchTimeout,
} from './support/envoy-config.ts';
import { fetchOnce, Load } from './support/load.ts';
import { createSidecarIdentities, registerSidecars, Sidecars, sidecarIds } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity, restartedProxy } from './support/proxy-identity.ts';
import { Sandbox } from './support/sandbox.ts';
import { type CertificateWithKey, SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';
import { callOverTls } from './support/tls-peer.ts';

/** Renewed every 1 to 2 s, with time left for restarts on a slow machine. */
const rotatingTtl = '30s';
const earlyRenewal = { firstWindow: [0.03, 0.06], renewWindow: [0.03, 0.06] };
const patience = { timeoutMs: 30_000, intervalMs: 100 };
const olderEnvoys = envoyVersions
  .filter((version) => version !== '1.40')
  .flatMap((version) => sdsVariants.map((variant) => ({ version, variant })));

/** Two sidecars of one kind with traffic through both. */
interface Pair {
  readonly sidecars: Sidecars;
  readonly load: Load;
}

describeWith({ envoy: true, linux: true, 'older Envoys': true }, 'SDS in every variant', () => {
  let sandbox: Sandbox;
  let server: SignetServer;
  let agent: SignetAgent;
  let pairs: ReadonlyMap<SdsVariant, Pair>;

  beforeAll(async () => {
    sandbox = await Sandbox.create();
    server = await SignetServer.start(sandbox);
    agent = await SignetAgent.join(sandbox, {
      server,
      config: { svid: earlyRenewal, syncInterval: '200ms', log: { level: 'debug' } },
    });
    pairs = new Map(
      await Promise.all(
        sdsVariants.map(async (variant) => [variant, await startPair(sandbox, { variant })] as const),
      ),
    );
  });
  afterAll(async () => await sandbox?.dispose());

  /** Both sidecars, registered and called 10 times a second from their first 200 on. */
  async function startPair(
    owner: Sandbox,
    { variant, version = '1.40' }: { variant: SdsVariant; version?: EnvoyVersion },
  ): Promise<Pair> {
    const who = await createSidecarIdentities(owner, `${variant}-`, version);
    await registerSidecars(server, agent.alias, who, { x509Ttl: rotatingTtl });
    const options = { agentSocket: agent.socket, oneRequestPerConnection: true, variant, version };
    const sidecars = await Sidecars.start(owner, who, options);
    const { caller }: AppAnswer = JSON.parse(await sidecars.firstAnswer(30_000));
    expect(caller).toBe(sidecarIds.frontend);
    const load = Load.start({ url: sidecars.url, perSecond: 10 });
    owner.onDispose(() => load.stop());
    return { sidecars, load };
  }

  function pairOf(variant: SdsVariant): Pair {
    const pair = pairs.get(variant);
    if (pair === undefined) throw new Error(`no sidecars for ${variant}`);
    return pair;
  }

  /** For callers that are no Envoy; ten minutes are enough for every test here. */
  const mint = (id: string): Promise<CertificateWithKey> => server.mint(id, { ttlSeconds: 600 });

  /** Whether a caller with this identity gets an answer. */
  async function isServed(port: number, identity: CertificateWithKey): Promise<boolean> {
    return await callOverTls({ port, identity }).then(
      ({ status }) => status === 200,
      () => false,
    );
  }

  /** An entry that the agent has signed for is proof that it knows what was changed on the server before. */
  let markers = 0;
  async function agentHasSeenIt(): Promise<void> {
    markers += 1;
    const spiffeId = `spiffe://example.org/marker/${markers}`;
    await server.createEntry({ spiffeId, parent: agent.alias, selectors: ['unix:uid:64999'] });
    await agent.process.waitForLine(new RegExp(`"${spiffeId}".*SVID signed`));
  }

  /** Waits until both have presented `count` certificates more. */
  async function expectRotation({ sidecars, load }: Pair, count: number): Promise<void> {
    const rotates = async (envoy: EnvoyProcess) => {
      const serials = new Set<string>();
      const look = async () => {
        for (const { serial } of await envoy.ownCertificates()) serials.add(serial);
        // The first is the one it starts from. A failure decides the test: no need to go on.
        return serials.size > count || load.failures.length > 0;
      };
      await envoy.until(`${count} rotations`, look, patience);
    };
    await Promise.all(sidecars.all.map(rotates));
    await load.waitForMore(5, patience);
    expect(load.failures).toEqual([]);
    for (const envoy of sidecars.all) {
      const refused = await envoy.stats(/^sds\..*\.update_rejected$/);
      expect(new Set(refused.values())).toEqual(new Set([0]));
    }
  }

  it.concurrent.for(sdsVariants)('%s: rotates without a failed request', async (variant) => {
    await expectRotation(pairOf(variant), 3);
  });

  it.concurrent.for(sdsVariants)(
    '%s: who is registered late is served, who is withdrawn no more; Envoy keeps what it has until it expires',
    async (variant, context) => {
      const own = await testSandbox(context);
      const who = await createProxyIdentity(own, `${variant}-late`);
      const settings: SidecarSettings = {
        agentSocket: agent.socket,
        upstreamPort: pairOf('sotw').sidecars.inboundPort,
        oneRequestPerConnection: true,
        initialFetchTimeout: '0.5s',
        variant,
      };
      const envoy = await EnvoyProcess.start(own, who, sidecarConfig('frontend', settings));
      await envoy.waitUntilReady(patience);
      const url = `http://127.0.0.1:${await envoy.port('outbound')}/`;
      expect((await fetchOnce(url)).status).toBe(503);
      expect(await envoy.secretVersions()).toEqual(new Map());

      const { selectors } = who;
      const entry = { spiffeId: sidecarIds.frontend, parent: agent.alias, selectors, x509Ttl: '10s' };
      const id = await server.createEntry(entry);
      await envoy.until('200', async () => (await fetchOnce(url)).status === 200, patience);

      await server.deleteEntry(id);
      await agentHasSeenIt();
      const [kept] = await envoy.ownCertificates();
      const restarted = await restartedProxy(who);
      const again = await EnvoyProcess.start(own, restarted, sidecarConfig('frontend', settings));
      await again.waitUntilReady(patience);
      expect((await fetchOnce(`http://127.0.0.1:${await again.port('outbound')}/`)).status).toBe(503);
      expect([...(await again.secretVersions()).keys()]).not.toContain('default');
      // Nothing takes a certificate back from an Envoy, and nothing renews it.
      expect(await envoy.ownCertificates()).toMatchObject([{ serial: kept?.serial }]);
      await envoy.until('the end of its life', async () => (await fetchOnce(url)).status === 503, patience);
      expect(await again.ownCertificates()).toEqual([]);
    },
  );

  it.concurrent.for(sdsVariants)(
    '%s: listeners that are added later get the same secrets',
    async (variant, context) => {
      const own = await testSandbox(context);
      const who = await createProxyIdentity(own, `${variant}-adds`);
      const { selectors } = who;
      const id = await server.createEntry({ spiffeId: sidecarIds.backend, parent: agent.alias, selectors });
      const envoy = await EnvoyProcess.start(
        own,
        who,
        sidecarConfig('backend', {
          agentSocket: agent.socket,
          upstreamPort: await startApp(own, 'app'),
          hasListenerFile: true,
          variant,
        }),
      );
      await envoy.waitUntilReady(patience);
      const caller = await mint(sidecarIds.frontend);
      const serves = (listener: string) => async () => await isServed(await envoy.port(listener), caller);
      await envoy.until('an answer', serves('inbound'), patience);
      await envoy.replaceListeners(([inbound]) => [inbound!, { ...inbound!, name: 'same bytes' }]);
      await envoy.until('an answer of a listener like the first', serves('same bytes'), patience);
      // Another provider of the same secret in Envoy: for that a stream of its own, or, in ADS, a request that asks for
      // nothing new (SotW) or none at all (Delta; envoy#47309).
      await envoy.replaceListeners(([inbound, same]) => [
        inbound!,
        same!,
        { ...withFetchTimeout(inbound!, '100s'), name: 'other bytes' },
      ]);
      if (variant === 'ads-delta') await changeSecretsOf(own, id);
      await envoy.until('an answer of a listener that waits longer', serves('other bytes'), patience);
    },
  );

  /** Has a new certificate made for an entry, and the bundles that it may use changed. */
  async function changeSecretsOf(own: Sandbox, entry: string): Promise<void> {
    const validNow = { notBeforeMs: Date.now() - 3_600_000, notAfterMs: Date.now() + 3_600_000 };
    const root = await TestIdentity.root('other.org', validNow);
    const file = join(own.dir, 'other.pem');
    await writeFile(file, root.certificate.toPem());
    await server.admin('bundle', 'set', '--trust-domain', 'other.org', '--file', file);
    await server.admin(
      'entry',
      'update',
      '--id',
      entry,
      '--federates-with',
      'other.org',
      '--x509-ttl',
      '40m',
    );
  }

  it.concurrent.for(olderEnvoys)(
    '$variant: Envoy $version starts from nothing and rotates',
    async ({ variant, version }, context) => {
      await expectRotation(await startPair(await testSandbox(context), { variant, version }), 2);
    },
  );

  it('all: no request fails while the agent restarts, whether it was stopped or killed', async () => {
    const all = [...pairs.values()];
    const envoys = all.flatMap(({ sidecars }) => sidecars.all);
    const served = async () => await Promise.all(all.map(({ load }) => load.waitForMore(10, patience)));
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const linesBefore = envoys.map((envoy) => envoy.process.lines.length);
      await agent.stop({ signal });
      await served();
      if (signal === 'SIGTERM') {
        const complaints = envoys.flatMap((envoy, i) => envoy.process.lines.slice(linesBefore[i]));
        expect(complaints.filter((line) => line.includes('[warning]'))).toEqual([]);
      }
      const before = await Promise.all(envoys.map((envoy) => envoy.ownCertificates()));
      await agent.start();
      for (const [i, envoy] of envoys.entries()) {
        const isNew = async () => (await envoy.ownCertificates())[0]?.serial !== before[i]?.[0]?.serial;
        await envoy.until('another certificate', isNew, patience);
      }
      await served();
    }
    expect(all.flatMap(({ load }) => load.failures)).toEqual([]);
  });

  it('all: with "onWithdraw: block" trust is taken from who is withdrawn', async () => {
    const own = await testSandbox();
    const blocking = await SignetAgent.join(own, {
      name: 'blocking',
      server,
      config: { sds: { onWithdraw: 'block' }, syncInterval: '200ms' },
    });
    const caller = await mint(sidecarIds.frontend);
    const upstreamPort = await startApp(own, 'app');
    await Promise.all(
      sdsVariants.map(async (variant) => {
        const who = await createProxyIdentity(own, `${variant}-blocked`);
        const { selectors } = who;
        const id = await server.createEntry({
          spiffeId: sidecarIds.backend,
          parent: blocking.alias,
          selectors,
        });
        const settings = { agentSocket: blocking.socket, upstreamPort, variant };
        const envoy = await EnvoyProcess.start(own, who, sidecarConfig('backend', settings));
        await envoy.waitUntilReady(patience);
        const port = await envoy.port('inbound');
        await envoy.until('an answer', () => isServed(port, caller), patience);
        await server.deleteEntry(id);
        await envoy.until('nobody trusted', async () => !(await isServed(port, caller)), patience);
        expect(await envoy.trustedRoots()).toEqual(new Map());
        await expect(callOverTls({ port })).rejects.toThrow();
      }),
    );
  });
});
