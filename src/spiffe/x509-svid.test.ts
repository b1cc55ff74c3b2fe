import { beforeAll, describe, expect, it } from 'vitest';
import { type TestCertificateFields, TestIdentity, testStartMs } from '../testing/certificates.ts';
import type { Certificate } from '../x509/certificate.ts';
import { encodeExtension, keyPurposes } from '../x509/extensions.ts';
import { Bundle } from './bundle.ts';
import { SpiffeId, TrustDomain } from './spiffe-id.ts';
import {
  acceptedLeafRules,
  issuedLeafRules,
  type ProfileRule,
  signingCertificateRules,
  verifyX509Svid,
  X509Svid,
} from './x509-svid.ts';

const hourMs = 3_600_000;
const nowMs = testStartMs + hourMs;
let root: TestIdentity;
let otherRoot: TestIdentity;

beforeAll(async () => {
  root = await TestIdentity.root('td');
  otherRoot = await TestIdentity.root('other');
});

function bundleOf(name: string, ...authorities: readonly TestIdentity[]): Bundle {
  const x509Authorities = authorities.map(({ certificate }) => ({ certificate, tainted: false }));
  return new Bundle({
    trustDomain: TrustDomain.parse(name),
    x509Authorities,
    sequence: 1,
    refreshHintSeconds: 0,
  });
}

/** Verifies with the bundles of both trust domains, as a peer with federation would. */
function verify(chain: readonly Certificate[], atMs = nowMs): X509Svid {
  const bundles = new Map(
    [bundleOf('td', root), bundleOf('other', otherRoot)].map((b) => [b.trustDomain.name, b]),
  );
  return verifyX509Svid({ chain, bundles: (trustDomain) => bundles.get(trustDomain.name), nowMs: atMs });
}

function brokenRules(rules: readonly ProfileRule[], certificate: Certificate): readonly string[] {
  return rules.filter(({ check }) => check(certificate) !== undefined).map(({ name }) => name);
}

function reasonOf(action: () => unknown): unknown {
  try {
    action();
    return 'accepted';
  } catch (error) {
    const { code, reason } = error as { code?: unknown; reason?: unknown };
    return `${code} ${reason}`;
  }
}

