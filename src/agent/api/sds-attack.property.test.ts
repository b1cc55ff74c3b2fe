import { createPrivateKey, createPublicKey } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { DeltaDiscoveryResponse, DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSelfSigned } from '../../spiffe/bundle-remarks.ts';
import { X509Svid } from '../../spiffe/x509-svid.ts';
import { TestIdentity, testStartMs } from '../../testing/certificates.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newSdsResources, trustIn } from '../../testing/sds-resources.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import type { HeldSvid, Identity, WorkloadView } from '../workload-view.ts';
import type { Resource, ServedResource, TrustResource } from './resource.ts';
import { parseSdsNames } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';
import { type EncodedSecret, secretBytes, secretTypeUrl } from './secrets.ts';

/** All that views are made of, sound and not. */
const material: {
  readonly svids: (HeldSvid | undefined)[];
  readonly bundles: (Bundle | undefined)[];
  readonly federated: Bundle[];
} = { svids: [], bundles: [], federated: [] };

beforeAll(async () => {
  const own = await TestTrustDomain.create('example.org', { withIntermediate: true });
  const stranger = await TestTrustDomain.create('example.org');
  const foreign = await TestTrustDomain.create('foreign.org');
  const entries = ['web', 'api'].map((name) =>
    testEntry({ id: name, spiffeId: `spiffe://example.org/${name}`, federatesWith: ['foreign.org'] }),
  );
  const [webEntry, apiEntry] = entries as [(typeof entries)[0], (typeof entries)[0]];
  const web = await own.sign(webEntry);
  const api = await own.sign(apiEntry);
  const intermediate = web.svid.chain[1] as Certificate;
  const rollover = await own.root.issue('spiffe://example.org', { ca: true, commonName: 'root example.org' });
  const leafRoot = await TestIdentity.root('example.org', { ca: false, uris: ['spiffe://example.org/web'] });
  material.svids.push(
    undefined,
    web,
    api,
    await own.sign(webEntry, { keyType: 'ec-p384' }),
    await own.sign(apiEntry, { notAfterMs: testStartMs - 1 }),
    await stranger.sign(webEntry),
    await foreign.sign(testEntry({ spiffeId: 'spiffe://foreign.org/web' })),
    { ...web, privateKeyPem: api.privateKeyPem },
    { ...web, privateKeyPem: '' },
    { ...api, svid: X509Svid.parse([api.svid.leaf]) },
    { ...web, svid: X509Svid.parse([web.svid.leaf, own.root.certificate, intermediate]) },
    { ...web, svid: X509Svid.parse([leafRoot.certificate]), privateKeyPem: leafRoot.privateKeyPem },
  );
  const ownRoots = [
    [],
    [own.root.certificate],
    [intermediate],
    [own.root.certificate, stranger.root.certificate],
    [rollover.certificate, own.root.certificate, web.svid.leaf],
    [leafRoot.certificate],
    [foreign.root.certificate],
  ];
  material.bundles.push(undefined, ...ownRoots.map((roots) => bundleOf('example.org', roots)));
  material.federated.push(
    bundleOf('foreign.org', []),
    bundleOf('foreign.org', [foreign.root.certificate]),
    bundleOf('foreign.org', [intermediate]),
    bundleOf('a.org', [own.root.certificate]),
    // A server that goes mad: the own trust domain among the foreign ones.
    bundleOf('example.org', [foreign.root.certificate]),
  );
});

const certificateNames = [
  'default',
  'spiffe://example.org/web',
  'spiffe://example.org/api',
  'spiffe://foreign.org/web',
  'default?key=ec-p384',
  'spiffe://example.org/web?key=ec-p384',
  'hint:h',
  'web-cert',
  'web-cert?key=ec-p256',
];
const trustNames = [
  'ROOTCA',
  'ALL',
  'spiffe://example.org',
  'spiffe://foreign.org',
  'spiffe://a.org',
  'roots',
];
const otherNames = [
  '',
  '*',
  'Default',
  'rootca',
  'ROOTCA?key=ec-p256',
  'spiffe://example.org?key=ec-p256',
  'spiffe://example.org/',
  'spiffe://EXAMPLE.org',
  'hint:',
  'file-root:system',
  '__proto__',
  'constructor',
  'default ',
  'default\0',
];
const names = parseSdsNames({
  names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
  aliases: { 'web-cert': 'spiffe://example.org/web', roots: 'spiffe://example.org' },
  fileRoots: {},
});

