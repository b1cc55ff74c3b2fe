import { status } from '@grpc/grpc-js';
import { beforeAll, describe, expect, test } from 'vitest';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { AggregatedDiscoveryServiceClient } from '../../gen/envoy/service/discovery/v3/ads.ts';
import type {
  DeltaDiscoveryRequest,
  DeltaDiscoveryResponse,
  DiscoveryRequest,
  DiscoveryResponse,
} from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceClient } from '../../gen/envoy/service/secret/v3/sds.ts';
import { createLogger } from '../../runtime/log.ts';
import { Received } from '../../testing/received.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { defaultSdsSettings } from '../../testing/sds-settings.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';
import { connectTo, startWorkloadSocket } from '../../testing/workload-socket.ts';
import type { AgentConfig } from '../config.ts';
import type { HeldSvid } from '../workload-view.ts';
import { openSecretServices } from './secret-services.ts';
import { secretTypeUrl } from './secrets.ts';
import { defaultStreamBudget, StreamBudget } from './stream-budget.ts';

const clusterType = 'type.googleapis.com/envoy.config.cluster.v3.Cluster';
const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', createdAt: 1 });
const api = testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api', createdAt: 2 });
let domain: TestTrustDomain;
let webSvid: HeldSvid;
let webRenewed: HeldSvid;
beforeAll(async () => {
  domain = await TestTrustDomain.create('example.org');
  webSvid = await domain.sign(web);
  webRenewed = await domain.sign(web);
});

async function start(sds: Partial<AgentConfig['sds']> = {}) {
  const lines: Record<string, unknown>[] = [];
  const write = (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>);
  const socket = await startWorkloadSocket({
    log: createLogger({ level: 'info', format: 'json', write }),
    services: (deps) =>
      openSecretServices(
        { ...defaultSdsSettings, ...sds },
        { ...deps, budget: new StreamBudget(defaultStreamBudget) },
      ).services,
  });
  const fill = () => {
    socket.cache.setBundle(domain.bundle());
    socket.cache.setEntries([web]);
    socket.cache.putSvids([webSvid]);
  };
  return { ...socket, fill, lines };
}

/** The two services that speak Delta. */
const deltaServices = {
  DeltaSecrets: (target: string) => connectTo(SecretDiscoveryServiceClient, target).deltaSecrets(),
  DeltaAggregatedResources: (target: string) =>
    connectTo(AggregatedDiscoveryServiceClient, target).deltaAggregatedResources(),
};
const deltaMethods = Object.keys(deltaServices) as (keyof typeof deltaServices)[];

function openDelta(target: string, method: keyof typeof deltaServices = 'DeltaSecrets') {
  const call = deltaServices[method](target);
  const received = new Received<DeltaDiscoveryResponse>(call);
  const ask = (fields: {
    subscribe?: string[];
    unsubscribe?: string[];
    nonce?: string;
    typeUrl?: string;
  }) => {
    const request: DeltaDiscoveryRequest = {
      node: undefined,
      typeUrl: fields.typeUrl ?? secretTypeUrl,
      resourceNamesSubscribe: fields.subscribe ?? [],
      resourceNamesUnsubscribe: fields.unsubscribe ?? [],
      initialResourceVersions: {},
      responseNonce: fields.nonce ?? '',
      errorDetail: undefined,
    };
    call.write(request);
  };
  call.on('data', ({ nonce }: DeltaDiscoveryResponse) => ask({ nonce }));
  return { received, ask, next: () => received.next() };
}

function openAds(target: string) {
  const call = connectTo(AggregatedDiscoveryServiceClient, target).streamAggregatedResources();
  const received = new Received<DiscoveryResponse>(call);
  const ask = (names: readonly string[], fields: Partial<DiscoveryRequest> = {}) =>
    call.write({
      versionInfo: '',
      node: undefined,
      resourceNames: [...names],
      typeUrl: secretTypeUrl,
      responseNonce: '',
      errorDetail: undefined,
      ...fields,
    });
  return { received, ask, next: () => received.next() };
}

/** `name version`, or `-name` for what is removed. */
function summary({ resources, removedResources, systemVersionInfo }: DeltaDiscoveryResponse): string {
  const sent = resources.map(({ name, version, resource }) => {
    expect([version, Secret.decode(resource!.value).name]).toEqual([systemVersionInfo, name]);
    return name;
  });
  return [...sent, ...removedResources.map((name) => `-${name}`)].join(' ');
}

