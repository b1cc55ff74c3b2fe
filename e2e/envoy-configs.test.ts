import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { startApp } from './support/app.ts';
import { checkout, envoyVersions, getEnvoy } from './support/checkout.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { type Sidecar, sdsVariants, sidecarConfig } from './support/envoy-config.ts';
import { fetchOnce } from './support/load.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { testSandbox } from './support/test-sandbox.ts';

const folder = `${checkout}envoy-configs`;
const shipped = readdirSync(folder).filter((name) => name.endsWith('.yaml'));
/** Files that a bootstrap names; alone they are none. */
const parts = shipped.filter((name) => name.endsWith('-clusters.yaml'));
const bootstraps = shipped.filter((name) => !parts.includes(name));
const sidecars = ['backend', 'frontend'] as const satisfies readonly Sidecar[];

const read = (name: string) => readFileSync(join(folder, name), 'utf8');

/** What a user of an Envoy before 1.39 leaves out, as the files say. */
const withoutJitter = (text: string) => text.replaceAll(/, max_connection_duration_jitter: \{[^}]*\}/g, '');

type Node = Record<string, unknown>;

/** Every object in a configuration, the outer ones first. */
function objectsIn(value: unknown): readonly Node[] {
  if (Array.isArray(value)) return value.flatMap(objectsIn);
  if (typeof value !== 'object' || value === null) return [];
  return [value as Node, ...Object.values(value).flatMap(objectsIn)];
}

const ofType = (all: readonly Node[], suffix: string) =>
  all.filter((object) => String(object['@type']).endsWith(`.${suffix}`));

describeWith({ envoy: true, 'older Envoys': true }, 'the shipped Envoy configurations', () => {
  it.concurrent.for(envoyVersions.flatMap((version) => bootstraps.map((name) => ({ version, name }))))(
    '$name is valid for Envoy $version',
    async ({ version, name }, context) => {
      const { dir } = await testSandbox(context);
      const adapt = version === '1.40' ? (text: string) => text : withoutJitter;
      for (const file of [name, ...parts]) await writeFile(join(dir, file), adapt(read(file)));
      const args = ['--mode', 'validate', '--config-path', name];
      const { stderr } = await promisify(execFile)(getEnvoy(version), args, { cwd: dir });
      expect(stderr).not.toMatch(/\[(warning|error|critical)\]/);
    },
  );

  it.concurrent.for(sidecars.flatMap((sidecar) => sdsVariants.map((variant) => ({ sidecar, variant }))))(
    '$sidecar, $variant: lets nothing through without an agent',
    async ({ sidecar, variant }, context) => {
      const sandbox = await testSandbox(context);
      const upstreamPort = await startApp(sandbox, 'app');
      const envoy = await EnvoyProcess.start(
        sandbox,
        await createProxyIdentity(sandbox, sidecar),
        sidecarConfig(sidecar, {
          agentSocket: `${sandbox.dir}/no-agent.sock`,
          upstreamPort,
          initialFetchTimeout: '0.1s',
          variant,
        }),
      );
      await envoy.waitUntilReady();
      const listener = sidecar === 'backend' ? 'inbound' : 'outbound';
      const call = fetchOnce(`http://127.0.0.1:${await envoy.port(listener)}/`);
      if (sidecar === 'backend') await expect(call).rejects.toThrow(/ECONNRESET|hang up/);
      else await expect(call).resolves.toMatchObject({ status: 503 });
      expect(await envoy.secretVersions()).toEqual(new Map());
    },
  );
});

describe('what the shipped Envoy configurations promise', () => {
  const contextsOf = (name: string) => {
    const all = objectsIn(parse(read(name)));
    const downstream = ofType(all, 'DownstreamTlsContext');
    return { all, downstream, upstream: ofType(all, 'UpstreamTlsContext') };
  };

  it('is promised by the right number of TLS contexts', () => {
    const count = (name: string) => {
      const { downstream, upstream } = contextsOf(name);
      return [name, downstream.length, upstream.length];
    };
    expect(shipped.map(count)).toEqual([
      ['backend-ads.yaml', 1, 0],
      ['backend-delta.yaml', 1, 0],
      ['backend.yaml', 1, 0],
      ['frontend-ads-clusters.yaml', 0, 1],
      ['frontend-ads.yaml', 0, 0],
      ['frontend-delta.yaml', 0, 1],
      ['frontend.yaml', 0, 1],
    ]);
  });

  it.each(shipped)('%s: TLS 1.3, no resumption, trust in nobody until the agent has spoken', (name) => {
    const { downstream, upstream } = contextsOf(name);
    for (const context of downstream) {
      expect(context).toMatchObject({
        require_client_certificate: true,
        disable_stateless_session_resumption: true,
        disable_stateful_session_resumption: true,
      });
    }
    for (const context of upstream) expect(context).toMatchObject({ max_session_keys: 0 });
    for (const { common_tls_context: common } of [...downstream, ...upstream]) {
      expect(common).toMatchObject({
        tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
        combined_validation_context: {
          default_validation_context: {
            custom_validator_config: {
              name: 'envoy.tls.cert_validator.spiffe',
              // Without domains: toEqual, for nothing else may be in it.
              typed_config: expect.toSatisfy((config: Node) => Object.keys(config).join() === '@type'),
            },
          },
        },
      });
    }
  });

  it.each(shipped)('%s: connections end, with jitter; a hung agent is noticed', (name) => {
    const { all } = contextsOf(name);
    const connections = all.filter((object) => 'max_connection_duration' in object);
    expect(connections.length).toBe(name === 'frontend-ads.yaml' ? 0 : 1);
    for (const options of connections)
      expect(options).toMatchObject({ max_connection_duration_jitter: { value: expect.any(Number) } });
    const agents = all.filter((object) => object['name'] === 'signet_agent');
    expect(agents.length).toBe(parts.includes(name) ? 0 : 1);
    for (const agent of agents) expect(JSON.stringify(agent)).toContain('"connection_keepalive":{"interval"');
  });

  it.each(sidecars)('%s: the variants differ only in how secrets are asked for', (sidecar) => {
    const config = (name: string) => parse(read(name)) as { static_resources: { clusters: Node[] } };
    const withoutSource = (value: unknown) =>
      JSON.parse(
        JSON.stringify(value, (key, inner: unknown) => (key === 'sds_config' ? 'the source' : inner)),
      );
    const sotw = config(`${sidecar}.yaml`);
    expect(withoutSource(config(`${sidecar}-delta.yaml`))).toEqual(withoutSource(sotw));
    const { dynamic_resources: _, ...ads } = config(`${sidecar}-ads.yaml`) as Node & typeof sotw;
    const { resources } =
      sidecar === 'frontend'
        ? (parse(read('frontend-ads-clusters.yaml')) as { resources: Node[] })
        : { resources: [] };
    const clusters = resources.map(({ '@type': _type, ...cluster }) => cluster);
    ads.static_resources.clusters.unshift(...clusters);
    const text = JSON.stringify(withoutSource(ads)).replace('"validate_clusters":false,', '');
    expect(JSON.parse(text)).toEqual(withoutSource(sotw));
  });
});
