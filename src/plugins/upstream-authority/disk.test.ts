import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { TestIdentity } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { buildCsr } from '../../x509/csr.ts';
import { nameConstraints } from '../../x509/name-constraints.ts';
import { encodePem } from '../../x509/pem.ts';
import { DiskUpstreamAuthority } from './disk.ts';

const trustDomain = TrustDomain.parse('example.org');
const hourMs = 3_600_000;
const signal = new AbortController().signal;

interface Content {
  readonly certificates: readonly TestIdentity[];
  readonly key?: string;
  readonly bundle?: readonly TestIdentity[] | string;
}

const pemOf = (identities: readonly TestIdentity[]) =>
  identities.map(({ certificate }) => certificate.toPem()).join('');

/** Files of a company, which can be replaced. */
class Files {
  readonly config;

  constructor(content: Content) {
    const dir = tempDir();
    const [certFile, keyFile, bundleFile] = ['ca.pem', 'ca.key', 'roots.pem'].map((name) => join(dir, name));
    this.config = {
      certFile: certFile!,
      keyFile: keyFile!,
      ...(content.bundle && { bundleFile: bundleFile! }),
    };
    this.write(content);
  }

  write({ certificates, key, bundle }: Content): void {
    const { certFile, keyFile, bundleFile } = this.config;
    writeFileSync(certFile, pemOf(certificates));
    writeFileSync(keyFile, key ?? certificates[0]!.privateKeyPem, { mode: 0o600 });
    if (bundleFile !== undefined && bundle !== undefined)
      writeFileSync(bundleFile, typeof bundle === 'string' ? bundle : pemOf(bundle));
  }

  open(clock = new FakeClock(), constrained = false): Promise<DiskUpstreamAuthority> {
    const context = { trustDomain, dataDir: '', clock, log: silentLogger, nameConstraints: constrained };
    return DiskUpstreamAuthority.open(this.config, context);
  }
}

async function mint(upstream: DiskUpstreamAuthority, preferredTtlMs = hourMs, uris = [trustDomain.id]) {
  const signer = await newSigner();
  const csr = await buildCsr({ signer, uris });
  return { ...(await upstream.mint(csr, { preferredTtlMs, signal, root: 'active' })), signer };
}

const root = await TestIdentity.root('corp.example', { uris: [] });
const issuing = await root.intermediate({ uris: [], commonName: 'issuing' });
const below = await issuing.intermediate({ uris: [], commonName: 'below' });

