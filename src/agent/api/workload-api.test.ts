import { createPrivateKey, createPublicKey } from 'node:crypto';
import { type CallOptions, Metadata, status } from '@grpc/grpc-js';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  SpiffeWorkloadAPIClient,
  type X509BundlesResponse,
  type X509SVIDResponse,
} from '../../gen/workloadapi.ts';
import { eventually } from '../../testing/eventually.ts';
import { Received } from '../../testing/received.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { connectTo, startWorkloadSocket } from '../../testing/workload-socket.ts';
import { parseCertificates } from '../../x509/certificate.ts';
import type { HeldSvid } from '../workload-view.ts';
import { defaultStreamBudget, StreamBudget } from './stream-budget.ts';
import { workloadApi } from './workload-api.ts';

const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', createdAt: 1, hint: 'internal' });
const api = testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api', createdAt: 2, hint: 'internal' });
let domain: TestTrustDomain;
let foreign: TestTrustDomain;
let webSvid: HeldSvid;
let webRenewed: HeldSvid;
let apiSvid: HeldSvid;
beforeAll(async () => {
  domain = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  webSvid = await domain.sign(web);
  webRenewed = await domain.sign(web);
  apiSvid = await domain.sign(api);
});

async function start() {
  const budget = new StreamBudget(defaultStreamBudget);
  const socket = await startWorkloadSocket({
    services: ({ attestation, cache, clock }) => [workloadApi({ attestation, cache, clock, budget })],
  });
  const fill = () => {
    socket.cache.setBundle(domain.bundle());
    socket.cache.setEntries([web]);
    socket.cache.putSvids([webSvid]);
  };
  const client = connectTo(SpiffeWorkloadAPIClient, socket.target);
  return {
    ...socket,
    fill,
    client,
    fetchSvids: (metadata = header('true')) =>
      new Received<X509SVIDResponse>(client.fetchX509Svid({}, metadata, noOptions)),
    fetchBundles: (metadata = header('true')) =>
      new Received<X509BundlesResponse>(client.fetchX509Bundles({}, metadata, noOptions)),
  };
}

const noOptions: Partial<CallOptions> = {};

function header(...values: string[]): Metadata {
  const metadata = new Metadata();
  for (const value of values) metadata.add('workload.spiffe.io', value);
  return metadata;
}

function idsOf({ svids }: X509SVIDResponse): string[] {
  return svids.map(({ spiffeId }) => spiffeId);
}