describe('a leaf', () => {
  interface Case {
    readonly name: string;
    readonly uri?: string;
    readonly fields?: TestCertificateFields;
    /** Rules of `acceptedLeafRules` that are broken, and of `issuedLeafRules` besides. */
    readonly accepted: readonly string[];
    readonly issued?: readonly string[];
  }
  const { serverAuth, clientAuth } = keyPurposes;
  const cases: readonly Case[] = [
    { name: 'of the profile', accepted: [] },
    { name: 'with DNS names besides (X509-05)', fields: { dnsNames: ['a.test', 'b.test'] }, accepted: [] },
    {
      name: 'whose common name is another ID (X509-09)',
      fields: { commonName: 'spiffe://td/evil' },
      accepted: [],
    },
    {
      name: 'with key encipherment and agreement (X509-26)',
      fields: { keyUsage: ['digitalSignature', 'keyEncipherment', 'keyAgreement'] },
      accepted: [],
    },
    {
      name: 'with two URI names (X509-02)',
      fields: { uris: ['spiffe://td/a', 'spiffe://td/a'] },
      accepted: ['ONE_URI_NAME'],
    },
    {
      name: 'with a URI name besides (X509-02)',
      fields: { uris: ['spiffe://td/a', 'https://x'] },
      accepted: ['ONE_URI_NAME'],
    },
    {
      name: 'with DNS names only (X509-03)',
      fields: { uris: [], dnsNames: ['a.test'] },
      accepted: ['ONE_URI_NAME', 'LEAF_ID'],
    },
    {
      name: 'without names (X509-03)',
      fields: { uris: [], commonName: 'x' },
      accepted: ['ONE_URI_NAME', 'LEAF_ID'],
    },
    ...['https://td/a', 'sparfe://td/a', 'spiffe://TD/a', 'spiffe://td/a/../b', 'spiffe://td/'].map(
      (uri) => ({
        name: `whose URI is ${uri} (X509-04)`,
        uri,
        accepted: ['LEAF_ID'],
      }),
    ),
    { name: 'whose ID has no path (X509-07)', uri: 'spiffe://td', accepted: ['LEAF_ID'] },
    {
      name: 'that is a CA (X509-16)',
      fields: { ca: true, keyUsage: ['digitalSignature'], extendedKeyUsage: [serverAuth, clientAuth] },
      accepted: ['LEAF_IS_NOT_A_CA'],
    },
    {
      name: 'that may sign certificates (X509-28)',
      fields: { keyUsage: ['digitalSignature', 'keyCertSign'] },
      accepted: ['LEAF_SIGNS_NO_CERTIFICATES'],
    },
    {
      name: 'that may sign revocation lists (X509-29)',
      fields: { keyUsage: ['digitalSignature', 'cRLSign'] },
      accepted: ['LEAF_SIGNS_NO_CERTIFICATES'],
    },
    {
      name: 'that may not sign (X509-25)',
      fields: { keyUsage: ['keyAgreement'] },
      accepted: ['LEAF_DIGITAL_SIGNATURE'],
    },
    {
      name: 'without key usage (X509-22)',
      fields: { keyUsage: null },
      accepted: ['LEAF_DIGITAL_SIGNATURE'],
      issued: ['CRITICAL_KEY_USAGE'],
    },
    {
      name: 'whose key usage is not critical (X509-21)',
      fields: { keyUsageCritical: false },
      accepted: [],
      issued: ['CRITICAL_KEY_USAGE'],
    },
    {
      name: 'for servers only (X509-32)',
      fields: { extendedKeyUsage: [serverAuth] },
      accepted: [],
      issued: ['LEAF_KEY_PURPOSES'],
    },
    {
      name: 'for clients only (X509-32)',
      fields: { extendedKeyUsage: [clientAuth] },
      accepted: [],
      issued: ['LEAF_KEY_PURPOSES'],
    },
    {
      name: 'without key purposes (X509-31)',
      fields: { extendedKeyUsage: null },
      accepted: [],
      issued: ['LEAF_KEY_PURPOSES'],
    },
    {
      name: 'with another key purpose besides',
      fields: { extendedKeyUsage: [serverAuth, '1.3.6.1.5.5.7.3.8', clientAuth] },
      accepted: [],
    },
    {
      name: 'without a subject whose names are not critical (X509-08)',
      fields: { sanCritical: false },
      accepted: [],
      issued: ['CRITICAL_NAMES_WITHOUT_SUBJECT'],
    },
    {
      name: 'with a subject whose names are not critical (X509-08)',
      fields: { sanCritical: false, commonName: 'x' },
      accepted: [],
    },
  ];
  it.each(cases)(
    '$name is judged by exactly these rules: $accepted $issued',
    async ({ uri, fields, accepted, issued = [] }) => {
      const { certificate } = await root.issue(uri ?? 'spiffe://td/w', fields);
      expect(brokenRules(acceptedLeafRules, certificate)).toEqual(accepted);
      expect(brokenRules(issuedLeafRules, certificate)).toEqual([...accepted, ...issued]);
      const first = accepted[0];
      expect(reasonOf(() => X509Svid.parse([certificate]))).toBe(
        first === undefined ? 'accepted' : `invalid-argument ${first}`,
      );
      expect(reasonOf(() => verify([certificate]))).toBe(
        first === undefined ? 'accepted' : `unauthenticated ${first}`,
      );
    },
  );
});

