import { createPrivateKey, createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { openssl } from '../src/testing/openssl.ts';
import { type KeyType, keyTypeOfSpki } from '../src/x509/signature.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';
import { callOverTls } from './support/tls-peer.ts';

/** The making of an RSA-4096 key takes a second, and many on a busy machine when luck is bad. */
const patience = { timeoutMs: 90_000 };

describeWith({ linux: true }, 'the Workload API', () => {
  it.each<{ ca: KeyType; svid: KeyType }>([
    { ca: 'ec-p384', svid: 'rsa-2048' },
    { ca: 'rsa-2048', svid: 'ec-p384' },
    { ca: 'rsa-3072', svid: 'rsa-3072' },
    { ca: 'rsa-4096', svid: 'rsa-4096' },
  ])('gives an SVID with an $svid key under an $ca root that OpenSSL accepts', async ({ ca, svid }) => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox, {
      config: { authority: { caKeyType: ca } },
      patience,
    });
    const config = { svid: { keyType: svid } };
    const agent = await SignetAgent.prepare(sandbox, { server, config });
    const selectors = [`unix:uid:${process.getuid?.()}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/web', parent: agent.alias, selectors });
    await agent.launch();
    await agent.waitUntilHealthy(patience);

    const client = WorkloadClient.connect(`unix://${agent.socket}`);
    const fetching = () => client.fetchX509Svids({ signal: AbortSignal.timeout(10_000) });
    const update = await agent.process.until('an SVID', fetching, patience);
    client.close();
    const [held] = update.svids;
    const [leaf] = held?.svid.chain ?? [];
    const roots = [...update.bundles.values()].flatMap((bundle) => bundle.certificates());
    expect(roots.map(({ spki }) => keyTypeOfSpki(spki))).toEqual([ca]);
    expect(leaf && keyTypeOfSpki(leaf.spki)).toBe(svid);
    const key = createPublicKey(createPrivateKey(held?.privateKeyPem ?? ''));
    expect(key.export({ type: 'spki', format: 'der' })).toEqual(leaf?.spki);

    const [rootFile, leafFile] = [join(sandbox.dir, 'root.pem'), join(sandbox.dir, 'leaf.pem')];
    writeFileSync(rootFile, roots.map((root) => root.toPem()).join(''));
    writeFileSync(leafFile, leaf?.toPem() ?? '');
    for (const purpose of ['sslserver', 'sslclient']) {
      const args = [
        'verify',
        '-x509_strict',
        '-check_ss_sig',
        '-purpose',
        purpose,
        '-CAfile',
        rootFile,
        leafFile,
      ];
      expect(openssl(args).toString()).toBe(`${leafFile}: OK\n`);
    }
  });
});

describeWith({ envoy: true, linux: true }, 'a mesh', () => {
  it.each<KeyType>(['ec-p384', 'rsa-2048', 'rsa-3072'])(
    'works with %s keys from the root down',
    async (keyType) => {
      const { sidecars } = await startMesh(await testSandbox(), {
        server: { authority: { caKeyType: keyType } },
        agent: { svid: { keyType } },
      });
      expect(JSON.parse(await sidecars.firstAnswer(patience.timeoutMs)).caller).toBe(
        'spiffe://example.org/frontend',
      );
    },
  );

  it('works with P-384 and nothing else, from the root to the key exchange', async () => {
    const keyType: KeyType = 'ec-p384';
    const tlsParams = { ecdh_curves: ['P-384'], signature_algorithms: ['ecdsa_secp384r1_sha384'] };
    const { server, sidecars } = await startMesh(await testSandbox(), {
      server: { authority: { caKeyType: keyType } },
      agent: { svid: { keyType } },
      tlsParams,
    });
    for (const [envoy, scope] of [
      [sidecars.backend, /^listener\..*\.ssl\.(curves|sigalgs)\./],
      [sidecars.frontend, /^cluster\.backend\.ssl\.(curves|sigalgs)\./],
    ] as const) {
      const used = [...(await envoy.stats(scope)).keys()].map((name) => name.replace(/^.*\.ssl\./, ''));
      expect(used.toSorted()).toEqual(['curves.P-384', 'sigalgs.ecdsa_secp384r1_sha384']);
    }
    // A client that cannot sign with P-384 has no certificate for the same listener.
    const identity = await server.mint('spiffe://example.org/frontend', { ttlSeconds: 600 });
    await expect(callOverTls({ port: sidecars.inboundPort, identity })).rejects.toMatchObject({
      code: expect.stringMatching(/ALERT_CERTIFICATE_REQUIRED$/),
    });
  });
});
