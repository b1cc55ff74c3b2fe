import { once } from 'node:events';
import { connect } from 'node:tls';
import { expect, it } from 'vitest';
import { EnvoyProcess } from './support/envoy.ts';
import { type EnvoyFiles, type SdsVariant, sidecarConfig } from './support/envoy-config.ts';
import { describeWith } from './support/parts.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const web = 'spiffe://example.org/web';

/** A backend whose listener has these certificates instead of its one. */
function withCertificates(files: EnvoyFiles, names: readonly string[]): EnvoyFiles {
  const one = /"tls_certificate_sds_secret_configs":\s*\[(.*?)\],\s*"combined_validation_context"/s;
  const text = files['envoy.yaml'].replace(one, (all, config: string) => {
    const { name } = JSON.parse(config) as { name: string };
    const several = names.map((other) => config.replace(JSON.stringify(name), JSON.stringify(other)));
    return all.replace(config, several.join(','));
  });
  expect(text).not.toBe(files['envoy.yaml']);
  return { ...files, 'envoy.yaml': text };
}

/** The certificate that a listener shows to a client which takes only such signatures. */
async function shownTo(
  port: number,
  sigalgs: string,
): Promise<{ readonly id: string; readonly bits: number }> {
  const socket = connect({ host: '127.0.0.1', port, sigalgs, rejectUnauthorized: false });
  // The listener refuses a client without a certificate after it has shown its own.
  socket.on('error', () => undefined);
  await once(socket, 'secureConnect');
  const { subjectaltname = '', bits = 0 } = socket.getPeerCertificate();
  socket.destroy();
  return { id: subjectaltname.replace(/^URI:/, ''), bits };
}

describeWith({ envoy: true, linux: true }, 'an Envoy', () => {
  it.each<{ variant: SdsVariant }>([{ variant: 'sotw' }, { variant: 'ads-delta' }])(
    'has one identity with three kinds of keys, under an alias and a hint, over $variant',
    async ({ variant }) => {
      const sandbox = await testSandbox();
      const who = await createProxyIdentity(sandbox, 'web');
      const server = await SignetServer.start(sandbox);
      const config = { sds: { aliases: { 'web-cert': web } } };
      const agent = await SignetAgent.join(sandbox, { server, config });
      const { selectors } = who;
      const id = await server.createEntry({ spiffeId: web, parent: agent.alias, selectors });
      await server.admin('entry', 'update', '--id', id, '--hint', 'internal');
      const names = ['web-cert', 'web-cert?key=rsa-2048', 'hint:internal?key=ec-p384'];
      const files = sidecarConfig('backend', { agentSocket: agent.socket, upstreamPort: 1, variant });
      const envoy = await EnvoyProcess.start(sandbox, who, withCertificates(files, names));
      await envoy.waitUntilReady();
      const port = await envoy.port('inbound');
      // In Delta the port opens as soon as Envoy knows that there is no entry yet.
      const first = () => shownTo(port, 'ecdsa_secp256r1_sha256');
      expect(await envoy.until('a handshake', first)).toEqual({ id: web, bits: 256 });
      expect(await shownTo(port, 'rsa_pss_rsae_sha256')).toEqual({ id: web, bits: 2048 });
      expect(await shownTo(port, 'ecdsa_secp384r1_sha384')).toEqual({ id: web, bits: 384 });
      const versions = await envoy.secretVersions();
      expect([...versions.keys()].sort()).toEqual(['ALL', ...names].sort());
      expect(await envoy.stat('sds.web-cert.update_success')).toBeGreaterThan(0);
    },
  );
});
