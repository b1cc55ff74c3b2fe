import { expect, it } from 'vitest';
import { EnvoyProcess } from './support/envoy.ts';
import { type EnvoyFiles, type SdsVariant, sidecarConfig, withFetchTimeout } from './support/envoy-config.ts';
import { sidecarIds } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Each with a certificate and a bundle: 300 secrets. */
const clusters = 150;
/** The longer a slow machine takes to start the agent, the later Envoy tries again. */
const patience = { timeoutMs: 100_000, intervalMs: 50 };

/**
 * A frontend's sidecar whose cluster is there many times, each time with another `initial_fetch_timeout`: Envoy then
 * takes the same name for another secret, and opens another stream for it.
 */
function manySecrets(files: EnvoyFiles): EnvoyFiles {
  const config = JSON.parse(files['envoy.yaml']) as {
    static_resources: { clusters: { name: string }[] };
  };
  const { static_resources: resources } = config;
  const backend = resources.clusters.find(({ name }) => name === 'backend');
  if (backend === undefined) throw new Error('the configuration has no cluster "backend"');
  const copies = Array.from({ length: clusters - 1 }, (_, i) => ({
    ...withFetchTimeout(backend, `${100 + i}s`),
    name: `backend-${i}`,
  }));
  resources.clusters = [...resources.clusters, ...copies];
  // Once an outage is longer than that, Envoy says so: on a slow machine a restart is.
  const text = JSON.stringify(config).replaceAll('"max_interval":"5s"', '"max_interval":"60s"');
  return { ...files, 'envoy.yaml': text };
}

/** Waits until every secret has its stream and has come `times` times in all. */
async function waitForSecrets(envoy: EnvoyProcess, times: number): Promise<void> {
  const received = async () => {
    const stats = await envoy.stats(/^sds\..*\.update_success$/);
    return [...stats.values()].reduce((sum, value) => sum + value, 0);
  };
  await envoy.until(
    `${2 * clusters} streams`,
    async () =>
      (await envoy.stat('cluster.signet_agent.upstream_rq_active')) === 2 * clusters &&
      (await received()) >= 2 * clusters * times,
    patience,
  );
}

describeWith({ envoy: true, linux: true }, 'an agent with 300 streams of one Envoy', () => {
  it.for<SdsVariant>(['sotw', 'delta'])(
    '%s: stops and comes back without a word in its log',
    { timeout: 240_000 },
    async (variant) => {
      const sandbox = await testSandbox();
      const server = await SignetServer.start(sandbox);
      const agent = await SignetAgent.join(sandbox, { server });
      const who = await createProxyIdentity(sandbox, 'many');
      const { selectors } = who;
      await server.createEntry({ spiffeId: sidecarIds.frontend, parent: agent.alias, selectors });
      const settings = { agentSocket: agent.socket, upstreamPort: 9, variant };
      const envoy = await EnvoyProcess.start(sandbox, who, manySecrets(sidecarConfig('frontend', settings)));
      await waitForSecrets(envoy, 1);
      const linesBefore = envoy.process.lines.length;

      expect(await agent.stop()).toEqual({ code: 0, signal: null });
      await agent.start();
      await waitForSecrets(envoy, 2);
      expect(await envoy.stat('sds.default.update_rejected')).toBe(0);
      expect(envoy.process.lines.slice(linesBefore)).toEqual([]);
    },
  );
});
