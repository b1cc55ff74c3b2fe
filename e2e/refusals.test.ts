import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TestIdentity } from '../src/testing/certificates.ts';
import type { AppAnswer } from './support/app.ts';
import { EnvoyProcess } from './support/envoy.ts';
import { sidecarConfig } from './support/envoy-config.ts';
import { eventually } from './support/eventually.ts';
import { fetchOnce } from './support/load.ts';
import { type Mesh, sidecarIds, startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { Sandbox } from './support/sandbox.ts';
import type { CertificateWithKey } from './support/signet.ts';
import { callOverTls, startTlsServer } from './support/tls-peer.ts';

const hourMs = 3_600_000;
const validNow = { notBeforeMs: Date.now() - hourMs, notAfterMs: Date.now() + hourMs };

const unknownCa = /failure=.*(unable_to_get|self.signed)/i;

function pemOf(leaf: TestIdentity, ...more: readonly TestIdentity[]): CertificateWithKey {
  const chain = [leaf, ...more].map(({ certificate }) => certificate.toPem());
  return { cert: chain.join(''), key: leaf.privateKeyPem };
}

describeWith({ envoy: true, linux: true }, 'who is refused', () => {
  let sandbox: Sandbox;
  let mesh: Mesh;

  beforeAll(async () => {
    sandbox = await Sandbox.create();
    mesh = await startMesh(sandbox);
  });
  afterAll(async () => await sandbox?.dispose());

  /** A server's certificate of the mesh. */
  const mint = async (id: string) => await mesh.server.mint(id, { ttlSeconds: 600 });

  /** A call to the backend's sidecar that must fail in the handshake; the sidecar must say `reason` in its log. */
  async function expectRefusal(identity: CertificateWithKey | undefined, reason: RegExp): Promise<void> {
    const { backend, inboundPort: port } = mesh.sidecars;
    const log: string[] = [];
    const stop = backend.process.onLine((line) => log.push(line));
    try {
      const call = callOverTls({ port, ...(identity === undefined ? {} : { identity }) });
      await expect(call).rejects.toThrow();
      await eventually(`${reason} in the log`, () => log.some((line) => reason.test(line)));
    } finally {
      stop();
    }
  }

  describe('by a sidecar that is called', () => {
    it('nobody who is who may call; what such a caller says about itself is dropped', async () => {
      const { status, body } = await callOverTls({
        port: mesh.sidecars.inboundPort,
        identity: await mint(sidecarIds.frontend),
        headers: { 'x-forwarded-client-cert': 'URI=spiffe://example.org/admin' },
      });
      expect(status).toBe(200);
      const { caller, headers }: AppAnswer = JSON.parse(body);
      expect(caller).toBe(sidecarIds.frontend);
      expect(JSON.stringify(headers)).not.toContain('admin');
    });

    it('an identity of the same trust domain that may not call, with 403', async () => {
      const identity = await mint('spiffe://example.org/frontend2');
      const { status } = await callOverTls({ port: mesh.sidecars.inboundPort, identity });
      expect(status).toBe(403);
    });

    it('a sidecar with another identity, with 403', async () => {
      const stranger = await createProxyIdentity(sandbox, 'stranger');
      const { selectors } = stranger;
      const parent = mesh.agent.alias;
      await mesh.server.createEntry({ spiffeId: 'spiffe://example.org/stranger', parent, selectors });
      const config = sidecarConfig('frontend', {
        agentSocket: mesh.agent.socket,
        upstreamPort: mesh.sidecars.inboundPort,
      });
      const envoy = await EnvoyProcess.start(sandbox, stranger, config);
      await envoy.waitUntilReady();
      const { status } = await fetchOnce(`http://127.0.0.1:${await envoy.port('outbound')}/`);
      expect(status).toBe(403);
    });

    it('who shows no certificate', async () => {
      await expectRefusal(undefined, /PEER_DID_NOT_RETURN_A_CERTIFICATE/);
    });

    it('who shows the right name under an unknown CA, also with that CA in the chain', async () => {
      const root = await TestIdentity.root('example.org', validNow);
      const leaf = await root.issue(sidecarIds.frontend, validNow);
      await expectRefusal(pemOf(leaf), unknownCa);
      await expectRefusal(pemOf(leaf, root), unknownCa);
    });

    it('who is of an unknown trust domain', async () => {
      const root = await TestIdentity.root('other.org', validNow);
      const leaf = await root.issue('spiffe://other.org/frontend', validNow);
      await expectRefusal(pemOf(leaf), /failure=.*no_trust_bundle_store/);
    });

    it('whose certificate has expired', async () => {
      const { inboundPort: port } = mesh.sidecars;
      const identity = await mesh.server.mint(sidecarIds.frontend, { ttlSeconds: 3 });
      expect((await callOverTls({ port, identity })).status).toBe(200);
      await eventually('the end of its life', async () =>
        callOverTls({ port, identity }).then(
          () => false,
          () => true,
        ),
      );
      await expectRefusal(identity, /failure=.*certificate_has_expired/);
    });

    it('who speaks TLS 1.2', async () => {
      const identity = await mint(sidecarIds.frontend);
      const call = callOverTls({ port: mesh.sidecars.inboundPort, identity, maxVersion: 'TLSv1.2' });
      await expect(call).rejects.toThrow(/alert|version/i);
    });

    it('who speaks no TLS at all', async () => {
      await expect(fetchOnce(`http://127.0.0.1:${mesh.sidecars.inboundPort}/`)).rejects.toThrow();
    });
  });

  it('by a sidecar that calls: a server that is not the one it wants', async () => {
    const server = await startTlsServer(sandbox, await mint(sidecarIds.backend));
    const caller = await createProxyIdentity(sandbox, 'caller');
    const { selectors } = caller;
    await mesh.server.createEntry({ spiffeId: sidecarIds.frontend, parent: mesh.agent.alias, selectors });
    const config = sidecarConfig('frontend', {
      agentSocket: mesh.agent.socket,
      upstreamPort: server.port,
      oneRequestPerConnection: true,
    });
    const envoy = await EnvoyProcess.start(sandbox, caller, config);
    await envoy.waitUntilReady();
    const url = `http://127.0.0.1:${await envoy.port('outbound')}/`;
    expect(await fetchOnce(url)).toEqual({ status: 200, body: 'served' });

    const root = await TestIdentity.root('example.org', validNow);
    const impostors = [
      { identity: await mint('spiffe://example.org/backend2'), reason: /failure=.*SAN_match/ },
      { identity: await mint('spiffe://example.org/backend/x'), reason: /failure=.*SAN_match/ },
      {
        identity: pemOf(await root.issue(sidecarIds.backend, validNow), root),
        reason: unknownCa,
      },
    ];
    for (const { identity, reason } of impostors) {
      server.present(identity);
      const log: string[] = [];
      const stop = envoy.process.onLine((line) => log.push(line));
      expect((await fetchOnce(url)).status).toBe(503);
      await eventually(`${reason} in the log`, () => log.some((line) => reason.test(line)));
      stop();
    }
    server.present(await mint(sidecarIds.backend));
    expect((await fetchOnce(url)).status).toBe(200);
  });
});
