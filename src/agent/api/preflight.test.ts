import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { X509Svid } from '../../spiffe/x509-svid.ts';
import { TestIdentity, testStartMs } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { openssl } from '../../testing/openssl.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newSdsResources, viewOf } from '../../testing/sds-resources.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { bundleOf, TestTrustDomain } from '../../testing/trust-domain.ts';
import { type Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import type { HeldSvid, WorkloadView } from '../workload-view.ts';
import { secretProblem } from './secret-check.ts';
import { secretBytes } from './secrets.ts';

const hourMs = 3_600_000;
const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
const forever = { notBeforeMs: testStartMs - 1_000 * hourMs, notAfterMs: testStartMs + 1_000 * hourMs };

let own: TestTrustDomain;
let web: HeldSvid;
beforeAll(async () => {
  own = await TestTrustDomain.create('example.org', { withIntermediate: true });
  web = await own.sign(entry);
});

const view = (held: HeldSvid, fields: Partial<WorkloadView> = {}) =>
  viewOf([held], { bundle: own.bundle(), ...fields });
const withChain = (...chain: readonly Certificate[]): HeldSvid => ({ ...web, svid: X509Svid.parse(chain) });
const intermediate = () => web.svid.chain[1] as Certificate;

/** A leaf that no authority of ours would sign, by this key. */
function selfSignedLeaf(keyPem: string): Certificate {
  const extensions = [
    'basicConstraints=critical,CA:FALSE',
    'keyUsage=critical,digitalSignature',
    `subjectAltName=URI:${entry.spiffeId}`,
  ].flatMap((extension) => ['-addext', extension]);
  const keyFile = join(tempDir(), 'key.pem');
  writeFileSync(keyFile, keyPem);
  const args = ['req', '-x509', '-key', keyFile, '-subj', '/C=US', ...extensions];
  return parsePemCertificates(openssl(args).toString())[0] as Certificate;
}

describe('not sent is a certificate', () => {
  const cases: readonly { name: string; held: () => HeldSvid | Promise<HeldSvid>; problem: string }[] = [
    {
      name: 'with the key of another',
      held: async () => ({ ...web, privateKeyPem: (await own.sign(entry)).privateKeyPem }),
      problem: 'private key is not the one of the leaf',
    },
    {
      name: 'whose chain is in another order',
      held: () => withChain(web.svid.leaf, own.root.certificate, intermediate()),
      problem: 'certificate 2 of the chain ("CN=root example.org") is not the issuer of the one before it',
    },
    {
      name: 'with a stranger at the end of its chain',
      held: () => withChain(...web.svid.chain, intermediate()),
      problem: 'certificate 3 of the chain ("CN=intermediate") is not the issuer',
    },
    {
      name: 'with another certificate in the name of its issuer',
      held: async () => {
        const namesake = await own.root.intermediate(forever);
        return withChain(web.svid.leaf, namesake.certificate);
      },
      problem: 'certificate 2 of the chain ("CN=intermediate") has not signed the one before it',
    },
    {
      name: 'with an issuer that is no CA',
      held: async () => {
        const fake = await own.root.issue('spiffe://example.org', { commonName: 'intermediate', ...forever });
        return withChain(web.svid.leaf, fake.certificate);
      },
      problem: 'is no CA',
    },
    {
      name: 'without its intermediate',
      held: () => withChain(web.svid.leaf),
      problem: 'does not verify against the bundle that is served with it',
    },
    {
      name: 'of another authority',
      held: async () => (await TestTrustDomain.create('example.org')).sign(entry),
      problem: 'does not verify against the bundle that is served with it',
    },
    {
      name: 'of another trust domain',
      held: async () => {
        const other = await TestTrustDomain.create('foreign.org');
        return other.sign(testEntry({ spiffeId: 'spiffe://foreign.org/web' }));
      },
      problem: 'no anchors of its trust domain "foreign.org"',
    },
    {
      name: 'that has expired',
      held: () => own.sign(entry, { notAfterMs: testStartMs - 1 }),
      problem: 'expired at',
    },
    {
      name: 'that is not valid yet',
      held: () => own.sign(entry, { issuedAtMs: testStartMs + 60_000 }),
      problem: 'is not valid before',
    },
  ];
  test.each(cases)('$name', async ({ held, problem }) => {
    const { log, lines } = memoryLogger();
    const resources = newSdsResources({ log });
    const bad = await held();
    const bundle = own.bundle();
    // Two thousand streams.
    const found = Array.from({ length: 2_000 }, () => resources.whyHeld('default', view(bad, { bundle })));
    expect(new Set(found).size).toBe(1);
    expect(resources.resolve('default', view(bad))).toEqual({
      kind: 'unfit',
      problem: expect.stringContaining(problem),
    });
    expect(resources.preflight.failures).toBe(1);
    expect(resources.preflight.latest).toContain(problem);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({
      level: 'error',
      problem: resources.preflight.latest,
      spiffeId: bad.svid.id.toString(),
    });
    expect(JSON.stringify(lines)).not.toContain(bad.privateKeyPem.split('\n')[1]);
  });

  const kinds: readonly (readonly [string, () => KeyObject])[] = [
    ['P-224', () => generateKeyPairSync('ec', { namedCurve: 'P-224' }).privateKey],
    ['P-521', () => generateKeyPairSync('ec', { namedCurve: 'P-521' }).privateKey],
    ['RSA-1024', () => generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey],
    ['Ed25519', () => generateKeyPairSync('ed25519').privateKey],
  ];
  test.each(kinds)('with a key of kind %s', (_kind, makeKey) => {
    const privateKeyPem = makeKey().export({ format: 'pem', type: 'pkcs8' }).toString();
    const held = { ...web, svid: X509Svid.parse([selfSignedLeaf(privateKeyPem)]), privateKeyPem };
    const resource = { kind: 'certificate', held } as const;
    expect(secretProblem(secretBytes('n', resource), 'n', resource)).toContain('the leaf has a key of kind');
  });

  test('when its flavour of the bundle cannot verify it, though the other one can', async () => {
    // The intermediate as an anchor: no use to the SPIFFE validator of those who are to believe the certificate.
    const stranger = await TestIdentity.root('example.org', forever);
    const bundle = bundleOf('example.org', [intermediate(), stranger.certificate]);
    const resources = newSdsResources();
    expect(resources.resolve('default', view(web, { bundle }), 'spiffe').kind).toBe('unfit');
    expect(resources.resolve('default', view(web, { bundle }), 'x509').kind).toBe('certificate');
  });
});

test('a certificate becomes unfit when its time is over, or that of its only root, and is looked at but then', async () => {
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const resources = newSdsResources({ clock, log });
  const root = await TestIdentity.root('example.org', { notAfterMs: testStartMs + hourMs / 2 });
  const leaf = await root.issue('spiffe://example.org/web', { notAfterMs: testStartMs + hourMs });
  const held = { ...web, svid: X509Svid.parse([leaf.certificate]), privateKeyPem: leaf.privateKeyPem };
  const of = view(held, { bundle: bundleOf('example.org', [root.certificate]) });
  expect(resources.resolve('default', of).kind).toBe('certificate');
  // To the last moment.
  await clock.advance(root.certificate.notAfterMs - clock.now());
  expect(resources.resolve('default', of).kind).toBe('certificate');
  await clock.advance(1);
  expect(resources.whyHeld('default', of)).toContain('expired');
  await clock.advance(hourMs);
  expect(resources.whyHeld('default', of)).toContain('expired');
  expect(resources.preflight.failures).toBe(lines.length);
  expect(lines.length).toBeLessThanOrEqual(2);
});

test('the first of several certificates of one SPIFFE ID that is fit is sent', async () => {
  const stranger = await (await TestTrustDomain.create('example.org')).sign({ ...entry, id: 'older' });
  const resources = newSdsResources();
  const both = viewOf([stranger, web], { bundle: own.bundle() });
  expect(resources.resolve('spiffe://example.org/web', both)).toEqual({ kind: 'certificate', held: web });
  // But the default is the first, or none.
  expect(resources.resolve('default', both).kind).toBe('unfit');
});
