import { beforeAll, describe, expect, it } from 'vitest';
import {
  AgentService,
  type AttestAgentRequest,
  type AttestAgentResponse,
} from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { EntryService } from '../gen/spire/api/server/entry/v1/entry.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { Bundle as WireBundle } from '../gen/spire/api/types/bundle.ts';
import { bidi, type GrpcService, serviceOf, unary } from '../rpc/handlers.ts';
import { entryToWire, spiffeIdToWire } from '../rpc/messages.ts';
import { itemStatus } from '../rpc/status.ts';
import { AppError } from '../runtime/error.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
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

  it('renews and mints', async () => {
    const client = await clientOf(
      serviceOf(AgentService, { renewAgent: unary(async () => ({ svid: wireSvid() })) }),
      serviceOf(SVIDService, { mintX509Svid: unary(async () => ({ svid: wireSvid() })) }),
    );
    for (const chain of [
      await client.renewAgent({ csr, signal }),
      await client.mintX509Svid({ csr, ttlSeconds: 60, signal }),
    ]) {
      expect(chain).toMatchObject([{ fingerprint: leaf.certificate.fingerprint }]);
    }
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
    expect(bundle).toMatchObject({ sequence: 3, refreshHintSeconds: 60 });
  });

  it('that makes no sense is the fault of the server', async () => {
    const client = await bundleServer({ trustDomain: 'Not A Domain' });
    await expect(client.getBundle({ signal })).rejects.toMatchObject({ code: 'internal' });
  });
});

describe('the registry', () => {
  it('creates in batches, and tells what existed', async () => {
    const batches: number[] = [];
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async ({ entries }) => {
          batches.push(entries.length);
          const results = entries.map((entry) => {
            const exists = entry.id === 'e-1';
            const status = itemStatus(
              exists ? new AppError('already-exists', 'similar entry already exists') : undefined,
            );
            return { status, entry };
          });
          return { results };
        }),
      }),
    );
    const wanted = Array.from({ length: 501 }, (_, i) => testEntry({ id: `e-${i}` }));
    const created = await client.createEntries(wanted, { signal });
    expect(batches).toEqual([500, 1]);
    expect(created.filter(({ existed }) => existed).map(({ entry }) => entry.id)).toEqual(['e-1']);
    expect(created).toHaveLength(501);
  });

  it('throws the first refusal of a batch', async () => {
    const client = await clientOf(
      serviceOf(EntryService, {
        batchCreateEntry: unary(async ({ entries }) => ({
          results: entries.map(() => ({
            status: itemStatus(new AppError('invalid-argument', 'bad DNS name')),
            entry: undefined,
          })),
        })),
      }),
    );
    await expect(client.createEntries([testEntry()], { signal })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'bad DNS name',
    });
  });

  it('lists page by page, with its filter on each', async () => {
    const pages: { token: string; filter: unknown }[] = [];
    const all = ['a', 'b', 'c'].map((id) => testEntry({ id }));
    const client = await clientOf(
      serviceOf(EntryService, {
        listEntries: unary(async ({ pageToken, filter }) => {
          pages.push({ token: pageToken, filter: filter?.byParentId });
          const at = all.findIndex(({ id }) => id > pageToken);
          return {
            entries: all.slice(at, at + 1).map(entryToWire),
            nextPageToken: all[at + 1] ? all[at]!.id : '',
          };
        }),
      }),
    );
    const entries = await client.listEntries({ parentId: agentId, signal });
    expect(entries.map(({ id }) => id)).toEqual(['a', 'b', 'c']);
    expect(pages).toEqual(['', 'a', 'b'].map((token) => ({ token, filter: spiffeIdToWire(agentId) })));
  });

  it('updates, and names what could not be deleted', async () => {
    const client = await clientOf(
      serviceOf(EntryService, {
        batchUpdateEntry: unary(async ({ entries: [entry] }) => ({
          results: [{ status: itemStatus(), entry }],
        })),
        batchDeleteEntry: unary(async ({ ids }) => ({
          results: ids.map((id) => ({
            id,
            status: itemStatus(id === 'gone' ? new AppError('not-found', 'entry not found') : undefined),
          })),
        })),
      }),
    );
    expect(await client.updateEntry(testEntry({ hint: 'new' }), { signal })).toMatchObject({ hint: 'new' });
    await client.deleteEntries(['a'], { signal });
    await expect(client.deleteEntries(['a', 'gone'], { signal })).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining('"gone"'),
    });
  });

  it('creates join tokens', async () => {
    const asked: unknown[] = [];
    const client = await clientOf(
      serviceOf(AgentService, {
        createJoinToken: unary(async (request) => {
          asked.push(request);
          return { value: 'secret', expiresAt: 1_800_000_000n };
        }),
      }),
    );
    const alias = SpiffeId.parse('spiffe://example.org/node');
    expect(await client.createJoinToken({ ttlSeconds: 600, agentId: alias, signal })).toEqual({
      value: 'secret',
      expiresAt: 1_800_000_000,
    });
    expect(asked).toEqual([{ ttl: 600, token: '', agentId: { trustDomain: 'example.org', path: '/node' } }]);
  });
});
