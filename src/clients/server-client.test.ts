import { beforeAll, describe, expect, it } from 'vitest';
import {
  AgentService,
  type AttestAgentRequest,
  type AttestAgentResponse,
} from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { Bundle as WireBundle } from '../gen/spire/api/types/bundle.ts';
import { bidi, type GrpcService, serviceOf, unary } from '../rpc/handlers.ts';
import { spiffeIdToWire } from '../rpc/messages.ts';
import { itemStatus } from '../rpc/status.ts';
import { AppError } from '../runtime/error.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { ServerClient } from './server-client.ts';

const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/x');
const signal = new AbortController().signal;
const csr = Buffer.from('a request');

let root: TestIdentity;
let leaf: TestIdentity;
beforeAll(async () => {
  root = await TestIdentity.root('example.org');
  leaf = await root.issue(agentId.toString());
});

async function clientOf(...services: readonly GrpcService[]): Promise<ServerClient> {
  return new ServerClient(channelTo(await startListener({ services })));
}

function wireSvid() {
  return { certChain: [leaf.certificate.der], id: spiffeIdToWire(agentId), expiresAt: 1n, hint: '' };
}

describe('attestation', () => {
  /** Records what the agent sends and says what the script says. */
  async function attest(script: readonly AttestAgentResponse['step'][]) {
    const heard: AttestAgentRequest['step'][] = [];
    const client = await clientOf(
      serviceOf(AgentService, {
        attestAgent: bidi(async function* (requests) {
          const says = script[Symbol.iterator]();
          for await (const { step } of requests) {
            heard.push(step);
            const next = says.next();
            if (next.done) return;
            yield { step: next.value };
          }
        }),
      }),
    );
    const answer = async (challenge: Uint8Array) => Buffer.concat([Buffer.from('re:'), challenge]);
    const payload = new TextEncoder().encode('token');
    const result = client.attestAgent({ type: 'join_token', payload, csr, answer, signal });
    return { result, heard };
  }

  it('sends type, payload and CSR first, answers each challenge, and takes the result', async () => {
    const { result, heard } = await attest([
      { $case: 'challenge', value: Buffer.from('one') },
      { $case: 'challenge', value: Buffer.from('two') },
      { $case: 'result', value: { svid: wireSvid(), reattestable: true } },
    ]);
    const { chain, id, reattestable } = await result;
    expect(chain.map((certificate) => certificate.fingerprint)).toEqual([leaf.certificate.fingerprint]);
    expect([id.toString(), reattestable]).toEqual([agentId.toString(), true]);
    expect(heard).toEqual([
      {
        $case: 'params',
        value: { data: { type: 'join_token', payload: Buffer.from('token') }, params: { csr } },
      },
      { $case: 'challengeResponse', value: Buffer.from('re:one') },
      { $case: 'challengeResponse', value: Buffer.from('re:two') },
    ]);
  });

  it.each<{ name: string; script: readonly AttestAgentResponse['step'][] }>([
    { name: 'nothing', script: [] },
    { name: 'an empty message', script: [undefined] },
    { name: 'no SVID', script: [{ $case: 'result', value: { svid: undefined, reattestable: false } }] },
    {
      name: 'an SVID without a chain',
      script: [
        {
          $case: 'result',
          value: {
            svid: { certChain: [], id: { trustDomain: 'example.org', path: '/x' }, expiresAt: 1n, hint: '' },
            reattestable: false,
          },
        },
      ],
    },
  ])('fails as internal when the server sends $name', async ({ script }) => {
    const { result } = await attest(script);
    await expect(result).rejects.toMatchObject({ code: 'internal' });
  });

  it('fails with what the server says', async () => {
    const client = await clientOf(
      serviceOf(AgentService, {
        // biome-ignore lint/correctness/useYield: it refuses before it could
        attestAgent: bidi(async function* () {
          throw new AppError('permission-denied', 'failed to attest: agent is banned', {
            reason: 'AGENT_BANNED',
          });
        }),
      }),
    );
    const request = { type: 'join_token', payload: csr, csr, answer: async () => csr, signal };
    await expect(client.attestAgent(request)).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_BANNED',
    });
  });
});

describe('signing', () => {
  it('gives each item its chain or its error, in order', async () => {
    const client = await clientOf(
      serviceOf(SVIDService, {
        batchNewX509Svid: unary(async ({ params }) => ({
          results: params.map(({ entryId }) => {
            if (entryId === 'good') return { status: itemStatus(), svid: wireSvid() };
            if (entryId === 'empty') return { status: itemStatus(), svid: undefined };
            return {
              status: itemStatus(new AppError('not-found', 'entry not found or not authorized')),
              svid: undefined,
            };
          }),
        })),
      }),
    );
    const requests = ['good', 'gone', 'empty'].map((entryId) => ({ entryId, csr }));
    const [good, gone, empty] = await client.batchNewX509Svid(requests, { signal });
    expect(good).toMatchObject([{ fingerprint: leaf.certificate.fingerprint }]);
    expect(gone).toMatchObject({ code: 'not-found' });
    expect(empty).toMatchObject({ code: 'internal' });
  });

  it('does not mistake a short answer', async () => {
    const client = await clientOf(
      serviceOf(SVIDService, { batchNewX509Svid: unary(async () => ({ results: [] })) }),
    );
    const requests = [{ entryId: 'a', csr }];
    await expect(client.batchNewX509Svid(requests, { signal })).rejects.toMatchObject({ code: 'internal' });
  });

  it('renews', async () => {
    const client = await clientOf(
      serviceOf(AgentService, { renewAgent: unary(async () => ({ svid: wireSvid() })) }),
    );
    const chain = await client.renewAgent({ csr, signal });
    expect(chain).toMatchObject([{ fingerprint: leaf.certificate.fingerprint }]);
  });
});

describe('the bundle', () => {
  const bundleServer = (bundle: Partial<WireBundle>) =>
    clientOf(
      serviceOf(BundleService, {
        getBundle: unary(async () => ({
          trustDomain: 'example.org',
          x509Authorities: [{ asn1: root.certificate.der, tainted: false }],
          jwtAuthorities: [],
          refreshHint: 60n,
          sequenceNumber: 3n,
          witAuthorities: [],
          ...bundle,
        })),
      }),
    );

  it('is read', async () => {
    const bundle = await (await bundleServer({})).getBundle({ signal });
    expect(bundle.certificates()).toMatchObject([{ fingerprint: root.certificate.fingerprint }]);
    expect(bundle).toMatchObject({ sequence: 3n, refreshHintSeconds: 60 });
  });

  it('that makes no sense is the fault of the server', async () => {
    const client = await bundleServer({ trustDomain: 'Not A Domain' });
    await expect(client.getBundle({ signal })).rejects.toMatchObject({ code: 'internal' });
  });
});
