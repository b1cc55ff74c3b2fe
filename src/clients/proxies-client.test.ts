import { expect, it } from 'vitest';
import { ProxiesService, Proxy as WireProxy } from '../gen/signet/proxy/v1/proxy.ts';
import { serverStream, serviceOf } from '../rpc/handlers.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { ProxiesClient } from './proxies-client.ts';

const { signal } = new AbortController();
const empty = WireProxy.decode(new Uint8Array());

/** A client of an agent that answers with these, and what it was asked. */
async function start(answers: readonly Partial<WireProxy>[]) {
  const asked: unknown[] = [];
  const service = serviceOf(ProxiesService, {
    listProxies: serverStream(async function* (request) {
      asked.push(request);
      for (const answer of answers) yield { ...empty, ...answer };
    }),
  });
  return { asked, client: new ProxiesClient(channelTo(await startListener({ services: [service] }))) };
}

it('asks for all proxies, or for those that are meant', async () => {
  const { asked, client } = await start([]);
  await client.list({ signal });
  const states = ['refused', 'held'] as const;
  await client.list({
    pid: 7,
    nodeId: 'n',
    spiffeId: 'i',
    states,
    includeGone: true,
    includeSecrets: true,
    signal,
  });
  expect(asked).toEqual([
    { pid: 0, nodeId: '', spiffeId: '', withState: [], includeGone: false, includeSecrets: false },
    { pid: 7, nodeId: 'n', spiffeId: 'i', withState: [5, 3], includeGone: true, includeSecrets: true },
  ]);
});

it('reads an answer with nothing in it, and one of a newer agent', async () => {
  const secret = { name: 's', streams: 1, sent: undefined, acknowledged: undefined, refused: undefined };
  const newer = { ...secret, state: 77 as never, kind: 78 as never, held: '', nextStep: '' };
  const { client } = await start([{}, { protocols: [79 as never], secrets: [newer] }]);
  expect(await client.list({ signal })).toMatchObject([
    { node: undefined, counts: { acknowledged: 0, refused: 0 }, secrets: [], connectedAtMs: 0 },
    { protocols: ['unknown'], secrets: [{ name: 's', state: 'unknown', kind: undefined }] },
  ]);
});

it('refuses an answer that no agent should give', async () => {
  const { client } = await start([{ connectedAtMs: -1n }]);
  await expect(client.list({ signal })).rejects.toMatchObject({ code: 'internal' });
});

it('can be interrupted', async () => {
  const stopping = new AbortController();
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  const service = serviceOf(ProxiesService, {
    listProxies: serverStream(async function* (_, context) {
      yield empty;
      resolve();
      await new Promise((done) => context.signal.addEventListener('abort', done));
    }),
  });
  const client = new ProxiesClient(channelTo(await startListener({ services: [service] })));
  const listing = client.list({ signal: stopping.signal });
  await asked;
  stopping.abort();
  await expect(listing).rejects.toMatchObject({ code: 'cancelled' });
});
