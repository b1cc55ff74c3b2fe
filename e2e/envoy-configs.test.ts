import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { startApp } from './support/app.ts';
import { checkout, getEnvoy } from './support/checkout.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { type Sidecar, sidecarConfig } from './support/envoy-config.ts';
import { fetchOnce } from './support/load.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { testSandbox } from './support/test-sandbox.ts';

const shipped = readdirSync(`${checkout}envoy-configs`).filter((name) => name.endsWith('.yaml'));

describeWith({ envoy: true }, 'the shipped Envoy configurations', () => {
  it.each(shipped)('%s is valid as it is', async (name) => {
    const path = `${checkout}envoy-configs/${name}`;
    const { stderr } = await promisify(execFile)(getEnvoy(), ['--mode', 'validate', '--config-path', path]);
    expect(stderr).not.toMatch(/\[(warning|error|critical)\]/);
  });

  it.each<{ sidecar: Sidecar; listener: string }>([
    { sidecar: 'backend', listener: 'inbound' },
    { sidecar: 'frontend', listener: 'outbound' },
  ])('$sidecar.yaml lets nothing through without an agent', async ({ sidecar, listener }) => {
    const sandbox = await testSandbox();
    const upstreamPort = await startApp(sandbox, 'app');
    const envoy = await EnvoyProcess.start(
      sandbox,
      await createProxyIdentity(sandbox, sidecar),
      sidecarConfig(sidecar, {
        agentSocket: `${sandbox.dir}/no-agent.sock`,
        upstreamPort,
        initialFetchTimeout: '0.1s',
      }),
    );
    await envoy.waitUntilReady();
    const call = fetchOnce(`http://127.0.0.1:${await envoy.port(listener)}/`);
    if (sidecar === 'backend') await expect(call).rejects.toThrow(/ECONNRESET|hang up/);
    else await expect(call).resolves.toMatchObject({ status: 503 });
    expect(await envoy.secretVersions()).toEqual(new Map());
  });
});
