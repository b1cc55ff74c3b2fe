import { generateKeyPairSync } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import type { X509SVID, X509SVIDResponse } from '../gen/workloadapi.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { parseX509Bundles, parseX509Update } from './workload-messages.ts';

const unusable = expect.objectContaining({ code: 'internal' });

let root: TestIdentity;
let foreignRoot: TestIdentity;
let intermediate: TestIdentity;
let web: TestIdentity;
let api: TestIdentity;
beforeAll(async () => {
  [root, foreignRoot] = await Promise.all([
    TestIdentity.root('example.org'),
    TestIdentity.root('foreign.org'),
  ]);
  intermediate = await root.intermediate();
  web = await root.issue('spiffe://example.org/web');
  api = await intermediate.issue('spiffe://example.org/api');
});

function pkcs8(identity: TestIdentity): Buffer {
  return identity.key.export({ type: 'pkcs8', format: 'der' });
}

function svidOf(identity: TestIdentity, change: Partial<X509SVID> = {}): X509SVID {
  return {
    spiffeId: identity.certificate.uris[0]!,
    x509Svid: identity.certificate.der,
    x509SvidKey: pkcs8(identity),
    bundle: root.certificate.der,
    hint: '',
    ...change,
  };
}

function message(...svids: readonly X509SVID[]): X509SVIDResponse {
  return { svids: [...svids], crl: [], federatedBundles: {} };
}

describe('a FetchX509SVID message', () => {
  it('gives SVIDs in order, with chain, key and bundles', () => {
    const deep = svidOf(api, {
      x509Svid: Buffer.concat([api.certificate.der, intermediate.certificate.der]),
      hint: 'inner',
    });
    const update = parseX509Update({
      ...message(svidOf(web), deep),
      federatedBundles: { 'spiffe://foreign.org': foreignRoot.certificate.der },
    });
    expect(update.svids.map(({ svid, hint }) => [svid.id.toString(), svid.chain.length, hint])).toEqual([
      ['spiffe://example.org/web', 1, ''],
      ['spiffe://example.org/api', 2, 'inner'],
    ]);
    expect(update.svids[0]?.privateKeyPem).toBe(web.privateKeyPem);
    const names = [...update.bundles]
      .map(([name, bundle]) => [name, bundle.certificates()[0]?.fingerprint])
      .sort();
    expect(names).toEqual([
      ['example.org', root.certificate.fingerprint],
      ['foreign.org', foreignRoot.certificate.fingerprint],
    ]);
  });

  it('of SVIDs with one hint keeps the first, and all without a hint', () => {
    const hints = ['internal', 'external', 'internal', '', ''];
    const update = parseX509Update(message(...hints.map((hint) => svidOf(web, { hint }))));
    expect(update.svids.map(({ hint }) => hint)).toEqual(['internal', 'external', '', '']);
  });

  it('cannot replace the own bundle by a federated one', () => {
    const update = parseX509Update({
      ...message(svidOf(web)),
      federatedBundles: { 'spiffe://example.org': foreignRoot.certificate.der },
    });
    expect(update.bundles.get('example.org')?.certificates()).toMatchObject([
      { fingerprint: root.certificate.fingerprint },
    ]);
  });

  it.each<{ name: string; make: () => X509SVIDResponse }>([
    { name: 'no SVID', make: () => message() },
    { name: 'no SPIFFE ID', make: () => message(svidOf(web, { spiffeId: '' })) },
    { name: 'a bad SPIFFE ID', make: () => message(svidOf(web, { spiffeId: 'example.org/web' })) },
    { name: 'no certificate', make: () => message(svidOf(web, { x509Svid: Buffer.alloc(0) })) },
    { name: 'PEM', make: () => message(svidOf(web, { x509Svid: Buffer.from(web.certificate.toPem()) })) },
    {
      name: 'bytes after the chain',
      make: () => message(svidOf(web, { x509Svid: Buffer.concat([web.certificate.der, Buffer.from([0])]) })),
    },
    {
      name: 'the ID of another certificate',
      make: () => message(svidOf(web, { spiffeId: 'spiffe://example.org/api' })),
    },
    { name: 'a CA as leaf', make: () => message(svidOf(web, { x509Svid: root.certificate.der })) },
    { name: 'no key', make: () => message(svidOf(web, { x509SvidKey: Buffer.alloc(0) })) },
    { name: 'the key of another certificate', make: () => message(svidOf(web, { x509SvidKey: pkcs8(api) })) },
    {
      name: 'a SEC1 key',
      make: () => message(svidOf(web, { x509SvidKey: web.key.export({ type: 'sec1', format: 'der' }) })),
    },
    {
      name: 'a PKCS#1 key',
      make: () => {
        const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
        return message(svidOf(web, { x509SvidKey: privateKey.export({ type: 'pkcs1', format: 'der' }) }));
      },
    },
    {
      name: 'bytes after the key',
      make: () => message(svidOf(web, { x509SvidKey: Buffer.concat([pkcs8(web), Buffer.from([0])]) })),
    },
    { name: 'no bundle', make: () => message(svidOf(web, { bundle: Buffer.alloc(0) })) },
    {
      name: 'one bad SVID among good ones',
      make: () => message(svidOf(web), svidOf(api, { bundle: Buffer.from('x') })),
    },
    {
      name: 'an empty federated bundle',
      make: () => ({
        ...message(svidOf(web)),
        federatedBundles: { 'spiffe://foreign.org': Buffer.alloc(0) },
      }),
    },
    {
      name: 'a federated bundle of no trust domain',
      make: () => ({
        ...message(svidOf(web)),
        federatedBundles: { 'https://x': foreignRoot.certificate.der },
      }),
    },
  ])('with $name is refused as a whole', ({ make }) => {
    expect(() => parseX509Update(make())).toThrow(unusable);
  });
});

describe('a FetchX509Bundles message', () => {
  it('gives bundles by trust domain', () => {
    const der = Buffer.concat([root.certificate.der, foreignRoot.certificate.der]);
    const bundles = parseX509Bundles({ crl: [], bundles: { 'spiffe://example.org': der } });
    expect([...bundles.keys()]).toEqual(['example.org']);
    expect(bundles.get('example.org')?.certificates()).toHaveLength(2);
  });

  it.each([{}, { 'spiffe://example.org': Buffer.alloc(0) }, { 'spiffe://example.org': Buffer.from('PEM') }])(
    'without a usable bundle is refused: %j',
    (bundles) => {
      expect(() => parseX509Bundles({ crl: [], bundles })).toThrow(unusable);
    },
  );
});
