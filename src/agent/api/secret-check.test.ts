import { beforeAll, describe, expect, test } from 'vitest';
import type { CertificateValidationContext } from '../../gen/envoy/extensions/transport_sockets/tls/v3/common.ts';
import { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import { SPIFFECertValidatorConfig } from '../../gen/envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { encodePem } from '../../x509/pem.ts';
import type { HeldSvid } from '../workload-view.ts';
import type { ServedResource, TrustAnchors, TrustResource } from './resource.ts';
import { secretProblem } from './secret-check.ts';
import { secretBytes, spiffeValidatorName, spiffeValidatorTypeUrl } from './secrets.ts';

let own: TestTrustDomain;
let foreign: TestTrustDomain;
let web: HeldSvid;
let other: HeldSvid;
beforeAll(async () => {
  own = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
  web = await own.sign(entry);
  other = await own.sign(entry);
});

const anchors = (domain: TestTrustDomain): TrustAnchors => ({
  trustDomain: domain.name,
  certificates: [domain.root.certificate],
});
const certificate = (held: HeldSvid = web): ServedResource => ({ kind: 'certificate', held });
const trust = (
  flavour: TrustResource['flavour'],
  ...domains: readonly TrustAnchors[]
): ServedResource & TrustResource => ({ kind: 'trust', flavour, domains });
const inline = (text: string) => ({ specifier: { $case: 'inlineBytes', value: Buffer.from(text) } as const });

/** An encoded Secret of this body, whatever it is. */
function bytes(type: Secret['type'], name = 'n'): Uint8Array {
  return Secret.encode({ name, type }).finish();
}

function tls(chain: string, key: string): Uint8Array {
  return bytes({
    $case: 'tlsCertificate',
    value: { certificateChain: inline(chain), privateKey: inline(key) },
  });
}

function context(fields: Partial<CertificateValidationContext>): Uint8Array {
  const empty = { trustedCa: undefined, customValidatorConfig: undefined, maxVerifyDepth: undefined };
  return bytes({ $case: 'validationContext', value: { ...empty, ...fields } });
}

function validator(
  domains: readonly (readonly [name: string, pem: string])[],
  name = spiffeValidatorName,
  typeUrl = spiffeValidatorTypeUrl,
) {
  const trustDomains = domains.map(([domain, pem]) => ({ name: domain, trustBundle: inline(pem) }));
  const value = Buffer.from(SPIFFECertValidatorConfig.encode({ trustDomains }).finish());
  return { customValidatorConfig: { name, typedConfig: { typeUrl, value } } };
}

const pem = (...certificates: readonly Certificate[]) => certificates.map((one) => one.toPem()).join('');
const ownPem = () => pem(own.root.certificate);
const foreignPem = () => pem(foreign.root.certificate);

test('all that is made of sound resources is sound, salted or not', () => {
  const resources = [
    certificate(),
    trust('x509', anchors(own)),
    trust('spiffe', anchors(own)),
    trust('spiffe', anchors(own), anchors(foreign)),
    trust('x509'),
    trust('spiffe'),
  ];
  for (const resource of resources) {
    for (const salt of [0, 1, 100]) {
      expect(secretProblem(secretBytes('n', resource, salt), 'n', resource)).toBeUndefined();
    }
  }
});

test.each([-1, 0.5, 101, Number.NaN])('a salt of %s is a mistake', (salt) => {
  expect(() => secretBytes('n', trust('spiffe'), salt)).toThrow(
    expect.objectContaining({ code: 'internal', message: expect.stringContaining('expected a salt') }),
  );
});

describe('instead of a certificate it finds', () => {
  const chain = () => pem(...web.svid.chain);
  const key = () => web.privateKeyPem;
  const cases: readonly { name: string; value: () => Uint8Array; problem: string }[] = [
    { name: 'a secret without body', value: () => bytes(undefined), problem: 'without body' },
    { name: 'nothing at all', value: () => new Uint8Array(), problem: 'another name' },
    {
      name: 'another name',
      value: () => secretBytes('m', certificate()),
      problem: 'encoded under another name',
    },
    {
      name: 'a validation context',
      value: () => secretBytes('n', trust('spiffe', anchors(own))),
      problem: 'expected a TLS certificate, got validationContext',
    },
    { name: 'an empty chain', value: () => tls('', key()), problem: 'certificate chain: expected at least' },
    { name: 'no key', value: () => tls(chain(), ''), problem: 'private key is not the one' },
    { name: 'the key of another', value: () => tls(chain(), other.privateKeyPem), problem: 'private key' },
    { name: 'two keys', value: () => tls(chain(), key() + key()), problem: 'private key' },
    {
      name: 'a key of another format',
      value: () => tls(chain(), key().replaceAll('PRIVATE KEY', 'EC PRIVATE KEY')),
      problem: 'private key',
    },
    {
      name: 'the chain of another',
      value: () => tls(pem(...other.svid.chain), key()),
      problem: 'got others',
    },
    { name: 'a shorter chain', value: () => tls(pem(web.svid.leaf), key()), problem: 'got others' },
    {
      name: 'a chain the other way round',
      value: () => tls(pem(...web.svid.chain.toReversed()), key()),
      problem: 'got others',
    },
    {
      name: 'two certificates in one PEM block',
      value: () => {
        const both = Buffer.concat(web.svid.chain.map(({ der }) => der));
        return tls(encodePem('CERTIFICATE', both), key());
      },
      problem: 'PEM block 1',
    },
    {
      name: 'a key among the certificates',
      value: () => tls(chain() + key(), key()),
      problem: 'private key among certificates',
    },
    {
      name: 'bytes that are no Secret',
      value: () => Uint8Array.of(0x12, 0x7f, 0x01),
      problem: 'cannot be read back',
    },
  ];
  test.each(cases)('$name', ({ value, problem }) => {
    const found = secretProblem(value(), 'n', certificate());
    expect(found).toContain(problem);
    // Nothing of a key, even where keys are what is wrong.
    expect(found).not.toContain(web.privateKeyPem.split('\n')[1]);
  });
});

describe('instead of a validation context it finds', () => {
  const plain = () => trust('x509', anchors(own));
  const spiffe = () => trust('spiffe', anchors(own));
  const cases: readonly {
    name: string;
    resource: () => TrustResource;
    value: () => Uint8Array;
    problem: string;
  }[] = [
    {
      name: 'a secret without body',
      resource: spiffe,
      value: () => bytes(undefined),
      problem: 'without body',
    },
    {
      name: 'a certificate',
      resource: plain,
      value: () => secretBytes('n', certificate()),
      problem: 'expected a validation context, got tlsCertificate',
    },
    { name: 'an empty one, for anchors', resource: plain, value: () => context({}), problem: 'at least one' },
    { name: 'an empty one, for domains', resource: spiffe, value: () => context({}), problem: 'got none' },
    {
      name: 'an empty one, for nobody',
      resource: () => trust('x509'),
      value: () => context({}),
      problem: 'expected the SPIFFE validator of Envoy, got none',
    },
    {
      name: 'anchors without content',
      resource: plain,
      value: () => context({ trustedCa: inline('') }),
      problem: 'at least one',
    },
    {
      name: 'somebody, for nobody',
      resource: () => trust('spiffe'),
      value: () => context(validator([['example.org', ownPem()]])),
      problem: 'expected 0 trust domains, got 1',
    },
    {
      name: 'plain anchors, for nobody',
      resource: () => trust('spiffe'),
      value: () => context({ trustedCa: inline(ownPem()) }),
      problem: 'plain anchors too',
    },
    {
      name: 'nobody, for somebody',
      resource: spiffe,
      value: () => context(validator([])),
      problem: 'expected 1 trust domains, got 0',
    },
    {
      name: 'several trust domains in one plain pool',
      resource: () => trust('x509', anchors(own), anchors(foreign)),
      value: () => context({ trustedCa: inline(ownPem() + foreignPem()) }),
      problem: 'several trust domains in one plain pool',
    },
    {
      name: 'foreign anchors in a plain pool of one domain',
      resource: plain,
      value: () => context({ trustedCa: inline(ownPem() + foreignPem()) }),
      problem: 'got others',
    },
    {
      name: 'a trust domain twice',
      resource: () => trust('spiffe', anchors(own), anchors(own)),
      value: () => secretBytes('n', trust('spiffe', anchors(own), anchors(own))),
      problem: 'in it twice',
    },
    {
      name: 'anchors of one domain under the name of another',
      resource: spiffe,
      value: () => context(validator([['foreign.org', ownPem()]])),
      problem: 'expected trust domain "example.org"',
    },
    {
      name: 'a trust domain with a prefix',
      resource: () => trust('spiffe', { ...anchors(own), trustDomain: 'spiffe://example.org' }),
      value: () => context(validator([['spiffe://example.org', ownPem()]])),
      problem: 'trust domain',
    },
    {
      name: 'an anchor that is not self-signed',
      resource: () =>
        trust('spiffe', { trustDomain: 'example.org', certificates: [web.svid.chain[1] as Certificate] }),
      value: () => context(validator([['example.org', pem(web.svid.chain[1] as Certificate)]])),
      problem: 'is not self-signed',
    },
    {
      name: 'two anchors in one PEM block',
      resource: plain,
      value: () => {
        const both = Buffer.concat([own.root.certificate.der, foreign.root.certificate.der]);
        return context({ trustedCa: inline(encodePem('CERTIFICATE', both)) });
      },
      problem: 'PEM block 1',
    },
    {
      name: 'another validator',
      resource: spiffe,
      value: () => context(validator([['example.org', ownPem()]], 'envoy.tls.cert_validator.default')),
      problem: 'expected the SPIFFE validator',
    },
    {
      name: 'another configuration of it',
      resource: spiffe,
      value: () =>
        context(validator([['example.org', ownPem()]], spiffeValidatorName, 'type.googleapis.com/a.B')),
      problem: 'expected the SPIFFE validator',
    },
    {
      name: 'a validator beside plain anchors',
      resource: plain,
      value: () => context({ trustedCa: inline(ownPem()), ...validator([]) }),
      problem: 'got a validator too',
    },
    {
      name: 'plain anchors beside the validator',
      resource: spiffe,
      value: () => context({ trustedCa: inline(ownPem()), ...validator([['example.org', ownPem()]]) }),
      problem: 'got plain anchors too',
    },
    {
      name: 'a bound on chains that somebody is to be verified by',
      resource: plain,
      value: () => context({ trustedCa: inline(ownPem()), maxVerifyDepth: 1 }),
      problem: 'length of chains',
    },
  ];
  test.each(cases)('$name', ({ resource, value, problem }) => {
    expect(secretProblem(value(), 'n', resource())).toContain(problem);
  });
});
