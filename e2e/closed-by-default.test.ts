import { expect, it } from 'vitest';
import { startApp } from './support/app.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { type Listener, type SdsVariant, sidecarConfig } from './support/envoy-config.ts';
import { sidecarIds } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';
import { callOverTls } from './support/tls-peer.ts';

/**
 * Asked for as a validation context, by a proxy that is `backend`: none of them may open its listener, neither those
 * that the agent never answers nor those that it answers with a certificate, which Envoy takes for an empty context.
 */
const wrongNames = [
  'default',
  sidecarIds.backend,
  sidecarIds.frontend,
  'spiffe://other.org',
  'default?key=ec-p384',
  'hint:trust',
  'jwks:example.org',
  'file-root:system',
  'file-root:/etc/ssl/certs/ca-certificates.crt',
  '__proto__',
  'unknown',
];

const patience = { timeoutMs: 30_000 };

/** A listener whose trust comes under another name; `unguarded`: without the closed default of the shipped one. */
function withTrustName(inbound: Listener, trustName: string, unguarded = false): Listener {
  const name = unguarded ? `unguarded ${trustName}` : trustName;
  const text = JSON.stringify({ ...inbound, name }, (key, value: unknown) => {
    if (key === 'validation_context_sds_secret_config') return { ...(value as object), name: trustName };
    return key === 'default_validation_context' && unguarded ? {} : value;
  });
  return JSON.parse(text) as Listener;
}

/** Calls listeners without a certificate, again and again, and notes who answers. */
class Burglar {
  readonly #envoy: EnvoyProcess;
  readonly #listeners: readonly string[];
  readonly #letIn = new Set<string>();
  readonly #over = new AbortController();
  readonly #done: Promise<void>;
  #rounds = 0;

  constructor(envoy: EnvoyProcess, listeners: readonly string[]) {
    this.#envoy = envoy;
    this.#listeners = listeners;
    this.#done = this.#work();
  }

  /** Listeners that have answered. */
  get letIn(): readonly string[] {
    return [...this.#letIn];
  }

  /** Waits until every listener has been called once more from now on. */
  async tryAll(): Promise<void> {
    const goal = this.#rounds + 2;
    await this.#envoy.until('two rounds of calls', () => this.#rounds >= goal, patience);
  }

  async stop(): Promise<void> {
    this.#over.abort();
    await this.#done;
  }

  async #work(): Promise<void> {
    while (!this.#over.signal.aborted && this.#envoy.process.exit === undefined) {
      for (const listener of this.#listeners) {
        // Refused is also who calls before there is a port.
        const answers = await this.#envoy
          .port(listener)
          .then((port) => callOverTls({ port }))
          .then(
            () => true,
            () => false,
          );
        if (answers) this.#letIn.add(listener);
      }
      this.#rounds += 1;
    }
  }
}

describeWith(
  { envoy: true, linux: true },
  'a sidecar that asks for trust under a name it may not have',
  () => {
    it.for<SdsVariant>(['sotw', 'ads-delta'])('%s: lets nobody in, at any moment', async (variant) => {
      const sandbox = await testSandbox();
      const server = await SignetServer.start(sandbox);
      const config = { sds: { onWithdraw: 'block' }, syncInterval: '200ms' };
      const agent = await SignetAgent.join(sandbox, { server, config });
      const { envoy, register } = await startBackend(sandbox, { server, agent, variant });
      const burglar = new Burglar(envoy, ['inbound', ...wrongNames]);
      sandbox.onDispose(() => burglar.stop());
      const caller = await server.mint(sidecarIds.frontend, { ttlSeconds: 600 });
      const statusOf = async (listener: string) =>
        (await callOverTls({ port: await envoy.port(listener), identity: caller })).status;

      // Nobody is registered: there is nothing for it.
      await envoy.waitUntilReady();
      await burglar.tryAll();
      const entry = await register();
      await envoy.until('who may call served', async () => (await statusOf('inbound')) === 200);
      await burglar.tryAll();
      for (const name of wrongNames) await expect(statusOf(name)).rejects.toThrow();
      // What all of this is about: without the closed default, that certificate opens the door to everybody.
      const port = await envoy.port('unguarded default');
      await envoy.until('an answer', async () => (await callOverTls({ port })).status === 403);

      await agent.stop({ signal: 'SIGKILL' });
      await burglar.tryAll();
      const updates = async () => await envoy.stat('sds.ALL.update_success');
      const updatesBefore = await updates();
      await agent.start();
      await envoy.until('the bundle once more', async () => (await updates()) > updatesBefore, patience);
      await burglar.tryAll();
      await server.deleteEntry(entry);
      await envoy.until(
        'nobody trusted',
        async () =>
          await statusOf('inbound').then(
            () => false,
            () => true,
          ),
      );
      await burglar.tryAll();
      await burglar.stop();
      expect(burglar.letIn).toEqual([]);
    });
  },
);

/** The backend's sidecar with a listener for each name, and the way to register it. */
async function startBackend(
  sandbox: Sandbox,
  parts: { readonly server: SignetServer; readonly agent: SignetAgent; readonly variant: SdsVariant },
): Promise<{ readonly envoy: EnvoyProcess; readonly register: () => Promise<string> }> {
  const { server, agent, variant } = parts;
  const who = await createProxyIdentity(sandbox, 'backend');
  const envoy = await EnvoyProcess.start(
    sandbox,
    who,
    sidecarConfig('backend', {
      agentSocket: agent.socket,
      upstreamPort: await startApp(sandbox, 'app'),
      hasListenerFile: true,
      initialFetchTimeout: '0.5s',
      variant,
    }),
  );
  await envoy.replaceListeners(([inbound]) => [
    inbound!,
    ...wrongNames.map((name) => withTrustName(inbound!, name)),
    withTrustName(inbound!, 'default', true),
  ]);
  const entry = { spiffeId: sidecarIds.backend, parent: agent.alias, selectors: who.selectors };
  return { envoy, register: () => server.createEntry(entry) };
}