const flavours = fc.constantFrom('spiffe' as const, 'x509' as const);
const anyName = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...certificateNames, ...trustNames) },
  { weight: 1, arbitrary: fc.constantFrom(...otherNames) },
  { weight: 1, arbitrary: fc.string() },
);

/** Indices into the material, since that is made later. */
const anyView = fc.record({
  isSynced: fc.boolean(),
  svids: fc.array(fc.nat(), { maxLength: 3 }),
  variant: fc.nat(),
  bundle: fc.nat(),
  federated: fc.array(fc.nat(), { maxLength: 3 }),
  missing: fc.array(fc.constantFrom('awaited' as const, 'failed' as const, 'gone' as const), {
    maxLength: 1,
  }),
});

function pick<T>(from: readonly T[], index: number): T {
  return from[index % from.length] as T;
}

function makeView(plan: typeof anyView extends fc.Arbitrary<infer T> ? T : never): WorkloadView {
  const identities = plan.svids.map((index): Identity => {
    const svid = pick(material.svids, index);
    const variant = pick(material.svids, plan.variant);
    const entry = svid?.entry ?? testEntry({ spiffeId: 'spiffe://example.org/web' });
    return { entry, svid, variants: new Map(variant && [[variant.keyType, variant]]), hint: 'h' };
  });
  return {
    isSynced: plan.isSynced,
    identities,
    bundle: pick(material.bundles, plan.bundle),
    federatedBundles: plan.federated.map((index) => pick(material.federated, index)),
    missingBundles: new Map(plan.missing.map((why) => ['foreign.org', why])),
  };
}

/** The Secret in what goes to Envoy, in both dialects, after all that Envoy checks itself and what it should. */
function received(name: string, encoded: EncodedSecret): Secret {
  const sotw = DiscoveryResponse.decode(encoded.response('sotw'));
  const delta = DeltaDiscoveryResponse.decode(encoded.response('delta'));
  expect([sotw.typeUrl, delta.typeUrl]).toEqual([secretTypeUrl, secretTypeUrl]);
  expect(sotw.resources).toHaveLength(1);
  expect(delta.resources).toEqual([{ name, version: encoded.version, resource: sotw.resources[0] }]);
  expect(delta.removedResources).toEqual([]);
  expect([sotw.versionInfo, delta.systemVersionInfo]).toEqual([encoded.version, encoded.version]);
  expect(sotw.resources[0]?.typeUrl).toBe(secretTypeUrl);
  const secret = Secret.decode(sotw.resources[0]?.value ?? new Uint8Array());
  expect(secret.name).toBe(name);
  return secret;
}

/** Sound by itself, and nothing in it that the caller may not have. */
function checkCertificate({ type }: Secret, view: WorkloadView): void {
  if (type?.$case !== 'tlsCertificate') throw new Error('no certificate');
  const chain = parsePemCertificates(type.value.certificateChain?.specifier?.value.toString() ?? '');
  const leaf = chain[0] as Certificate;
  const key = createPrivateKey(type.value.privateKey?.specifier?.value ?? '');
  expect(createPublicKey(key).export({ format: 'der', type: 'spki' }).equals(leaf.spki)).toBe(true);
  for (const [index, issuer] of chain.slice(1).entries()) {
    expect(chain[index]?.verifySignedBy(issuer)).toBe(true);
  }
  expect(leaf.notAfterMs).toBeGreaterThan(testStartMs);
  expect(view.identities.map(({ entry }) => entry.spiffeId.toString())).toContain(leaf.uris[0]);
  const roots = view.bundle?.certificates() ?? [];
  const isUnder = (root: Certificate) =>
    chain.some((one) => one.fingerprint === root.fingerprint || one.verifySignedBy(root));
  expect(roots.some(isUnder)).toBe(true);
}

