import { createPublicKey, X509Certificate } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import type { WorkloadX509Svid } from '../../clients/workload-client.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { parseSpiffeJwks } from '../../spiffe/bundle-document.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { parsePemCertificates } from '../../x509/certificate.ts';
import { isSameSet, planBundleFiles, planX509Files, type X509Layout } from './file-plan.ts';

const layout: X509Layout = {
  certName: 'svid.pem',
  keyName: 'svid_key.pem',
  bundleName: 'bundle.pem',
  intermediatesName: 'intermediates.pem',
  combinedName: undefined,
  certMode: 0o644,
  keyMode: 0o600,
  chain: 'joined',
  federated: 'files',
};

let domain: TestTrustDomain;
let foreign: TestTrustDomain;
let identity: WorkloadX509Svid;
let bundles: ReadonlyMap<string, Bundle>;
beforeAll(async () => {
  domain = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  const held = await domain.sign(testEntry({ spiffeId: 'spiffe://example.org/web' }));
  identity = { ...held, bundle: domain.bundle(), hint: '' };
  bundles = new Map([domain, foreign].map((one) => [one.name, one.bundle()]));
});

/** The fingerprints in each file, or `key` for the private key. */
function contents(change: Partial<X509Layout>): Record<string, readonly string[]> {
  const names = new Map([
    [identity.svid.leaf.fingerprint, 'leaf'],
    [identity.svid.chain[1]!.fingerprint, 'intermediate'],
    [domain.root.certificate.fingerprint, 'root'],
    [foreign.root.certificate.fingerprint, 'foreign root'],
  ]);
  const described = planX509Files(identity, bundles, { ...layout, ...change }).map(({ name, content }) => {
    const [key, certificates] = content.split('-----END PRIVATE KEY-----\n');
    const pem = certificates ?? key ?? '';
    const found = pem === '' ? [] : parsePemCertificates(pem);
    const what = found.map(({ fingerprint }) => names.get(fingerprint)!);
    return [name, certificates === undefined ? what : ['key', ...what]] as const;
  });
  return Object.fromEntries(described);
}

describe('the files of an identity', () => {
  const usual = {
    'svid.pem': ['leaf', 'intermediate'],
    'svid_key.pem': ['key'],
    'bundle.pem': ['root'],
    'federated.foreign.org.pem': ['foreign root'],
  };

  it.each<{ name: string; change: Partial<X509Layout>; expected: Record<string, readonly string[]> }>([
    { name: 'by default', change: {}, expected: usual },
    {
      name: 'with the chain split',
      change: { chain: 'split' },
      expected: { ...usual, 'svid.pem': ['leaf'], 'intermediates.pem': ['intermediate'] },
    },
    {
      name: 'with the intermediates in the bundle',
      change: { chain: 'bundle' },
      expected: { ...usual, 'svid.pem': ['leaf'], 'bundle.pem': ['intermediate', 'root'] },
    },
    {
      name: 'with key and chain in one file besides, complete also when the chain is split',
      change: { combinedName: 'all.pem', chain: 'split', federated: 'none' },
      expected: {
        'svid.pem': ['leaf'],
        'svid_key.pem': ['key'],
        'bundle.pem': ['root'],
        'intermediates.pem': ['intermediate'],
        'all.pem': ['key', 'leaf', 'intermediate'],
      },
    },
    {
      name: 'with other trust domains joined',
      change: { federated: 'joined' },
      expected: {
        'svid.pem': ['leaf', 'intermediate'],
        'svid_key.pem': ['key'],
        'bundle.pem': ['root', 'foreign root'],
      },
    },
    {
      name: 'with other names',
      change: { certName: 'tls.crt', keyName: 'tls.key', bundleName: 'ca.crt', federated: 'none' },
      expected: { 'tls.crt': ['leaf', 'intermediate'], 'tls.key': ['key'], 'ca.crt': ['root'] },
    },
  ])('are as asked for: $name', ({ change, expected }) => {
    expect(contents(change)).toEqual(expected);
  });

  it('are PEM of which key and certificate fit together, with the key for its owner only', () => {
    const set = planX509Files(identity, bundles, { ...layout, combinedName: 'all.pem', keyMode: 0o400 });
    const file = (name: string) => set.find((one) => one.name === name)!;
    const key = createPublicKey(file('svid_key.pem').content);
    expect(new X509Certificate(file('svid.pem').content).publicKey.equals(key)).toBe(true);
    expect(set.filter(({ content }) => content.includes('PRIVATE')).map(({ mode }) => mode)).toEqual([
      0o400, 0o400,
    ]);
  });

  it('have the file of intermediates also when there are none', async () => {
    const held = await foreign.sign(testEntry({ spiffeId: 'spiffe://foreign.org/web' }));
    const set = planX509Files({ ...held, bundle: foreign.bundle(), hint: '' }, new Map(), {
      ...layout,
      chain: 'split',
    });
    expect(set.find(({ name }) => name === 'intermediates.pem')?.content).toBe('');
  });
});

describe('the files of bundles', () => {
  it('are one for each trust domain, as PEM or as SPIFFE bundle documents', () => {
    const pem = planBundleFiles(bundles, { format: 'pem', mode: 0o644 });
    expect(pem.map(({ name }) => name)).toEqual(['example.org.pem', 'foreign.org.pem']);
    expect(pem[1]?.content).toBe(foreign.root.certificate.toPem());
    const [document] = planBundleFiles(bundles, { format: 'spiffe', mode: 0o644 });
    expect(document?.name).toBe('example.org.json');
    const parsed = parseSpiffeJwks(document!.content, TrustDomain.parse('example.org'));
    expect(parsed.equals(domain.bundle(0))).toBe(true);
  });

  it.each(['pem', 'spiffe'] as const)(
    'have names that a file can have, whatever the trust domain (%s)',
    (format) => {
      const longest = ['a'.repeat(255), `${'a'.repeat(254)}b`, '..', '.signet', 'current'];
      const many = new Map(longest.map((name) => [name, bundleOf(name, [domain.root.certificate])]));
      const names = planBundleFiles(many, { format, mode: 0o644 }).map(({ name }) => name);
      expect(new Set(names).size).toBe(longest.length);
      for (const name of names) {
        expect(name.length).toBeLessThanOrEqual(255);
        expect(['.', '..', '.signet', 'current']).not.toContain(name);
      }
    },
  );
});

describe('two sets', () => {
  const file = { name: 'a', content: 'x', mode: 0o600 };
  it.each([
    { name: 'the same files', other: [{ ...file }], same: true },
    { name: 'another content', other: [{ ...file, content: 'y' }], same: false },
    { name: 'another mode', other: [{ ...file, mode: 0o640 }], same: false },
    { name: 'another name', other: [{ ...file, name: 'b' }], same: false },
    { name: 'one more', other: [file, { ...file, name: 'b' }], same: false },
    { name: 'none', other: [], same: false },
  ])('are the same or not: $name', ({ other, same }) => {
    expect(isSameSet([file], other)).toBe(same);
  });
});