describe.each(deltaMethods)('%s', (method) => {
  test('answers each name in a response of its own, and says at once what does not exist', async () => {
    const { fill, target } = await start();
    fill();
    const { ask, received } = openDelta(target, method);
    ask({ subscribe: ['ALL', 'nonsense', 'default', 'spiffe://example.org/api'] });
    const responses = await received.take(4);
    expect(responses.map(summary).sort()).toEqual([
      '-nonsense',
      '-spiffe://example.org/api',
      'ALL',
      'default',
    ]);
    expect(new Set(responses.map(({ nonce }) => nonce)).size).toBe(4);
    for (const { typeUrl, controlPlane } of responses) {
      expect([typeUrl, controlPlane?.identifier]).toEqual([
        secretTypeUrl,
        expect.stringMatching(/^signet-agent\//),
      ]);
    }
  });

  test('answers a second subscription though nothing has changed (envoy#47309)', async () => {
    const { fill, target } = await start();
    fill();
    const { ask, next } = openDelta(target, method);
    ask({ subscribe: ['default'] });
    const first = await next();
    ask({ subscribe: ['default'] });
    const second = await next();
    expect(second.resources).toEqual(first.resources);
  });

  test('says nothing of what the agent does not know yet, and removes nothing', async () => {
    const { fill, target } = await start();
    const { ask, next } = openDelta(target, method);
    ask({ subscribe: ['default', 'spiffe://example.org/api', 'nonsense'] });
    // What nobody is ever served needs no knowledge.
    expect(summary(await next())).toBe('-nonsense');
    fill();
    const after = [summary(await next()), summary(await next())];
    expect(after.sort()).toEqual(['-spiffe://example.org/api', 'default']);
  });

  test('removes what is withdrawn, and sends it when it comes back', async () => {
    const { fill, target, cache } = await start();
    fill();
    const { ask, next } = openDelta(target, method);
    ask({ subscribe: ['default'] });
    await next();
    cache.setEntries([]);
    expect(summary(await next())).toBe('-default');
    cache.setEntries([web]);
    cache.putSvids([webRenewed]);
    expect(summary(await next())).toBe('default');
  });

  test('sends nothing for names that are given back', async () => {
    const { fill, target, cache } = await start();
    fill();
    const { ask, next } = openDelta(target, method);
    ask({ subscribe: ['default', 'ROOTCA'] });
    await next();
    await next();
    ask({ unsubscribe: ['default'] });
    ask({ subscribe: ['ALL'] });
    expect(summary(await next())).toBe('ALL');
    cache.putSvids([webRenewed]);
    cache.setBundle((await TestTrustDomain.create('example.org')).bundle());
    expect(['ROOTCA', 'ALL']).toContain(summary(await next()));
  });
});

describe('an aggregated stream', () => {
  test('serves secrets and keeps silent about every other type, once in the log', async () => {
    const { fill, target, lines } = await start();
    fill();
    const { ask, next } = openAds(target);
    ask(['x'], { typeUrl: clusterType });
    ask([], { typeUrl: clusterType });
    ask([], { typeUrl: '' });
    ask(['ROOTCA']);
    const response = await next();
    expect([response.typeUrl, response.nonce]).toEqual([secretTypeUrl, '1']);
    expect(lines.map(({ message, typeUrl }) => [message, typeUrl])).toEqual([
      ['the proxy asks for what is no secret; it gets none', clusterType],
      ['the proxy asks for what is no secret; it gets none', ''],
    ]);
  });

  test('of Delta does so too', async () => {
    const { fill, target } = await start();
    fill();
    const { ask, next } = openDelta(target, 'DeltaAggregatedResources');
    ask({ subscribe: ['default'], typeUrl: clusterType });
    ask({ subscribe: ['ROOTCA'] });
    expect(summary(await next())).toBe('ROOTCA');
  });

  test('answers names that are asked for again with the nonce of their ACK (envoy#47309)', async () => {
    const { fill, target } = await start();
    fill();
    const { ask, next } = openAds(target);
    ask(['ROOTCA']);
    const first = await next();
    ask(['ROOTCA'], { responseNonce: first.nonce });
    ask(['ROOTCA'], { responseNonce: first.nonce });
    expect(await next()).toMatchObject({ versionInfo: first.versionInfo, nonce: '2' });
  });

  test('of Delta sends unchanged secrets again every one to two minutes, DeltaSecrets does not', async () => {
    const { fill, target, clock } = await start();
    fill();
    const sleepers = clock.sleepers;
    const plain = openDelta(target, 'DeltaSecrets');
    plain.ask({ subscribe: ['ROOTCA'] });
    await plain.next();
    const aggregated = openDelta(target, 'DeltaAggregatedResources');
    aggregated.ask({ subscribe: ['ROOTCA', 'nonsense', 'default'] });
    await aggregated.received.take(3);
    await clock.untilSleepers(sleepers + 1);
    // The answer to a later request shows that the ACKs have been read.
    aggregated.ask({ subscribe: ['nonsense'] });
    await aggregated.next();
    await clock.advance(120_000);
    const again = (await aggregated.received.take(2)).map(summary);
    expect(again.sort()).toEqual(['ROOTCA', 'default']);
    plain.ask({ subscribe: ['ALL'] });
    expect(summary(await plain.next())).toBe('ALL');
  });
});

describe('unknownNames: fail', () => {
  test.each([
    { name: 'nobody is ever served', asked: 'nonsense' },
    { name: 'the workload may not have', asked: 'spiffe://example.org/api' },
  ])('ends the stream for a name that $name, in the words of SPIRE', async ({ asked }) => {
    const { fill, target } = await start({ unknownNames: 'fail' });
    fill();
    const call = connectTo(SecretDiscoveryServiceClient, target).streamSecrets();
    const received = new Received<DiscoveryResponse>(call);
    call.write({
      versionInfo: '',
      node: undefined,
      resourceNames: ['default', asked],
      typeUrl: secretTypeUrl,
      responseNonce: '',
      errorDetail: undefined,
    });
    expect(await received.ended).toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: `workload is not authorized for the requested identities ["${asked}"]`,
    });
  });

  test('waits until the agent knows, and ends streams of what is withdrawn', async () => {
    const { fill, target, cache } = await start({ unknownNames: 'fail' });
    const { ask, received } = openDelta(target);
    ask({ subscribe: ['default'] });
    fill();
    expect(summary(await received.next())).toBe('default');
    cache.setEntries([{ ...api, selectors: [{ type: 'unix', value: 'uid:9' }] }]);
    expect(await received.ended).toMatchObject({ code: status.INVALID_ARGUMENT });
  });
});
