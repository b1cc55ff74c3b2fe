import { beforeAll, expect, test } from 'vitest';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { AggregatedDiscoveryServiceClient } from '../../gen/envoy/service/discovery/v3/ads.ts';
import type {
  DeltaDiscoveryRequest,
  DeltaDiscoveryResponse,
  DiscoveryRequest,
  DiscoveryResponse,
} from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceClient } from '../../gen/envoy/service/secret/v3/sds.ts';
import { Received } from '../../testing/received.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { defaultSdsSettings } from '../../testing/sds-settings.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { connectTo, startWorkloadSocket } from '../../testing/workload-socket.ts';
import type { HeldSvid } from '../workload-view.ts';
import { openSecretServices } from './secret-services.ts';
import { secretTypeUrl } from './secrets.ts';
import { defaultStreamBudget, StreamBudget } from './stream-budget.ts';

const hourMs = 3_600_000;
const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', federatesWith: ['other.org'] });
let own: TestTrustDomain;
let foreign: TestTrustDomain;
let stranger: TestTrustDomain;
let svid: HeldSvid;
beforeAll(async () => {
  own = await TestTrustDomain.create('example.org');
  foreign = await TestTrustDomain.create('other.org');
  stranger = await TestTrustDomain.create('other.org');
  // So that nothing expires in the hour.
  svid = await own.sign(web, { notAfterMs: Date.UTC(2027, 0, 1) });
});

const certificates = ['default', 'spiffe://example.org/web'];
const ownTrust = ['ROOTCA', 'spiffe://example.org'];
const foreignTrust = ['ALL', 'spiffe://other.org'];
const names = [...certificates, ...ownTrust, ...foreignTrust];

async function start() {
  const socket = await startWorkloadSocket({
    services: (deps) =>
      openSecretServices(defaultSdsSettings, { ...deps, budget: new StreamBudget(defaultStreamBudget) })
        .services,
  });
  socket.cache.setBundle(own.bundle());
  socket.cache.setEntries([web]);
  socket.cache.setFederatedBundles([foreign.bundle()]);
  socket.cache.putSvids([svid]);
  return socket;
}

interface OpenStream {
  /** Subscribes to these too. */
  ask(names: readonly string[]): void;
  /** The one secret of the next response, which is acknowledged. */
  next(): Promise<Secret>;
}

function sotw(call: ReturnType<SecretDiscoveryServiceClient['streamSecrets']>): OpenStream {
  const received = new Received<DiscoveryResponse>(call);
  const resourceNames: string[] = [];
  const send = (responseNonce: string) => {
    const fields = { versionInfo: '', node: undefined, errorDetail: undefined };
    const request: DiscoveryRequest = { ...fields, typeUrl: secretTypeUrl, resourceNames, responseNonce };
    call.write(request);
  };
  call.on('data', ({ nonce }: DiscoveryResponse) => send(nonce));
  return {
    ask: (more) => {
      resourceNames.push(...more);
      send('');
    },
    next: async () => Secret.decode((await received.next()).resources[0]!.value),
  };
}

function delta(call: ReturnType<SecretDiscoveryServiceClient['deltaSecrets']>): OpenStream {
  const received = new Received<DeltaDiscoveryResponse>(call);
  const send = (resourceNamesSubscribe: string[], responseNonce: string) => {
    const fields = { node: undefined, resourceNamesUnsubscribe: [], initialResourceVersions: {} };
    const rest = { ...fields, typeUrl: secretTypeUrl, errorDetail: undefined };
    const request: DeltaDiscoveryRequest = { ...rest, resourceNamesSubscribe, responseNonce };
    call.write(request);
  };
  call.on('data', ({ nonce }: DeltaDiscoveryResponse) => send([], nonce));
  return {
    ask: (more) => send([...more], ''),
    next: async () => Secret.decode((await received.next()).resources[0]!.resource!.value),
  };
}

const variants = {
  StreamSecrets: (target: string) => sotw(connectTo(SecretDiscoveryServiceClient, target).streamSecrets()),
  DeltaSecrets: (target: string) => delta(connectTo(SecretDiscoveryServiceClient, target).deltaSecrets()),
  StreamAggregatedResources: (target: string) =>
    sotw(connectTo(AggregatedDiscoveryServiceClient, target).streamAggregatedResources()),
  DeltaAggregatedResources: (target: string) =>
    delta(connectTo(AggregatedDiscoveryServiceClient, target).deltaAggregatedResources()),
};
type Variant = keyof typeof variants;
const allVariants = Object.keys(variants) as Variant[];

/** A stream that has all its secrets. */
async function settled(target: string, variant: Variant) {
  const stream = variants[variant](target);
  stream.ask(names);
  const secrets = new Map<string, Secret>();
  for (const _ of names) {
    const secret = await stream.next();
    secrets.set(secret.name, secret);
  }
  expect([...secrets.keys()].sort()).toEqual([...names].sort());
  return { ...stream, secrets };
}

/** All that has been sent until now: the answer to a request comes after it. */
async function sentUntilNow({ ask, next }: OpenStream): Promise<readonly Secret[]> {
  const mark = 'default?key=ec-p256';
  ask([mark]);
  const sent: Secret[] = [];
  for (let secret = await next(); secret.name !== mark; secret = await next()) sent.push(secret);
  return sent;
}

test.each(allVariants)(
  '%s sends no private key when a federated bundle alone has changed',
  async (variant) => {
    const { target, cache } = await start();
    const stream = await settled(target, variant);
    cache.setFederatedBundles([bundleOf('other.org', [foreign.root.certificate, stranger.root.certificate])]);
    const sent = await sentUntilNow(stream);
    expect(sent.map(({ name }) => name).sort()).toEqual([...foreignTrust].sort());
    expect(sent.map(({ type }) => type?.$case)).toEqual(['validationContext', 'validationContext']);
  },
);

const silentVariants = allVariants.filter((variant) => variant !== 'DeltaAggregatedResources');
test.each(silentVariants)('%s sends nothing in an idle hour', async (variant) => {
  const { target, clock } = await start();
  const stream = await settled(target, variant);
  await clock.advance(hourMs);
  expect(await sentUntilNow(stream)).toEqual([]);
});

test('DeltaAggregatedResources sends nothing in an idle hour but, again and again, what it has sent', async () => {
  const { target, clock } = await start();
  const sleepers = clock.sleepers;
  const stream = await settled(target, 'DeltaAggregatedResources');
  await clock.untilSleepers(sleepers + 1);
  // So that what was sent is known to be acknowledged.
  await sentUntilNow(stream);
  await clock.advance(hourMs);
  const again = await sentUntilNow(stream);
  expect(again.map(({ name }) => name)).toEqual(expect.arrayContaining(names));
  for (const secret of again) expect(secret).toEqual(stream.secrets.get(secret.name));
});