describe('a signing certificate', () => {
  const cases: readonly {
    readonly name: string;
    readonly fields?: TestCertificateFields;
    readonly broken: readonly string[];
  }[] = [
    { name: 'of the profile', broken: [] },
    { name: 'with a path length (X509-17)', fields: { pathLength: 0 }, broken: [] },
    { name: 'that signs no revocation lists (X509-23)', fields: { keyUsage: ['keyCertSign'] }, broken: [] },
    { name: 'whose ID has a path (X509-11)', fields: { uris: ['spiffe://td/ca'] }, broken: ['CA_ID'] },
    { name: 'whose ID has a slash only', fields: { uris: ['spiffe://td/'] }, broken: ['CA_ID'] },
    { name: 'without an ID (X509-10)', fields: { uris: [] }, broken: ['CA_ID'] },
    { name: 'with two IDs', fields: { uris: ['spiffe://td', 'spiffe://td2'] }, broken: ['CA_ID'] },
    {
      name: 'without the CA flag (X509-14)',
      fields: { ca: false, keyUsage: ['keyCertSign'], extendedKeyUsage: null },
      broken: ['CA_FLAG'],
    },
    {
      name: 'that may not sign certificates (X509-23)',
      fields: { keyUsage: ['cRLSign'] },
      broken: ['CA_KEY_USAGE'],
    },
    {
      name: 'that may sign data (X509-30)',
      fields: { keyUsage: ['keyCertSign', 'digitalSignature'] },
      broken: ['CA_KEY_USAGE'],
    },
    {
      name: 'without key usage (X509-20)',
      fields: { keyUsage: null },
      broken: ['CRITICAL_KEY_USAGE', 'CA_KEY_USAGE'],
    },
    {
      name: 'whose key usage is not critical (X509-21)',
      fields: { keyUsageCritical: false },
      broken: ['CRITICAL_KEY_USAGE'],
    },
    {
      name: 'with key purposes (X509-34)',
      fields: { extendedKeyUsage: [keyPurposes.serverAuth] },
      broken: ['CA_NO_KEY_PURPOSES'],
    },
  ];
  it.each(cases)('$name is judged by exactly these rules: $broken', async ({ fields, broken }) => {
    const { certificate } = await TestIdentity.root('td', fields);
    expect(brokenRules(signingCertificateRules, certificate)).toEqual(broken);
  });

  it('is never an identity (X509-13)', () => {
    expect(reasonOf(() => verify([root.certificate]))).toBe('unauthenticated LEAF_ID');
  });
});

describe('an X.509-SVID', () => {
  it('knows its ID, its chain and its lifetime', async () => {
    const { certificate } = await root.issue('spiffe://td/w', { notAfterMs: nowMs });
    const svid = X509Svid.parse([certificate, root.certificate]);
    expect([String(svid.id), svid.chain, svid.leaf]).toEqual([
      'spiffe://td/w',
      [certificate, root.certificate],
      certificate,
    ]);
    expect([svid.notBeforeMs, svid.notAfterMs]).toEqual([testStartMs, nowMs]);
  });

  it('has at least one certificate', () => {
    expect(reasonOf(() => X509Svid.parse([]))).toBe('invalid-argument undefined');
    expect(reasonOf(() => verify([]))).toBe('unauthenticated undefined');
  });

  it('may be 2048 bytes of ID (ID-18)', async () => {
    const path = `/${'a'.repeat(2048 - 'spiffe://td/'.length)}`;
    const { certificate } = await root.issue(`spiffe://td${path}`);
    expect(verify([certificate]).id.path).toBe(path);
  });
});