describe('FetchX509SVID', () => {
  test('answers at once with chain, key and bundle (WAPI-08, 15, 16, 19)', async () => {
    const { fill, fetchSvids } = await start();
    fill();
    const { svids, crl, federatedBundles } = await fetchSvids().next();
    expect([crl, federatedBundles]).toEqual([[], {}]);
    const [svid] = svids;
    const chain = parseCertificates(svid!.x509Svid);
    expect(chain.map(({ fingerprint }) => fingerprint)).toEqual(webSvid.svid.chain.map((c) => c.fingerprint));
    expect(chain[0]?.uris).toEqual([svid!.spiffeId]);
    const key = createPrivateKey({ key: svid!.x509SvidKey, format: 'der', type: 'pkcs8' });
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    expect(Buffer.compare(spki, chain[0]!.spki)).toBe(0);
    expect(parseCertificates(svid!.bundle).map(({ fingerprint }) => fingerprint)).toEqual([
      domain.root.certificate.fingerprint,
    ]);
    expect(svid!.hint).toBe('internal');
  });

  test('sends the full state after each change, and only then (WAPI-06, 07)', async () => {
    const { fill, fetchSvids, cache } = await start();
    fill();
    const received = fetchSvids();
    await received.next();
    cache.setEntries([web, testEntry({ id: 'x', selectors: ['unix:uid:9'] })]);
    cache.putSvids([webRenewed]);
    const [leaf] = parseCertificates((await received.next()).svids[0]!.x509Svid);
    expect(leaf?.fingerprint).toBe(webRenewed.svid.leaf.fingerprint);
    cache.setEntries([web, api]);
    cache.putSvids([apiSvid]);
    const both = await received.next();
    expect(idsOf(both)).toEqual(['spiffe://example.org/web', 'spiffe://example.org/api']);
    cache.setEntries([api]);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/api']);
  });

  test('has each hint once, with the older entry (WAPI-20)', async () => {
    const { fill, fetchSvids, cache } = await start();
    fill();
    cache.setEntries([api, web]);
    cache.putSvids([apiSvid]);
    const { svids } = await fetchSvids().next();
    expect(svids.map(({ spiffeId, hint }) => [spiffeId, hint])).toEqual([
      ['spiffe://example.org/web', 'internal'],
      ['spiffe://example.org/api', ''],
    ]);
  });

  test('brings the bundles of federated trust domains, and takes them back (WAPI-10)', async () => {
    const { fill, fetchSvids, cache } = await start();
    fill();
    cache.setFederatedBundles([foreign.bundle(), bundleOf('empty.org', [])]);
    const federated = testEntry({
      id: 'web',
      spiffeId: 'spiffe://example.org/web',
      revision: 1,
      federatesWith: ['foreign.org', 'empty.org'],
    });
    cache.setEntries([federated]);
    const received = fetchSvids();
    const { federatedBundles } = await received.next();
    expect(Object.keys(federatedBundles)).toEqual(['spiffe://foreign.org']);
    cache.setFederatedBundles([]);
    expect((await received.next()).federatedBundles).toEqual({});
  });

  test('waits while nothing is signed, and never sends an empty list (WAPI-18)', async () => {
    const { fetchSvids, cache } = await start();
    cache.setBundle(domain.bundle());
    cache.setEntries([web]);
    const received = fetchSvids();
    await eventually(() => expect(cache.demand.version).toBe(1));
    cache.putSvids([webSvid]);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/web']);
  });

  test('starts with the default identity, when it comes in time (WAPI-57)', async () => {
    const { fetchSvids, cache, clock } = await start();
    cache.setBundle(domain.bundle());
    cache.setEntries([web, api]);
    const received = fetchSvids();
    await clock.untilSleepers(1);
    cache.putSvids([apiSvid]);
    await clock.advance(4_999);
    cache.putSvids([webSvid]);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/web', 'spiffe://example.org/api']);
  });

  test('starts with what there is when the default identity takes too long', async () => {
    const { fetchSvids, cache, clock } = await start();
    cache.setBundle(domain.bundle());
    cache.setEntries([web, api]);
    const received = fetchSvids();
    await clock.untilSleepers(1);
    cache.putSvids([apiSvid]);
    await clock.advance(5_000);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/api']);
    cache.putSvids([webSvid]);
    // It stays the default of this stream; one that starts now has the other one.
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/api', 'spiffe://example.org/web']);
    expect(idsOf(await fetchSvids().next())).toEqual([
      'spiffe://example.org/web',
      'spiffe://example.org/api',
    ]);
  });

  test('does not switch the default identity when that has expired: it says nothing until it is signed again', async () => {
    const { fetchSvids, fetchBundles, cache } = await start();
    const brief = await domain.sign(web, { notAfterMs: webSvid.svid.notAfterMs - 60_000 });
    cache.setBundle(domain.bundle());
    cache.setEntries([web, api]);
    cache.putSvids([brief, apiSvid]);
    const [received, bundles] = [fetchSvids(), fetchBundles()];
    const both = ['spiffe://example.org/web', 'spiffe://example.org/api'];
    expect(idsOf(await received.next())).toEqual(both);
    await bundles.next();
    expect(cache.expire(brief.svid.notAfterMs)).toEqual([brief]);
    const { root } = await TestTrustDomain.create('example.org');
    cache.setBundle(domain.bundle().withAuthority(root.certificate));
    // Another stream shows that the change has gone round.
    await bundles.next();
    cache.putSvids([webRenewed]);
    const next = await received.next();
    expect(idsOf(next)).toEqual(both);
    const [leaf] = parseCertificates(next.svids[0]!.x509Svid);
    expect(leaf?.fingerprint).toBe(webRenewed.svid.leaf.fingerprint);
  });

  test('gives up a default identity that was withdrawn', async () => {
    const { fetchSvids, cache } = await start();
    cache.setBundle(domain.bundle());
    cache.setEntries([web, api]);
    cache.putSvids([webSvid, apiSvid]);
    const received = fetchSvids();
    await received.next();
    cache.setEntries([api]);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/api']);
  });

  test('keeps its default identity when an older one joins', async () => {
    const { fetchSvids, cache } = await start();
    cache.setBundle(domain.bundle());
    cache.setEntries([api]);
    cache.putSvids([apiSvid]);
    const received = fetchSvids();
    await received.next();
    cache.setEntries([web, api]);
    cache.putSvids([webSvid]);
    expect(idsOf(await received.next())).toEqual(['spiffe://example.org/api', 'spiffe://example.org/web']);
  });

  test('ends with PermissionDenied when the last identity is withdrawn (WAPI-22)', async () => {
    const { fill, fetchSvids, cache } = await start();
    fill();
    const received = fetchSvids();
    await received.next();
    cache.setEntries([]);
    expect(await received.ended).toMatchObject({
      code: status.PERMISSION_DENIED,
      details: 'no identity issued',
    });
  });

  test('sends no key to a program other than the one that was attested', async () => {
    const { fill, fetchSvids, cache, facts } = await start();
    fill();
    const received = fetchSvids();
    await received.next();
    facts.program = '/bin/sh';
    cache.putSvids([webRenewed]);
    expect(await received.ended).toMatchObject({ code: status.PERMISSION_DENIED });
    await expect(received.next()).rejects.toThrow('ended');
  });

  test('lets go of everything when the caller goes', async () => {
    const { fill, client, cache } = await start();
    fill();
    const call = client.fetchX509Svid({}, header('true'));
    const received = new Received(call);
    await received.next();
    const { view, release } = cache.watch([{ type: 'unix', value: 'uid:1000' }]);
    expect(view.followers).toBeGreaterThan(0);
    call.cancel();
    await eventually(() => expect(view.followers).toBe(0));
    release();
  });
});

