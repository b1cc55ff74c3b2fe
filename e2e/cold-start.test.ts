import { expect, it } from 'vitest';
import type { AppAnswer } from './support/app.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { sidecarConfig } from './support/envoy-config.ts';
import { fetchOnce } from './support/load.ts';
import {
  createSidecarIdentities,
  registerSidecars,
  Sidecars,
  sidecarIds,
  startMesh,
} from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

describeWith({ envoy: true, linux: true }, 'a mesh from nothing', () => {
  it('comes to its first 200; the application reads who called', async () => {
    const { sidecars } = await startMesh(await testSandbox());
    const answer: AppAnswer = JSON.parse(await sidecars.firstAnswer());
    expect(answer.caller).toBe(sidecarIds.frontend);
    expect(await sidecars.frontend.ownCertificates()).toMatchObject([{ id: sidecarIds.frontend }]);
    expect(await sidecars.backend.ownCertificates()).toMatchObject([{ id: sidecarIds.backend }]);
  });

  it('never serves a proxy the identity of another, though it asks for it by name', async () => {
    const sandbox = await testSandbox();
    const { agent, server, sidecars } = await startMesh(sandbox);
    const thief = await createProxyIdentity(sandbox, 'thief');
    const id = 'spiffe://example.org/thief';
    await server.createEntry({ spiffeId: id, parent: agent.alias, selectors: thief.selectors });
    const envoy = await EnvoyProcess.start(
      sandbox,
      thief,
      sidecarConfig('frontend', {
        agentSocket: agent.socket,
        upstreamPort: sidecars.inboundPort,
        certificateName: sidecarIds.frontend,
        initialFetchTimeout: '1s',
      }),
    );
    await agent.process.waitForLine(/"resource":"spiffe:\/\/example.org\/frontend",.*secret held/);
    // The bundle comes, so this proxy is served; what it is not entitled to does not come, and lets nothing through.
    await envoy.until('its bundle', async () => (await envoy.secretVersions()).has('ALL'));
    await envoy.waitUntilReady();
    const url = `http://127.0.0.1:${await envoy.port('outbound')}/`;
    expect((await fetchOnce(url)).status).toBe(503);
    expect([...(await envoy.secretVersions()).keys()]).toEqual(['ALL']);
    expect(await envoy.ownCertificates()).toEqual([]);

    // Asked for all along: it is sent on the same stream as soon as an administrator grants it.
    const granted = { spiffeId: sidecarIds.frontend, parent: agent.alias, selectors: thief.selectors };
    await server.createEntry(granted);
    await envoy.until('200', async () => (await fetchOnce(url)).status === 200);
    expect(await envoy.ownCertificates()).toMatchObject([{ id: sidecarIds.frontend }]);
  });

  it('comes to life with Envoys that were there before the agent and the server', async () => {
    const sandbox = await testSandbox();
    const who = await createSidecarIdentities(sandbox);
    const sidecars = await Sidecars.start(sandbox, who, { agentSocket: SignetAgent.socketIn(sandbox) });
    await expect(fetchOnce(sidecars.url)).rejects.toThrow('ECONNREFUSED');
    const server = await SignetServer.start(sandbox);
    await registerSidecars(server, SignetAgent.aliasOf(server), who);
    await SignetAgent.join(sandbox, { server });
    await sidecars.firstAnswer();
  });

  it('comes to life with an agent and Envoys that wait for the server', async () => {
    const sandbox = await testSandbox();
    const who = await createSidecarIdentities(sandbox);
    const server = await SignetServer.start(sandbox);
    await registerSidecars(server, SignetAgent.aliasOf(server), who);
    const agent = await SignetAgent.prepare(sandbox, { server });
    await server.stop();
    await agent.launch();
    const sidecars = await Sidecars.start(sandbox, who, { agentSocket: agent.socket });
    await agent.process.waitForLine(/attestation failed; it is tried again/);
    await expect(fetchOnce(sidecars.url)).rejects.toThrow('ECONNREFUSED');
    await server.start();
    await sidecars.firstAnswer();
    expect(agent.process.exit).toBeUndefined();
  });
});
