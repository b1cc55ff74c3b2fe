import { createPrivateKey, createPublicKey } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { DeltaDiscoveryResponse, DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newSdsResources, secretIn, trustIn, viewOf } from '../../testing/sds-resources.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { parsePemCertificates } from '../../x509/certificate.ts';
import { emptyView, type HeldSvid, type Identity, type WorkloadView } from '../workload-view.ts';
import type { Resource, ServedResource } from './resource.ts';
import { defaultSdsNames, parseSdsNames } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';
import { type EncodedSecret, removalResponse, secretTypeUrl, withNonce } from './secrets.ts';

let own: TestTrustDomain;
let foreign: TestTrustDomain;
let web: HeldSvid;
let api: HeldSvid;
beforeAll(async () => {
  own = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  web = await own.sign(testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', hint: 'internal' }));
  api = await own.sign(testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api' }));
});

/** What these are entitled to, with the own bundle. */
function view(identities: Parameters<typeof viewOf>[0], fields: Partial<WorkloadView> = {}): WorkloadView {
  return viewOf(identities, { bundle: own.bundle(), ...fields });
}

function served(resource: Resource): ServedResource {
  if (resource.kind === 'held') throw new Error(`held: ${resource.reason}`);
  if (resource.kind === 'unfit') throw new Error(`unfit: ${resource.problem}`);
  return resource;
}

function secret(
  resources: SdsResources,
  name: string,
  ...of: [WorkloadView, ('spiffe' | 'x509')?]
): EncodedSecret {
  return resources.encode(name, served(resources.resolve(name, ...of)));
}

function certificateIn(encoded: EncodedSecret) {
  const { type } = secretIn(encoded);
  if (type?.$case !== 'tlsCertificate') throw new Error('expected a TLS certificate');
  return {
    pem: type.value.certificateChain!.specifier!.value.toString(),
    key: createPrivateKey(type.value.privateKey!.specifier!.value),
  };
}

function plainTrust(encoded: EncodedSecret): string {
  return JSON.stringify([...trustIn(encoded)].map(([domain, pem]) => [domain, pem.trimEnd()]));
}

describe('a response', () => {
  const resources = newSdsResources();

  test('has everything but the nonce, which is added at the end', () => {
    const found = secret(resources, 'default', view([web]));
    expect(found).toMatchObject({ name: 'default', kind: 'certificate' });
    const sotw = DiscoveryResponse.decode(withNonce(found.response('sotw'), '42'));
    expect(sotw).toMatchObject({
      versionInfo: found.version,
      typeUrl: secretTypeUrl,
      nonce: '42',
      controlPlane: { identifier: 'signet-agent/test' },
    });
    expect(sotw.resources.map(({ typeUrl, value }) => [typeUrl, value.length])).toEqual([
      [secretTypeUrl, found.bytes],
    ]);
    const delta = DeltaDiscoveryResponse.decode(withNonce(found.response('delta'), '43'));
    expect(delta).toEqual({
      systemVersionInfo: found.version,
      resources: [{ name: 'default', version: found.version, resource: sotw.resources[0] }],
      typeUrl: secretTypeUrl,
      nonce: '43',
      removedResources: [],
      controlPlane: { identifier: 'signet-agent/test' },
    });
  });

  test('is made once for each dialect', () => {
    const found = secret(resources, 'ROOTCA', view([web]));
    for (const dialect of ['sotw', 'delta'] as const) {
      expect(found.response(dialect)).toBe(found.response(dialect));
    }
  });

  test('can say in Delta that there is no such secret', () => {
    const removal = DeltaDiscoveryResponse.decode(withNonce(removalResponse('gone', 'me'), '7'));
    expect(removal).toMatchObject({ resources: [], removedResources: ['gone'], nonce: '7' });
  });
});

describe('a certificate', () => {
  test('is the chain, leaf first and without the root, with the key of the leaf', () => {
    const { pem, key } = certificateIn(secret(newSdsResources(), 'spiffe://example.org/web', view([web])));
    expect(parsePemCertificates(pem).map(({ fingerprint }) => fingerprint)).toEqual(
      web.svid.chain.map(({ fingerprint }) => fingerprint),
    );
    expect(pem.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    expect(spki.equals(web.svid.leaf.spki)).toBe(true);
  });

  test('named default is the first identity and no other, even while it is not signed', () => {
    const resources = newSdsResources();
    expect(resources.resolve('default', view([api, web]))).toEqual({ kind: 'certificate', held: api });
    expect(resources.whyHeld('default', view([api.entry, web]))).toBe('not signed yet');
  });

  test('that the server did not sign says so, with the kind of key it was asked for', () => {
    const why = (name: string, identity: Identity) => newSdsResources().whyHeld(name, view([identity]));
    const unsigned = new Set(['ec-p256', 'rsa-2048'] as const);
    const identity = { entry: web.entry, svid: undefined, variants: new Map(), hint: '', unsigned };
    expect(why('default', identity)).toBe('signing failed');
    expect(why('default?key=rsa-2048', identity)).toBe('signing failed');
    expect(why('default?key=ec-p384', identity)).toBe('not signed yet');
    expect(why('default', { ...identity, svid: web })).toBeUndefined();
  });

  test('comes from any entry of its SPIFFE ID that is signed', () => {
    const twin = testEntry({ id: 'twin', spiffeId: 'spiffe://example.org/web' });
    const found = newSdsResources().resolve('spiffe://example.org/web', view([twin, web]));
    expect(found).toEqual({ kind: 'certificate', held: web });
  });

  test('is never that of another identity, even if a view had it', () => {
    const mixed = { entry: api.entry, svid: web, variants: new Map([['ec-p384', web] as const]), hint: '' };
    for (const name of ['default', 'default?key=ec-p384', 'spiffe://example.org/api']) {
      expect(newSdsResources().whyHeld(name, view([mixed]))).toBe('not signed yet');
    }
  });

  test('is found by its hint, and by an alias', () => {
    const names = parseSdsNames({
      names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
      aliases: { frontend: 'spiffe://example.org/web' },
      fileRoots: {},
    });
    const resources = newSdsResources({ names });
    const asDefault = resources.resolve('default', view([web]));
    for (const name of ['hint:internal', 'frontend']) {
      expect(resources.resolve(name, view([api, web]))).toBe(asDefault);
      expect(secretIn(resources.encode(name, served(asDefault))).name).toBe(name);
    }
    expect(resources.resolve('hint:other', view([api, web]))).toMatchObject({ reason: 'not entitled' });
  });

  test('has another kind of key where the name asks for it, once it is signed', async () => {
    const resources = newSdsResources();
    const wide = await own.sign(web.entry, { keyType: 'ec-p384' });
    const identity = {
      entry: web.entry,
      svid: web,
      variants: new Map([['ec-p384', wide] as const]),
      hint: '',
    };
    expect(resources.resolve('default?key=ec-p384', view([identity]))).toEqual({
      kind: 'certificate',
      held: wide,
    });
    expect(resources.resolve('default?key=ec-p256', view([identity]))).toEqual({
      kind: 'certificate',
      held: web,
    });
    expect(resources.whyHeld('default?key=rsa-2048', view([identity]))).toBe('not signed yet');
  });
});

describe('a validation context', () => {
  test.each(['ROOTCA', 'ALL', 'spiffe://example.org'])(
    'named %s trusts the own domain for its own names',
    (name) => {
      const found = secret(newSdsResources(), name, view([web]));
      expect([...trustIn(found)]).toEqual([['example.org', own.root.certificate.toPem()]]);
    },
  );

  test('named ALL has every trust domain by itself, in order of name', () => {
    const federatedBundles = [foreign.bundle(), bundleOf('a.org', [foreign.root.certificate])];
    const found = secret(newSdsResources(), 'ALL', view([web], { federatedBundles }));
    expect([...trustIn(found).keys()]).toEqual(['a.org', 'example.org', 'foreign.org']);
  });

  test.each(['failed', 'gone'] as const)('named ALL does not wait for a bundle that is %s', (why) => {
    const missingBundles = new Map([['foreign.org', why]]);
    const found = secret(newSdsResources(), 'ALL', view([web], { missingBundles }));
    expect([...trustIn(found).keys()]).toEqual(['example.org']);
  });

  test('named by a federated trust domain has that one alone', () => {
    const federated = view([web], { federatedBundles: [foreign.bundle()] });
    const found = secret(newSdsResources(), 'spiffe://foreign.org', federated);
    expect([...trustIn(found)]).toEqual([['foreign.org', foreign.root.certificate.toPem()]]);
  });

  test('has only self-signed roots: the SPIFFE validator can use no others', async () => {
    // Equal names are not enough: this root was signed by another key of the same name.
    const rollover = await own.root.issue('spiffe://example.org', {
      ca: true,
      commonName: 'root example.org',
    });
    expect(rollover.certificate.isSelfIssued).toBe(true);
    const bundle = bundleOf('example.org', [
      web.svid.chain[1]!,
      rollover.certificate,
      own.root.certificate,
      web.svid.leaf,
    ]);
    const resources = newSdsResources();
    expect([...trustIn(secret(resources, 'ROOTCA', view([web], { bundle })))]).toEqual([
      ['example.org', own.root.certificate.toPem()],
    ]);
    const plain = trustIn(secret(resources, 'ROOTCA', view([web], { bundle }), 'x509')).get('plain')!;
    // The leaf is no CA: nobody is below it.
    expect(parsePemCertificates(plain)).toHaveLength(3);
  });

  test('leaves a federated bundle out that has no usable root, and says so', async () => {
    const leafOnly = bundleOf('foreign.org', [web.svid.leaf]);
    const resources = newSdsResources();
    const found = secret(resources, 'ALL', view([web], { federatedBundles: [leafOnly] }));
    expect([...trustIn(found).keys()]).toEqual(['example.org']);
    expect(resources.preflight).toMatchObject({
      failures: 1,
      latest: expect.stringContaining('bundle of "foreign.org" has no usable root'),
    });
  });

  test("follows the proxy's own wish for a flavour", () => {
    const resources = newSdsResources({ validator: 'spiffe' });
    expect([...trustIn(secret(resources, 'ROOTCA', view([web]), 'x509')).keys()]).toEqual(['plain']);
    expect([...trustIn(secret(resources, 'ROOTCA', view([web]))).keys()]).toEqual(['example.org']);
  });

  test('of no trust domain trusts nobody, in either flavour and all its forms', () => {
    const resources = newSdsResources();
    const versions = (['spiffe', 'x509'] as const).flatMap((flavour) =>
      [0, 1, 100].map((salt) => {
        const nobody = resources.encode('ROOTCA', { kind: 'trust', flavour, domains: [] }, salt);
        expect([...trustIn(nobody)]).toEqual([]);
        return nobody.version;
      }),
    );
    expect(new Set(versions).size).toBe(3);
  });
});

describe('held, with its reason, is', () => {
  test.each([
    {
      name: 'an unknown name',
      secret: 'nobody',
      view: () => view([web]),
      reason: 'unknown name',
      isAbsent: true,
    },
    {
      name: 'all before the first sync, which proves nothing',
      secret: 'default',
      view: () => emptyView,
      reason: 'agent is starting',
      isAbsent: false,
    },
    {
      name: 'an unknown name even before it',
      secret: 'nobody',
      view: () => emptyView,
      reason: 'unknown name',
      isAbsent: true,
    },
    {
      name: 'all without an entry',
      secret: 'ROOTCA',
      view: () => view([]),
      reason: 'no registration entry',
      isAbsent: true,
    },
    {
      name: 'an unsigned identity',
      secret: 'default',
      view: () => view([web.entry]),
      reason: 'not signed yet',
      isAbsent: false,
    },
    {
      name: "another's identity",
      secret: 'spiffe://example.org/api',
      view: () => view([web]),
      reason: 'not entitled',
      isAbsent: true,
    },
    {
      name: 'a foreign bundle',
      secret: 'spiffe://foreign.org',
      view: () => view([web]),
      reason: 'not entitled',
      isAbsent: true,
    },
    {
      name: 'a foreign bundle that has not come yet',
      secret: 'spiffe://foreign.org',
      view: () => view([web], { missingBundles: new Map([['foreign.org', 'awaited']]) }),
      reason: 'no bundle yet',
      isAbsent: false,
    },
    {
      name: 'everything, while a part of it has not been asked for',
      secret: 'ALL',
      view: () => view([web], { missingBundles: new Map([['foreign.org', 'awaited']]) }),
      reason: 'no bundle yet',
      isAbsent: false,
    },
    {
      name: 'a foreign bundle that could not be fetched',
      secret: 'spiffe://foreign.org',
      view: () => view([web], { missingBundles: new Map([['foreign.org', 'failed']]) }),
      reason: 'no bundle yet',
      isAbsent: false,
    },
    {
      name: 'a foreign bundle that the server has no more',
      secret: 'spiffe://foreign.org',
      view: () => view([web], { missingBundles: new Map([['foreign.org', 'gone']]) }),
      reason: 'bundle gone',
      isAbsent: true,
    },
    {
      name: 'the own bundle while there is none',
      secret: 'ALL',
      view: () => view([web], { bundle: undefined }),
      reason: 'no bundle yet',
      isAbsent: false,
    },
    {
      name: 'a certificate of which nobody could tell whether it verifies',
      secret: 'default',
      view: () => view([web], { bundle: undefined }),
      reason: 'no bundle yet',
      isAbsent: false,
    },
  ])('$name: $reason', ({ secret: name, view, reason, isAbsent }) => {
    for (const flavour of ['spiffe', 'x509'] as const) {
      const resources = newSdsResources({ validator: flavour });
      expect(resources.resolve(name, view())).toEqual({ kind: 'held', reason, isAbsent });
      expect(resources.whyHeld(name, view())).toBe(reason);
      expect(resources.preflight.failures).toBe(0);
    }
  });
});

describe('unfit is', () => {
  test('the own bundle without a usable root, and the certificates below it', () => {
    const resources = newSdsResources();
    for (const certificates of [[], [web.svid.chain[1]!]]) {
      const bad = view([web], { bundle: bundleOf('example.org', certificates) });
      for (const name of ['ROOTCA', 'ALL', 'spiffe://example.org', 'default']) {
        expect(resources.resolve(name, bad)).toMatchObject({
          kind: 'unfit',
          problem: expect.stringContaining('has no usable root'),
        });
      }
    }
  });

  test('a plain pool of several trust domains', () => {
    const resources = newSdsResources({ validator: 'x509' });
    const federated = view([web], { federatedBundles: [foreign.bundle()] });
    expect(resources.resolve('ALL', federated)).toMatchObject({
      kind: 'unfit',
      problem: expect.stringContaining('SPIFFE validator'),
    });
    expect(trustIn(secret(resources, 'spiffe://foreign.org', federated)).get('plain')).toBe(
      foreign.root.certificate.toPem(),
    );
  });
});

describe('a version', () => {
  const names = ['default', 'ROOTCA', 'ALL', 'spiffe://foreign.org', 'spiffe://example.org/web'];

  test('is the same for the same content, whoever encodes it and in whatever order it came', async () => {
    const second = await TestTrustDomain.create('example.org');
    const roots = [own.root.certificate, second.root.certificate];
    const federatedBundles = [foreign.bundle(3)];
    for (const name of names) {
      const [first, ...others] = [roots, roots, roots.toReversed()].map((certificates, sequence) => {
        const bundle = bundleOf('example.org', certificates, sequence);
        return secret(newSdsResources(), name, view([web], { bundle, federatedBundles })).version;
      });
      expect(first).toMatch(/^[0-9a-f]{16}$/);
      expect(others).toEqual([first, first]);
    }
  });

  test('changes with the content of that secret only', async () => {
    const resources = newSdsResources();
    const before = view([web]);
    const renewed = view([await own.sign(web.entry)]);
    const rotated = view([web], { bundle: own.bundle().withAuthority(foreign.root.certificate) });
    const version = (name: string, of: WorkloadView) => secret(resources, name, of).version;
    expect(version('default', renewed)).not.toBe(version('default', before));
    expect(version('ALL', renewed)).toBe(version('ALL', before));
    expect(version('default', rotated)).toBe(version('default', before));
    expect(version('ALL', rotated)).not.toBe(version('ALL', before));
  });

  test.each(names)('of %s is another with each salt, though it means the same', (name) => {
    const resources = newSdsResources();
    const federated = view([web], { federatedBundles: [foreign.bundle()] });
    const resource = served(resources.resolve(name, federated));
    const salted = [0, 1, 2, 100].map((salt) => resources.encode(name, resource, salt));
    expect(new Set(salted.map(({ version }) => version)).size).toBe(4);
    const meanings = salted.map((encoded) =>
      resource.kind === 'certificate' ? certificateIn(encoded).pem.trimEnd() : plainTrust(encoded),
    );
    expect(meanings).toEqual(meanings.map(() => meanings[0]));
  });
});

describe('objects', () => {
  test('are the same for as long as their content is, so that each is checked and encoded once', () => {
    const resources = newSdsResources();
    const federatedBundles = [foreign.bundle()];
    const of = (sequence: number) => view([web], { bundle: own.bundle(sequence), federatedBundles });
    for (const name of ['default', 'spiffe://example.org/web', 'ROOTCA', 'ALL', 'spiffe://foreign.org']) {
      const resource = served(resources.resolve(name, of(1)));
      expect(resources.resolve(name, of(1))).toBe(resource);
      // Another bundle that says the same.
      expect(resources.resolve(name, of(2))).toBe(resource);
      expect(resources.encode(name, resource)).toBe(resources.encode(name, resource));
      expect(resources.encode(name, resource, 3)).toBe(resources.encode(name, resource, 3));
    }
    const bundle = own.bundle().withAuthority(foreign.root.certificate);
    const other = view([web], { bundle, federatedBundles });
    expect(resources.resolve('ALL', other)).not.toBe(resources.resolve('ALL', of(1)));
    expect(resources.resolve('ROOTCA', of(1))).toBe(resources.resolve('ALL', view([web])));
  });
});

describe('what is left of a last good', () => {
  test('certificate is all of it, as long as it is entitled, valid and under the bundle', async () => {
    const clock = new FakeClock();
    const resources = newSdsResources({ clock });
    const old = served(resources.resolve('default', view([web])));
    const renewed = await own.sign(web.entry);
    expect(resources.cut('default', old, view([renewed, api]))).toBe(old);
    expect(resources.cut('spiffe://example.org/web', old, view([api, renewed]))).toBe(old);
    // The name means another identity now.
    expect(resources.cut('default', old, view([api, renewed]))).toBeUndefined();
    expect(resources.cut('hint:internal', old, view([api]))).toBeUndefined();
    expect(resources.cut('default', old, view([]))).toBeUndefined();
    expect(resources.cut('default', old, emptyView)).toBeUndefined();
    const rooted = view([web], { bundle: bundleOf('example.org', [foreign.root.certificate]) });
    expect(resources.cut('default', old, rooted)).toBeUndefined();
    expect(resources.cut('default?key=rsa-2048', old, view([web]))).toBeUndefined();
    await clock.advance(2 * 3_600_000);
    expect(resources.cut('default', old, view([web]))).toBeUndefined();
  });

  test('trust is what the bundles still have of it', async () => {
    const resources = newSdsResources();
    const second = await TestTrustDomain.create('example.org');
    const both = bundleOf('example.org', [own.root.certificate, second.root.certificate]);
    const federatedBundles = [foreign.bundle()];
    const old = served(resources.resolve('ALL', view([web], { bundle: both, federatedBundles })));
    const left = (of: WorkloadView) =>
      Object.fromEntries(trustIn(resources.encode('ALL', resources.cut('ALL', old, of)!)));
    const whole = view([web], { bundle: both.withAuthority(foreign.root.certificate), federatedBundles });
    expect(resources.cut('ALL', old, whole)).toBe(old);
    // A revoked root, and a dropped trust domain.
    expect(left(view([web], { federatedBundles }))).toEqual({
      'example.org': own.root.certificate.toPem(),
      'foreign.org': foreign.root.certificate.toPem(),
    });
    expect(left(view([web]))).toEqual({ 'example.org': own.root.certificate.toPem() });
    // The same object each time.
    expect(resources.cut('ALL', old, view([web]))).toBe(resources.cut('ALL', old, view([web])));
    // Nothing of it: nobody is trusted.
    for (const nothing of [view([]), emptyView, view([web], { bundle: bundleOf('example.org', []) })]) {
      expect(resources.cut('ALL', old, nothing)).toEqual({ kind: 'trust', flavour: 'spiffe', domains: [] });
      expect(left(nothing)).toEqual({});
    }
  });

  test('is cut even where the new version of it cannot be sent', () => {
    const resources = newSdsResources({ validator: 'x509' });
    const bundle = bundleOf('example.org', [own.root.certificate, foreign.root.certificate]);
    const old = served(resources.resolve('ALL', view([web], { bundle })));
    const now = view([web], { federatedBundles: [foreign.bundle()] });
    expect(resources.resolve('ALL', now).kind).toBe('unfit');
    expect(trustIn(resources.encode('ALL', resources.cut('ALL', old, now)!)).get('plain')).toBe(
      own.root.certificate.toPem(),
    );
  });

  test('never has another kind than its name', () => {
    const resources = newSdsResources();
    const leaf = served(resources.resolve('default', view([web])));
    const trust = served(resources.resolve('ROOTCA', view([web])));
    expect(resources.cut('ROOTCA', leaf, view([web]))).toBeUndefined();
    expect(resources.cut('default', trust, view([web]))).toBeUndefined();
    expect(resources.cut('nobody', trust, view([web]))).toBeUndefined();
  });
});

test('everything is each secret once, bundles before certificates', () => {
  const twin = testEntry({ id: 'twin', spiffeId: 'spiffe://example.org/web' });
  const all = view([web, api, twin], { federatedBundles: [foreign.bundle()] });
  expect(newSdsResources({ names: defaultSdsNames }).allNames(all)).toEqual([
    'spiffe://example.org',
    'spiffe://foreign.org',
    'spiffe://example.org/web',
    'spiffe://example.org/api',
  ]);
  expect(newSdsResources().allNames(emptyView)).toEqual([]);
});