describe('FetchX509Bundles', () => {
  test('answers with the own bundle, and again when a root is added (WAPI-26)', async () => {
    const { fill, fetchBundles, cache } = await start();
    fill();
    const received = fetchBundles();
    const { bundles } = await received.next();
    expect(Object.keys(bundles)).toEqual(['spiffe://example.org']);
    expect(bundles['spiffe://example.org']?.equals(domain.root.certificate.der)).toBe(true);
    cache.putSvids([webRenewed]);
    const next = await TestTrustDomain.create('example.org');
    cache.setBundle(domain.bundle().withAuthority(next.root.certificate));
    const second = await received.next();
    expect(parseCertificates(second.bundles['spiffe://example.org']!)).toHaveLength(2);
  });

  test('is refused for a caller without identity, also later (WAPI-27)', async () => {
    const { fill, fetchBundles, cache } = await start();
    fill();
    const received = fetchBundles();
    await received.next();
    cache.setEntries([]);
    expect(await received.ended).toMatchObject({ code: status.PERMISSION_DENIED });
    expect(await fetchBundles().ended).toMatchObject({ code: status.PERMISSION_DENIED });
  });
});

test('before the first sync callers are told to come back', async () => {
  const { fetchSvids, fetchBundles } = await start();
  expect(await fetchSvids().ended).toMatchObject({ code: status.UNAVAILABLE });
  expect(await fetchBundles().ended).toMatchObject({ code: status.UNAVAILABLE });
});

describe('the security header', () => {
  const unary = (call: (done: (error: { code: number } | null) => void) => void) => () =>
    new Promise<{ code: number } | null>((resolve) => call(resolve));

  test.each([
    { name: 'no value', values: [], code: status.INVALID_ARGUMENT },
    { name: '"True"', values: ['True'], code: status.INVALID_ARGUMENT },
    { name: '"1"', values: ['1'], code: status.INVALID_ARGUMENT },
    { name: 'an empty value', values: [''], code: status.INVALID_ARGUMENT },
    { name: 'two values', values: ['true', 'true'], code: status.INVALID_ARGUMENT },
    { name: '"true"', values: ['true'], code: undefined },
  ])(
    'with $name is judged before anything else, on all seven methods (ENDP-08)',
    async ({ values, code }) => {
      const { fill, client, facts, fetchSvids, fetchBundles } = await start();
      fill();
      const metadata = header(...values);
      const streams = [
        () => new Received(client.fetchJwtBundles({}, metadata)),
        () => new Received(client.fetchWitsvid({ spiffeId: '' }, metadata)),
        () => new Received(client.fetchWitBundles({}, metadata)),
      ];
      const calls = [
        unary((done) => client.fetchJwtsvid({ audience: ['a'], spiffeId: '' }, metadata, done)),
        unary((done) => client.validateJwtsvid({ audience: 'a', svid: 'x' }, metadata, done)),
        ...streams.map((open) => () => open().ended),
      ];
      for (const call of calls) expect(await call()).toMatchObject({ code: code ?? status.UNIMPLEMENTED });
      for (const received of [fetchSvids(metadata), fetchBundles(metadata)]) {
        if (code === undefined) await received.next();
        else
          expect(await received.ended).toMatchObject({
            code,
            details: 'security header missing from request',
          });
      }
      expect(facts.attestations).toBe(code === undefined ? 1 : 0);
    },
  );
});