/** Nobody is trusted but by a bundle of the caller's, each for its own trust domain. */
function checkTrust(name: string, encoded: EncodedSecret, view: WorkloadView): void {
  const trust = trustIn(encoded);
  const all = [...(view.bundle === undefined ? [] : [view.bundle]), ...view.federatedBundles];
  const certificatesOf = (domain: string) =>
    all.filter(({ trustDomain }) => trustDomain.name === domain).flatMap((bundle) => bundle.certificates());
  const isIn = (domain: string, pem: string) =>
    parsePemCertificates(pem).every(({ fingerprint }) =>
      certificatesOf(domain).some((known) => known.fingerprint === fingerprint),
    );
  for (const [domain, pem] of trust) {
    const certificates = parsePemCertificates(pem);
    expect(certificates.every(({ isCa }) => isCa)).toBe(true);
    if (domain === 'plain') {
      // One trust domain, and if the name tells which, that one.
      const own = name.startsWith('spiffe://') ? name.slice('spiffe://'.length) : 'example.org';
      expect(isIn(own, pem)).toBe(true);
    } else {
      expect(certificates.every(isSelfSigned)).toBe(true);
      expect(isIn(domain, pem)).toBe(true);
    }
  }
}

function isServed(resource: Resource | undefined): resource is ServedResource {
  return resource?.kind === 'certificate' || resource?.kind === 'trust';
}

/** Name → type of secret, over all runs: it never changes. */
const typeOf = new Map<string, string | undefined>();

function checkSent(
  resources: SdsResources,
  sent: { readonly name: string; readonly resource: ServedResource; readonly view: WorkloadView },
  salt: number,
): void {
  const { name, resource, view } = sent;
  const encoded = resources.encode(name, resource, salt);
  const secret = received(name, encoded);
  const known = typeOf.get(name) ?? secret.type?.$case;
  typeOf.set(name, known);
  expect(secret.type?.$case).toBe(known);
  expect(known).toBe(certificateNames.includes(name) ? 'tlsCertificate' : 'validationContext');
  if (known === 'tlsCertificate') checkCertificate(secret, view);
  else checkTrust(name, encoded, view);
}

test('whatever is asked for, held, revoked or broken: nothing leaves that lets anybody in', () => {
  const seen = { certificate: 0, trust: 0, nobody: 0, held: 0, unfit: 0, cut: 0 };
  fc.assert(
    fc.property(
      flavours,
      fc.array(fc.tuple(anyName, anyView, fc.option(flavours, { nil: undefined }), fc.nat(100)), {
        minLength: 1,
        maxLength: 6,
      }),
      (validator, steps) => {
        const resources = newSdsResources({ names, validator });
        const sent: { readonly name: string; readonly resource: ServedResource }[] = [];
        for (const [name, plan, flavour, salt] of steps) {
          const view = makeView(plan);
          const resource = resources.resolve(name, view, flavour);
          seen[resource.kind] += 1;
          expect(resources.whyHeld(name, view, flavour) === undefined).toBe(isServed(resource));
          if (!plan.isSynced && resource.kind === 'held' && resource.isAbsent) {
            // From a cold cache nothing is said to be absent but what never can be there.
            expect(resource.reason).toBe('unknown name');
          }
          if (isServed(resource)) {
            // Nobody is trusted only where something has been withdrawn, never at first.
            if (resource.kind === 'trust') expect(resource.domains.length).toBeGreaterThan(0);
            sent.push({ name, resource });
            checkSent(resources, { name, resource, view }, salt);
            expect(resources.resolve(name, view, flavour)).toBe(resource);
          }
          // What was good before, under the view of now.
          for (const earlier of sent) {
            const left = resources.cut(earlier.name, earlier.resource, view, flavour);
            if (left === undefined) {
              expect(earlier.resource.kind).toBe('certificate');
              continue;
            }
            seen.cut += 1;
            if (left.kind === 'trust' && left.domains.length === 0) seen.nobody += 1;
            checkSent(resources, { name: earlier.name, resource: left, view }, salt);
          }
        }
      },
    ),
    { numRuns: 300 },
  );
  // It has looked at everything there is.
  for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(0);
});

