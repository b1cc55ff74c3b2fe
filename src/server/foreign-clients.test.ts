import { expect, it } from 'vitest';
import { AgentService } from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { type ClientMethod, callUnary } from '../rpc/grpc-client.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { bundleOf } from '../testing/trust-domain.ts';

const hourMs = 3_600_000;
const validity = { notBeforeMs: Date.now() - hourMs, notAfterMs: Date.now() + hourMs };

it.each([
  { name: 'of another trust domain', trustDomain: 'other.org', text: '"spiffe://other.org/spire/agent/x"' },
  { name: 'that somebody else made for ours', trustDomain: 'example.org', text: 'does not verify' },
])('a client certificate $name is refused for every method, and told why', async ({ trustDomain, text }) => {
  const server = await TestServer.start();
  const root = await TestIdentity.root(trustDomain, validity);
  if (trustDomain === 'other.org') {
    // To know a trust domain is not to let its members in.
    await server.admin.bundles.set(bundleOf(trustDomain, [root.certificate]), { signal: noAbort });
  }
  const uri = `spiffe://${trustDomain}/spire/agent/x`;
  const { certificate, key, signer } = await root.issue(uri, validity);
  const channel = await server.connect({ id: SpiffeId.parse(uri), key, signer, chain: [certificate] });
  const call = <Req>(method: ClientMethod<Req, unknown>, request: Req) =>
    expect(callUnary(channel, method, request)).rejects.toMatchObject({
      code: 'unauthenticated',
      message: expect.stringContaining(text),
    });
  await call(BundleService.getBundle, { outputMask: undefined });
  await call(AgentService.createJoinToken, { ttl: 60, token: '', agentId: undefined });
});
