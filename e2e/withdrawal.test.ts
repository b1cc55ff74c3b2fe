import { expect, it } from 'vitest';
import { DeltaDiscoveryRequest } from '../src/gen/envoy/service/discovery/v3/discovery.ts';
import { discoveryRequest } from '../src/testing/envoy-node.ts';
import { parsePemCertificates } from '../src/x509/certificate.ts';
import { describeWith } from './support/parts.ts';
import { callAs } from './support/plain-calls.ts';
import { frame, type PlainAnswer, type PlainCall } from './support/plain-grpc.ts';
import { createProxyIdentity } from './support/proxy-identity.ts';
import { SignetAgent, SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

const withdrawn = 'spiffe://example.org/withdrawn';
const kept = 'spiffe://example.org/kept';
const sds = '/envoy.service.secret.v3.SecretDiscoveryService';
const ads = '/envoy.service.discovery.v3.AggregatedDiscoveryService';

const sotw = frame(discoveryRequest({ names: [withdrawn, kept] })).toString('base64');
const delta = frame(
  DeltaDiscoveryRequest.encode({
    node: undefined,
    typeUrl: 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret',
    resourceNamesSubscribe: [withdrawn, kept],
    resourceNamesUnsubscribe: [],
    initialResourceVersions: {},
    responseNonce: '',
    errorDetail: undefined,
  }).finish(),
).toString('base64');

/**
 * Every way to ask for both identities, each on a connection of its own. What can come before `kept` comes before it;
 * Delta says of `withdrawn` that it is not there.
 */
function everyWay(present: boolean): readonly PlainCall[] {
  const stream = (name: string, path: string, send: string, until: number): PlainCall => ({
    name,
    path,
    steps: [{ send, until }],
    isStream: true,
  });
  return [
    { name: 'fetch', path: `${sds}/FetchSecrets`, steps: [{ send: sotw }] },
    stream('sotw', `${sds}/StreamSecrets`, sotw, present ? 2 : 1),
    stream('delta', `${sds}/DeltaSecrets`, delta, 2),
    stream('ads-sotw', `${ads}/StreamAggregatedResources`, sotw, present ? 2 : 1),
    stream('ads-delta', `${ads}/DeltaAggregatedResources`, delta, 2),
  ];
}

/** The SPIFFE IDs of all certificates in an answer. */
function idsIn({ messages }: PlainAnswer): ReadonlySet<string> {
  const text = messages.map((message) => Buffer.from(message, 'base64').toString('latin1')).join('\n');
  const pems = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return new Set(pems.flatMap((pem) => parsePemCertificates(pem).flatMap(({ uris }) => uris)));
}

/** For each way to ask, which of the two came. */
function found(answers: ReadonlyMap<string, PlainAnswer>): Readonly<Record<string, readonly string[]>> {
  const ofInterest = (answer: PlainAnswer) => [withdrawn, kept].filter((id) => idsIn(answer).has(id));
  return Object.fromEntries([...answers].map(([name, answer]) => [name, ofInterest(answer)]));
}

const all = (ids: readonly string[]) =>
  Object.fromEntries(everyWay(true).map(({ name }) => [name, ids] as const));

describeWith({ linux: true }, 'an identity that is withdrawn', () => {
  it('is got in no way a second later', async () => {
    const sandbox = await testSandbox();
    const server = await SignetServer.start(sandbox);
    const agent = await SignetAgent.join(sandbox, { server, config: { syncInterval: '200ms' } });
    const who = await createProxyIdentity(sandbox, 'caller', process.execPath);
    const { socket, alias: parent } = agent;
    const { selectors } = who;
    const id = await server.createEntry({ spiffeId: withdrawn, parent, selectors });
    await server.createEntry({ spiffeId: kept, parent, selectors });
    const ask = async (isThere: boolean) =>
      found(await callAs(sandbox, who, { socket, calls: everyWay(isThere) }));
    await agent.process.until('both identities', async () => {
      const [fetch] = everyWay(true);
      const got = found(await callAs(sandbox, who, { socket, calls: [fetch!] }));
      return got['fetch']?.length === 2;
    });
    expect(await ask(true)).toEqual(all([withdrawn, kept]));

    await server.deleteEntry(id);
    const deletedAt = performance.now();
    let askedAt: number;
    let got: Awaited<ReturnType<typeof ask>>;
    do {
      askedAt = performance.now();
      got = await ask(false);
    } while (askedAt - deletedAt < 1_000);
    expect(got).toEqual(all([kept]));
    expect(await ask(false)).toEqual(all([kept]));
  });
});
