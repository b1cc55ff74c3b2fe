import { createPrivateKey, createPublicKey } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { DiscoveryResponse } from '../../gen/envoy/service/discovery/v3/discovery.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { parsePemCertificates } from '../../x509/certificate.ts';
import { emptyView, type HeldSvid, type WorkloadView } from '../workload-view.ts';
import { defaultSdsNames, type ValidatorFlavour } from './sds-names.ts';
import { SdsResources } from './sds-resources.ts';
import { secretTypeUrl, withNonce } from './secrets.ts';

let own: TestTrustDomain;
let foreign: TestTrustDomain;
let web: HeldSvid;
let api: HeldSvid;
beforeAll(async () => {
  own = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  web = await own.sign(testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' }));
  api = await own.sign(testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api' }));
});

function resources(validator: ValidatorFlavour = 'spiffe'): SdsResources {
  return new SdsResources({ names: defaultSdsNames, validator, identifier: 'signet-agent/test' });
}

function viewOf(
  svids: readonly (HeldSvid | RegistrationEntry)[],
  fields: Partial<WorkloadView> = {},
): WorkloadView {
  const identities = svids.map((one) =>
    'svid' in one ? { entry: one.entry, svid: one, hint: '' } : { entry: one, svid: undefined, hint: '' },
  );
  return { ...emptyView, isSynced: true, bundle: own.bundle(), ...fields, identities };
}

function decode(secret: { readonly response: Buffer } | undefined) {
  const response = DiscoveryResponse.decode(withNonce(secret!.response, '42'));
  return { response, secret: Secret.decode(response.resources[0]!.value) };
}

function certificateOf(secret: { readonly response: Buffer } | undefined) {
  const { type } = decode(secret).secret;
  if (type?.$case !== 'tlsCertificate') throw new Error('expected a TLS certificate');
  return {
    chain: parsePemCertificates(type.value.certificateChain!.specifier!.value.toString()),
    key: createPrivateKey(type.value.privateKey!.specifier!.value),
  };
}

function contextOf(secret: { readonly response: Buffer } | undefined) {
  const { type } = decode(secret).secret;
  if (type?.$case !== 'validationContext') throw new Error('expected a validation context');
  return type.value;
}

/** Trust domain → PEM, from a context for the SPIFFE validator. */
function domainsOf(secret: { readonly response: Buffer } | undefined): [string, string][] {
  const { customValidatorConfig: custom } = contextOf(secret);
  const config = SPIFFECertValidatorConfig.decode(custom!.typedConfig!.value);
  return config.trustDomains.map(({ name, trustBundle }) => [name, trustBundle!.specifier!.value.toString()]);
}

describe('a response', () => {
  test('has everything but the nonce, which is added at the end', () => {
    const found = resources().find('default', viewOf([web]));
    const { response, secret } = decode(found);
    expect(response).toMatchObject({
      versionInfo: found?.version,
      typeUrl: secretTypeUrl,
      nonce: '42',
      controlPlane: { identifier: 'signet-agent/test' },
    });
    expect(response.resources.map(({ typeUrl }) => typeUrl)).toEqual([secretTypeUrl]);
    expect(secret.name).toBe('default');
  });
});

describe('a certificate', () => {
  test('is the chain, leaf first and without the root, with the key of the leaf', () => {
    const { chain, key } = certificateOf(resources().find('spiffe://example.org/web', viewOf([web])));
    expect(chain.map((certificate) => certificate.fingerprint)).toEqual(
      web.svid.chain.map((certificate) => certificate.fingerprint),
    );
    expect(chain).toHaveLength(2);
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    expect(Buffer.compare(spki, chain[0]!.spki)).toBe(0);
  });

  test('has one PEM block per certificate', () => {
    const { secret } = decode(resources().find('default', viewOf([web])));
    const pem = secret.type!.value as { certificateChain: { specifier: { value: Buffer } } };
    expect(pem.certificateChain.specifier.value.toString().match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
  });

  test('named default is the first identity and no other, even while it is not signed', () => {
    const { find, whyHeld } = bound(resources());
    expect(certificateOf(find('default', viewOf([api, web]))).chain[0]?.uris).toEqual([
      'spiffe://example.org/api',
    ]);
    expect(find('default', viewOf([api.entry, web]))).toBeUndefined();
    expect(whyHeld('default', viewOf([api.entry, web]))).toBe('not signed yet');
  });

  test('comes from any entry of its SPIFFE ID that is signed', () => {
    const twin = testEntry({ id: 'twin', spiffeId: 'spiffe://example.org/web' });
    const found = resources().find('spiffe://example.org/web', viewOf([twin, web]));
    expect(certificateOf(found).chain[0]?.fingerprint).toBe(web.svid.leaf.fingerprint);
  });
});

describe('a validation context', () => {
  test.each(['ROOTCA', 'ALL', 'spiffe://example.org'])(
    'named %s trusts the own domain for its own names',
    (name) => {
      const found = resources().find(name, viewOf([web]));
      expect(contextOf(found)).toMatchObject({
        trustedCa: undefined,
        customValidatorConfig: { name: 'envoy.tls.cert_validator.spiffe' },
      });
      expect(domainsOf(found)).toEqual([['example.org', own.root.certificate.toPem()]]);
    },
  );

  test('named ALL has every trust domain by itself, in order of name', () => {
    const view = viewOf([web], {
      federatedBundles: [foreign.bundle(), bundleOf('a.org', [foreign.root.certificate])],
    });
    expect(domainsOf(resources().find('ALL', view)).map(([name]) => name)).toEqual([
      'a.org',
      'example.org',
      'foreign.org',
    ]);
  });

  test('named by a federated trust domain has that one alone', () => {
    const found = resources().find(
      'spiffe://foreign.org',
      viewOf([web], { federatedBundles: [foreign.bundle()] }),
    );
    expect(domainsOf(found)).toEqual([['foreign.org', foreign.root.certificate.toPem()]]);
  });

  test('has only self-signed roots: the SPIFFE validator can use no others', async () => {
    const intermediate = web.svid.chain[1]!;
    const bundle = bundleOf('example.org', [intermediate, own.root.certificate]);
    expect(domainsOf(resources().find('ROOTCA', viewOf([web], { bundle })))).toEqual([
      ['example.org', own.root.certificate.toPem()],
    ]);
    // Equal names are not enough: this root was signed by another key of the same name.
    const rollover = await own.root.issue('spiffe://example.org', {
      ca: true,
      commonName: 'root example.org',
    });
    const crossSigned = bundleOf('example.org', [rollover.certificate]);
    expect(rollover.certificate.isSelfIssued).toBe(true);
    expect(resources().whyHeld('ROOTCA', viewOf([web], { bundle: crossSigned }))).toBe(
      'bundle has no usable root',
    );
  });

  test('leaves a federated bundle without roots out, and is held without own ones', () => {
    const view = (bundle = own.bundle()) =>
      viewOf([web], { bundle, federatedBundles: [bundleOf('empty.org', []), foreign.bundle()] });
    expect(domainsOf(resources().find('ALL', view())).map(([name]) => name)).toEqual([
      'example.org',
      'foreign.org',
    ]);
    expect(resources().find('ALL', view(bundleOf('example.org', [])))).toBeUndefined();
  });

  test('in the x509 flavour is a plain pool of one trust domain, intermediates included', () => {
    const intermediate = web.svid.chain[1]!;
    const bundle = bundleOf('example.org', [intermediate, own.root.certificate]);
    const context = contextOf(resources('x509').find('ROOTCA', viewOf([web], { bundle })));
    expect(context.customValidatorConfig).toBeUndefined();
    expect(parsePemCertificates(context.trustedCa!.specifier!.value.toString())).toHaveLength(2);
  });

  test('in the x509 flavour never pools several trust domains', () => {
    const x509 = resources('x509');
    expect(x509.find('ALL', viewOf([web]))).toBeDefined();
    const federated = viewOf([web], { federatedBundles: [foreign.bundle()] });
    expect(x509.find('ALL', federated)).toBeUndefined();
    expect(x509.whyHeld('ALL', federated)).toBe('several trust domains need the SPIFFE validator');
    expect(x509.find('spiffe://foreign.org', federated)).toBeDefined();
  });

  test("follows the proxy's own wish for a flavour", () => {
    const shared = resources('spiffe');
    expect(contextOf(shared.find('ROOTCA', viewOf([web]), 'x509')).trustedCa).toBeDefined();
    expect(contextOf(shared.find('ROOTCA', viewOf([web]))).trustedCa).toBeUndefined();
  });
});

describe('held, with its reason, is', () => {
  test.each([
    {
      name: 'an unknown name',
      secret: 'file-root:system',
      view: () => viewOf([web]),
      reason: 'unknown name',
    },
    {
      name: 'all before the first sync',
      secret: 'default',
      view: () => emptyView,
      reason: 'agent is starting',
    },
    {
      name: 'all without an entry',
      secret: 'ROOTCA',
      view: () => viewOf([]),
      reason: 'no registration entry',
    },
    {
      name: 'an unsigned identity',
      secret: 'default',
      view: () => viewOf([web.entry]),
      reason: 'not signed yet',
    },
    {
      name: "another's identity",
      secret: 'spiffe://example.org/api',
      view: () => viewOf([web]),
      reason: 'not entitled',
    },
    {
      name: 'a foreign bundle',
      secret: 'spiffe://foreign.org',
      view: () => viewOf([web]),
      reason: 'not entitled',
    },
    {
      name: 'the own bundle while there is none',
      secret: 'ALL',
      view: () => viewOf([web], { bundle: undefined }),
      reason: 'no bundle yet',
    },
    {
      name: 'a bundle without certificates',
      secret: 'ROOTCA',
      view: () => viewOf([web], { bundle: bundleOf('example.org', []) }),
      reason: 'bundle has no usable root',
    },
  ])('$name: $reason', ({ secret, view, reason }) => {
    for (const flavour of ['spiffe', 'x509'] as const) {
      expect(resources(flavour).find(secret, view())).toBeUndefined();
      expect(resources(flavour).whyHeld(secret, view())).toBe(reason);
    }
  });
});

describe('a version', () => {
  test('is the same for the same content, whoever encodes it', () => {
    const view = () => viewOf([web], { bundle: own.bundle(9), federatedBundles: [foreign.bundle(3)] });
    for (const name of ['default', 'ROOTCA', 'ALL', 'spiffe://foreign.org', 'spiffe://example.org/web']) {
      expect(resources().find(name, view())?.version).toMatch(/^[0-9a-f]{16}$/);
      expect(resources().find(name, view())?.version).toBe(resources().find(name, view())?.version);
    }
  });

  test('changes with the content of that secret only', async () => {
    const shared = resources();
    const before = viewOf([web]);
    const renewed = viewOf([await own.sign(web.entry)]);
    const rotated = viewOf([web], { bundle: own.bundle().withAuthority(foreign.root.certificate) });
    const version = (name: string, view: WorkloadView) => shared.find(name, view)?.version;
    expect(version('default', renewed)).not.toBe(version('default', before));
    expect(version('ALL', renewed)).toBe(version('ALL', before));
    expect(version('default', rotated)).toBe(version('default', before));
    expect(version('ALL', rotated)).not.toBe(version('ALL', before));
  });
});

test('a secret is encoded once for all views that hold the same objects', () => {
  const shared = resources();
  const bundle = own.bundle();
  const federatedBundles = [foreign.bundle()];
  const view = () => viewOf([web], { bundle, federatedBundles });
  for (const name of ['default', 'spiffe://example.org/web', 'ROOTCA', 'ALL', 'spiffe://foreign.org']) {
    expect(shared.find(name, view())).toBe(shared.find(name, view()));
  }
  const other = viewOf([web], {
    bundle: own.bundle().withAuthority(foreign.root.certificate),
    federatedBundles,
  });
  expect(shared.find('ALL', other)).not.toBe(shared.find('ALL', view()));
});

test('everything is each secret once, bundles before certificates', () => {
  const twin = testEntry({ id: 'twin', spiffeId: 'spiffe://example.org/web' });
  const view = viewOf([web, api, twin], { federatedBundles: [foreign.bundle()] });
  expect(resources().allNames(view)).toEqual([
    'spiffe://example.org',
    'spiffe://foreign.org',
    'spiffe://example.org/web',
    'spiffe://example.org/api',
  ]);
  expect(resources().allNames(emptyView)).toEqual([]);
});

function bound(shared: SdsResources) {
  return { find: shared.find.bind(shared), whyHeld: shared.whyHeld.bind(shared) };
}