test('no resource is sent under a name of another kind, whoever asks for it', () => {
  const view = makeView({
    isSynced: true,
    svids: [1],
    variant: 0,
    bundle: 2,
    federated: [],
    missing: [],
  });
  const resources = newSdsResources({ names });
  const certificate = resources.resolve('default', view) as ServedResource;
  const trust = resources.resolve('ROOTCA', view) as ServedResource;
  const nobody: ServedResource = { kind: 'trust', flavour: 'x509', domains: [] };
  const refused = expect.objectContaining({ code: 'internal' });
  for (const salt of [0, 7]) {
    for (const name of [...trustNames, ...otherNames]) {
      expect(() => resources.encode(name, certificate, salt), name).toThrow(refused);
    }
    for (const name of [...certificateNames, ...otherNames]) {
      expect(() => resources.encode(name, trust, salt), name).toThrow(refused);
      expect(() => resources.encode(name, nobody, salt), name).toThrow(refused);
    }
  }
});

test('no trust is sent that is not what it says, even if somebody makes it', () => {
  const [, foreign, intermediate] = material.federated.map((bundle) => bundle.certificates()[0]);
  const anchors = (trustDomain: string, ...certificates: readonly unknown[]) =>
    ({ trustDomain, certificates }) as unknown as TrustResource['domains'][0];
  const forged: readonly Omit<TrustResource, 'kind'>[] = [
    { flavour: 'x509', domains: [anchors('example.org')] },
    { flavour: 'spiffe', domains: [anchors('example.org')] },
    { flavour: 'spiffe', domains: [anchors('foreign.org', foreign), anchors('example.org')] },
    { flavour: 'spiffe', domains: [anchors('foreign.org', intermediate)] },
    { flavour: 'spiffe', domains: [anchors('foreign.org', foreign, intermediate)] },
    { flavour: 'spiffe', domains: [anchors('foreign.org', foreign), anchors('foreign.org', foreign)] },
    { flavour: 'spiffe', domains: [anchors('', foreign)] },
    { flavour: 'spiffe', domains: [anchors('spiffe://foreign.org', foreign)] },
    { flavour: 'spiffe', domains: [anchors('Foreign.org', foreign)] },
    { flavour: 'x509', domains: [anchors('a.org', foreign), anchors('b.org', foreign)] },
    { flavour: 'x509', domains: [anchors('a.org', foreign), anchors('b.org')] },
  ];
  const resources = newSdsResources({ names });
  for (const resource of forged) {
    expect(secretBytes('ALL', { kind: 'trust', ...resource }).length).toBeGreaterThan(0);
    for (const name of trustNames) {
      expect(() => resources.encode(name, { kind: 'trust', ...resource })).toThrow(
        expect.objectContaining({ code: 'internal' }),
      );
    }
  }
});

test('a certificate is not sent with what does not belong to it, even if somebody makes it', () => {
  const web = material.svids[1] as HeldSvid;
  const api = material.svids[2] as HeldSvid;
  const resources = newSdsResources({ names });
  const forged: readonly HeldSvid[] = [
    { ...web, privateKeyPem: api.privateKeyPem },
    { ...web, privateKeyPem: '' },
    { ...web, privateKeyPem: web.privateKeyPem + api.privateKeyPem },
    { ...web, privateKeyPem: `${web.svid.leaf.toPem()}${web.privateKeyPem}` },
    { ...web, svid: { ...web.svid, chain: [] } as unknown as X509Svid },
    { ...web, svid: { ...web.svid, leaf: api.svid.leaf } as unknown as X509Svid },
  ];
  for (const held of forged) {
    expect(() => resources.encode('default', { kind: 'certificate', held })).toThrow(
      expect.objectContaining({ code: 'internal' }),
    );
  }
});
