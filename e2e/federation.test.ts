import { expect, it } from 'vitest';
import { type AppAnswer, startApp } from './support/app.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { sidecarConfig } from './support/envoy-config.ts';
import { fetchOnce } from './support/load.ts';
import { createSidecarIdentities } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetAgent, SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** The shipped configurations, with the backend in another trust domain. */
const ids = { 'spiffe://example.org/backend': 'spiffe://other.org/backend' };

/** Hands the bundle of one server to another, as administrators do. */
async function introduce(from: SignetServer, to: SignetServer): Promise<void> {
  const document = await from.admin('bundle', 'show', '--format', 'spiffe');
  const words = ['--trust-domain', from.trustDomain, '--file', '-', '--socket', to.adminSocket];
  const { code, stderr } = await trySignet(['bundle', 'set', ...words], {}, document);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
}

async function startDomain(sandbox: Sandbox, trustDomain: string) {
  const name = trustDomain.split('.')[0] ?? '';
  const server = await SignetServer.start(sandbox, { name: `${name}-server`, trustDomain });
  const agent = await SignetAgent.join(sandbox, { name: `${name}-agent`, server });
  return { server, agent };
}

describeWith({ envoy: true, linux: true }, 'two trust domains', () => {
  it('talk to each other through Envoys once their bundles are exchanged, until they are taken away', async () => {
    const sandbox = await testSandbox();
    const [ours, theirs, who] = await Promise.all([
      startDomain(sandbox, 'example.org'),
      startDomain(sandbox, 'other.org'),
      createSidecarIdentities(sandbox),
    ]);
    const frontendEntry = () =>
      ours.server.createEntry({
        spiffeId: 'spiffe://example.org/frontend',
        parent: ours.agent.alias,
        selectors: who.frontend.selectors,
        federatesWith: ['other.org'],
      });
    await expect(frontendEntry()).rejects.toThrow('unable to find federated bundle "spiffe://other.org"');

    await introduce(ours.server, theirs.server);
    await introduce(theirs.server, ours.server);
    await frontendEntry();
    const backendEntry = await theirs.server.createEntry({
      spiffeId: 'spiffe://other.org/backend',
      parent: theirs.agent.alias,
      selectors: who.backend.selectors,
      federatesWith: ['example.org'],
    });

    const appPort = await startApp(sandbox, 'backend');
    const backend = await EnvoyProcess.start(
      sandbox,
      who.backend,
      sidecarConfig('backend', { agentSocket: theirs.agent.socket, upstreamPort: appPort, ids }),
    );
    const inboundPort = await backend.until('an inbound port', () => backend.port('inbound'));
    const frontend = await EnvoyProcess.start(
      sandbox,
      who.frontend,
      sidecarConfig('frontend', {
        agentSocket: ours.agent.socket,
        upstreamPort: inboundPort,
        oneRequestPerConnection: true,
        ids,
      }),
    );
    const port = await frontend.until('an outbound port', () => frontend.port('outbound'));
    const until = (status: number) =>
      frontend.until(`${status} through both Envoys`, async () => {
        const answer = await fetchOnce(`http://127.0.0.1:${port}/`);
        return answer.status === status ? answer.body : Promise.reject(new Error(JSON.stringify(answer)));
      });
    const answer = JSON.parse(await until(200)) as AppAnswer;
    expect(answer).toMatchObject({ app: 'backend', caller: 'spiffe://example.org/frontend' });

    const remove = ['bundle', 'delete', 'example.org', '--socket', theirs.server.adminSocket];
    const refusal = await trySignet(remove);
    expect(refusal).toMatchObject({ code: 1, stderr: expect.stringContaining(`"${backendEntry}"`) });
    await until(200);
    expect(await trySignet([...remove, '--mode', 'dissociate'])).toMatchObject({ code: 0 });
    await until(503);
    expect(await trySignet(remove)).toMatchObject({ code: 3 });

    await introduce(ours.server, theirs.server);
    await theirs.server.admin('entry', 'update', '--id', backendEntry, '--federates-with', 'example.org');
    await until(200);
    expect(await theirs.server.admin('bundle', 'count')).toBe('2');
  });
});