describe('an upstream authority on disk', () => {
  it.each([
    { name: 'its root, which stands for itself', certificates: [root], bundle: undefined, above: [] },
    { name: 'its root', certificates: [root], bundle: [root], above: [] },
    { name: 'an intermediate of it', certificates: [issuing], bundle: [root], above: [issuing] },
    { name: 'one below that', certificates: [below, issuing], bundle: [root], above: [below, issuing] },
    {
      name: 'one with the root behind it',
      certificates: [below, issuing, root],
      bundle: undefined,
      above: [below, issuing],
    },
  ])('signs our certificates with $name', async ({ certificates, bundle, above }) => {
    const upstream = await new Files({ certificates, ...(bundle && { bundle }) }).open();
    const { chain, roots, signer } = await mint(upstream);
    const [ours, ...others] = chain;
    expect(ours).toMatchObject({
      isCa: true,
      pathLength: 0,
      uris: [trustDomain.id],
      nameConstraints: undefined,
    });
    expect(ours!.spki.equals(signer.publicKey)).toBe(true);
    expect(ours!.verifySignedBy(certificates[0]!.certificate)).toBe(true);
    expect(others.map(({ fingerprint }) => fingerprint)).toEqual(
      above.map((one) => one.certificate.fingerprint),
    );
    expect(roots.map(({ fingerprint }) => fingerprint)).toEqual([root.certificate.fingerprint]);
  });

  it('limits names when that is asked for', async () => {
    const upstream = await new Files({ certificates: [root] }).open(new FakeClock(), true);
    const { chain } = await mint(upstream);
    expect(chain[0]?.nameConstraints?.permitted.map(({ text }) => text)).toEqual(['example.org']);
  });

  it('lets nothing outlive what stands above it, and says when that ends', async () => {
    const soon = await root.intermediate({ notAfterMs: root.certificate.notBeforeMs + 2 * hourMs });
    const upstream = await new Files({ certificates: [soon], bundle: [root] }).open();
    expect(await upstream.latestEndMs()).toBe(soon.certificate.notAfterMs);
    expect((await mint(upstream, hourMs)).chain[0]?.notAfterMs).toBe(root.certificate.notBeforeMs + hourMs);
    expect((await mint(upstream, 3 * hourMs)).chain[0]?.notAfterMs).toBe(soon.certificate.notAfterMs);
  });

  it('signs for our trust domain only', async () => {
    const upstream = await new Files({ certificates: [root] }).open();
    for (const uris of [[], ['spiffe://other.org'], ['spiffe://example.org/web']]) {
      await expect(mint(upstream, hourMs, uris)).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });
});

const nowMs = root.certificate.notBeforeMs;
const otherRoot = await TestIdentity.root('corp.example', { uris: [] });
const weakKey = '-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n';

describe('files that no peer could use are refused at load', () => {
  it.each<{ name: string; content: () => Promise<Content> | Content; says: RegExp }>([
    {
      name: 'the key of another certificate',
      content: () => ({ certificates: [root], key: otherRoot.privateKeyPem }),
      says: /disk\.keyFile: it is not the key of the first certificate in certFile/,
    },
    {
      name: 'no key at all',
      content: () => ({ certificates: [root], key: weakKey }),
      says: /disk\.keyFile: cannot use ".*": it holds no private key as unencrypted PEM$/,
    },
    {
      name: 'a key of a kind that we do not sign with',
      content: async () => {
        const { generateKeyPairSync } = await import('node:crypto');
        const { privateKey } = generateKeyPairSync('ed25519');
        return { certificates: [root], key: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString() };
      },
      says: /Ed25519/,
    },
    {
      name: 'an anchor that is not self-signed',
      content: () => ({ certificates: [below], bundle: [issuing] }),
      says: /disk\.bundleFile: certificate "CN=issuing" is not self-signed, and Envoy's SPIFFE validator/,
    },
    {
      name: 'an intermediate without its root',
      content: () => ({ certificates: [issuing] }),
      says: /disk\.bundleFile: it is needed/,
    },
    {
      name: 'no path to the roots',
      content: () => ({ certificates: [below], bundle: [root] }),
      says: /disk\.certFile: there is no path from its first certificate to a root/,
    },
    {
      name: 'the roots of somebody else',
      content: () => ({ certificates: [issuing], bundle: [otherRoot] }),
      says: /disk\.certFile: there is no path/,
    },
    {
      name: 'a certificate of no CA',
      content: async () => ({ certificates: [await root.issue('spiffe://example.org/web')], bundle: [root] }),
      says: /is no CA certificate/,
    },
    {
      name: 'one that may not sign certificates',
      content: async () => ({
        certificates: [await root.intermediate({ keyUsage: ['cRLSign'] })],
        bundle: [root],
      }),
      says: /lacks key usage keyCertSign/,
    },
    {
      name: 'one that has expired',
      content: async () => ({
        certificates: [
          await root.intermediate({ notBeforeMs: nowMs - 2 * hourMs, notAfterMs: nowMs - hourMs }),
        ],
        bundle: [root],
      }),
      says: /expired at/,
    },
    {
      name: 'no room for a CA below it',
      content: async () => ({ certificates: [await root.intermediate({ pathLength: 0 })], bundle: [root] }),
      says: /"CN=intermediate" allows 0 CA certificates below it, and there will be 1; it needs a path length of at least 1/,
    },
    {
      name: 'a root without room for both',
      content: async () => {
        const narrow = await TestIdentity.root('corp.example', { uris: [], pathLength: 1 });
        return { certificates: [await narrow.intermediate()], bundle: [narrow] };
      },
      says: /"CN=root corp.example" allows 1 CA certificates below it, and there will be 2/,
    },
    {
      name: 'name constraints that forbid our identities',
      content: async () => ({
        certificates: [
          await root.intermediate({ extensions: [nameConstraints({ permittedUris: ['other.org'] })] }),
        ],
        bundle: [root],
      }),
      says: /name constraints of certificate "CN=intermediate" forbid identities of "example.org"/,
    },
    {
      name: 'noise for a certificate',
      content: () => ({ certificates: [root], bundle: 'noise' }),
      says: /disk\.bundleFile: cannot use/,
    },
  ])('$name', async ({ content, says }) => {
    const opening = new Files(await content()).open();
    await expect(opening).rejects.toMatchObject({ code: 'failed-precondition' });
    await expect(opening).rejects.toThrow(says);
    await expect(opening).rejects.not.toThrow(/c2VjcmV0|BEGIN/);
  });

  it('a key that others may read', async () => {
    const files = new Files({ certificates: [root] });
    chmodSync(files.config.keyFile, 0o640);
    await expect(files.open()).rejects.toThrow(/chmod 600/);
  });

  it('a key that is missing', async () => {
    const files = new Files({ certificates: [root] });
    await expect(
      DiskUpstreamAuthority.open(
        { ...files.config, keyFile: `${files.config.keyFile}.none` },
        { trustDomain, dataDir: '', clock: new FakeClock(), log: silentLogger, nameConstraints: false },
      ),
    ).rejects.toThrow(/there is no file/);
  });
});

describe('files that are replaced', () => {
  it('are taken over when they fit together again, and not before', async () => {
    const files = new Files({ certificates: [issuing], bundle: [root] });
    const upstream = await files.open();
    const issuerOf = async () => (await mint(upstream)).chain[1]?.fingerprint;
    expect(await issuerOf()).toBe(issuing.certificate.fingerprint);
    const next = await otherRoot.intermediate({ uris: [], commonName: 'next' });
    writeFileSync(files.config.certFile, pemOf([next]));
    expect(await issuerOf()).toBe(issuing.certificate.fingerprint);
    files.write({ certificates: [next], bundle: [root] });
    expect(await issuerOf()).toBe(issuing.certificate.fingerprint);
    files.write({ certificates: [next], bundle: [root, otherRoot] });
    expect(await issuerOf()).toBe(next.certificate.fingerprint);
    expect((await upstream.roots()).map(({ fingerprint }) => fingerprint)).toEqual([
      root.certificate.fingerprint,
      otherRoot.certificate.fingerprint,
    ]);
  });

  it('with noise or nothing leave what was read before in use', async () => {
    const files = new Files({ certificates: [root] });
    const upstream = await files.open();
    writeFileSync(files.config.certFile, encodePem('CERTIFICATE', Buffer.from('noise')));
    expect((await mint(upstream)).roots).toHaveLength(1);
    writeFileSync(files.config.certFile, '');
    expect(await upstream.roots()).toHaveLength(1);
  });
});