describe('verification', () => {
  it('accepts a leaf below the bundle, directly or through an intermediate', async () => {
    const intermediate = await root.intermediate();
    const direct = await root.issue('spiffe://td/w');
    const indirect = await intermediate.issue('spiffe://td/w2');
    expect(verify([direct.certificate]).id.equals(SpiffeId.parse('spiffe://td/w'))).toBe(true);
    expect(verify([indirect.certificate, intermediate.certificate]).chain).toHaveLength(2);
  });

  const refused: readonly {
    readonly name: string;
    readonly chain: () => Promise<readonly TestIdentity[]>;
    readonly atMs?: number;
    readonly reason: string;
  }[] = [
    {
      name: 'a leaf of one trust domain that the authority of another signed (X509-36)',
      chain: async () => [await otherRoot.issue('spiffe://td/w')],
      reason: 'NO_TRUSTED_ISSUER',
    },
    {
      name: 'the same through an intermediate that claims to be of the trust domain (ID-30)',
      chain: async () => {
        const intermediate = await otherRoot.intermediate({ uris: ['spiffe://td'] });
        return [await intermediate.issue('spiffe://td/w'), intermediate, otherRoot];
      },
      reason: 'NO_TRUSTED_ISSUER',
    },
    {
      name: 'an authority with the name of the true one and another key',
      chain: async () => [await (await TestIdentity.root('td')).issue('spiffe://td/w')],
      reason: 'NO_TRUSTED_ISSUER',
    },
    {
      name: 'a trust domain without a bundle',
      chain: async () => [await root.issue('spiffe://unknown/w')],
      reason: 'NO_BUNDLE',
    },
    {
      name: 'an expired leaf (X509-35)',
      chain: async () => [await root.issue('spiffe://td/w', { notAfterMs: nowMs - 1000 })],
      reason: 'CERTIFICATE_EXPIRED',
    },
    {
      name: 'a leaf that is not valid yet (X509-35)',
      chain: async () => [await root.issue('spiffe://td/w', { notBeforeMs: nowMs + 1000 })],
      reason: 'CERTIFICATE_NOT_YET_VALID',
    },
    {
      name: 'an expired intermediate (X509-35)',
      chain: async () => {
        const intermediate = await root.intermediate({ notAfterMs: nowMs - 1000 });
        return [await intermediate.issue('spiffe://td/w'), intermediate];
      },
      reason: 'CERTIFICATE_EXPIRED',
    },
    {
      name: 'an unknown critical extension (X509-35)',
      chain: async () => {
        const strange = encodeExtension('1.2.3.4', true, new Uint8Array([5, 0]));
        return [await root.issue('spiffe://td/w', { extensions: [strange] })];
      },
      reason: 'UNKNOWN_CRITICAL_EXTENSION',
    },
    {
      name: 'a missing intermediate (X509-35)',
      chain: async () => [await (await root.intermediate()).issue('spiffe://td/w')],
      reason: 'NO_TRUSTED_ISSUER',
    },
    {
      name: 'a workload that signs (X509-24)',
      chain: async () => {
        const workload = await root.issue('spiffe://td/w', { commonName: 'workload' });
        return [await workload.issue('spiffe://td/admin'), workload];
      },
      reason: 'ISSUER_IS_NOT_A_CA',
    },
    {
      name: 'a path that is longer than the authority allows (X509-17)',
      chain: async () => {
        const short = await root.intermediate({ pathLength: 0, commonName: 'short' });
        const below = await short.intermediate({ commonName: 'below' });
        return [await below.issue('spiffe://td/w'), below, short];
      },
      reason: 'PATH_TOO_LONG',
    },
  ];
  it.each(refused)('refuses $name', async ({ chain, reason }) => {
    const certificates = (await chain()).map(({ certificate }) => certificate);
    expect(reasonOf(() => verify(certificates))).toBe(`unauthenticated ${reason}`);
  });

  it('does not use a bundle that is of another trust domain than asked for', async () => {
    const { certificate } = await otherRoot.issue('spiffe://td/w');
    const wrong = () =>
      verifyX509Svid({ chain: [certificate], bundles: () => bundleOf('other', otherRoot), nowMs });
    expect(reasonOf(wrong)).toBe('unauthenticated NO_BUNDLE');
  });

  it('trusts nobody when the bundle is empty (TDB-12)', async () => {
    const { certificate } = await root.issue('spiffe://td/w');
    const verifyEmpty = () => verifyX509Svid({ chain: [certificate], bundles: () => bundleOf('td'), nowMs });
    expect(reasonOf(verifyEmpty)).toBe('unauthenticated NO_TRUSTED_ISSUER');
  });

  it('accepts an authority without an ID of its own (X509-10)', async () => {
    const plain = await TestIdentity.root('td', { uris: [] });
    const { certificate } = await plain.issue('spiffe://td/w');
    const svid = verifyX509Svid({ chain: [certificate], bundles: () => bundleOf('td', plain), nowMs });
    expect(String(svid.id)).toBe('spiffe://td/w');
  });
});
