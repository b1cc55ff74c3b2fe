import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createLogger, silentLogger } from '../../runtime/log.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { X509Svid } from '../../spiffe/x509-svid.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { openssl, opensslVerdict } from '../../testing/openssl.ts';
import { selfSignedSlot } from '../../testing/signing-slot.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { Certificate } from '../../x509/certificate.ts';
import { basicConstraints, keyUsage, subjectKeyIdentifier } from '../../x509/extensions.ts';
import { issueCertificate, newSerial } from '../../x509/issue.ts';
import { encodeName } from '../../x509/names.ts';
import type { KeyType, Signer } from '../../x509/signature.ts';
import { Authority, type SignedSvid } from './authority.ts';

const trustDomain = TrustDomain.parse('example.org');
const web = SpiffeId.of(trustDomain, '/web');
const subject = { commonName: 'example.org', organization: ['Signet', 'Ops'], country: ['DE'] };
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

async function startAuthority(options: { keyType?: KeyType; log?: typeof silentLogger } = {}) {
  const clock = new FakeClock();
  const authority = new Authority({ trustDomain, clock, log: options.log ?? silentLogger });
  const slot = await selfSignedSlot({ trustDomain, clock, subject, keyType: options.keyType ?? 'ec-p256' });
  authority.activate(slot);
  return { clock, authority, slot, signer: slot.signer, root: slot.certificate };
}

const workload = (
  key: Signer,
  changes: { dnsNames?: readonly string[]; ttlMs?: number; id?: SpiffeId } = {},
) => ({
  id: web,
  spki: key.publicKey,
  dnsNames: [],
  ttlMs: hourMs,
  ...changes,
});

function leafOf(svid: SignedSvid): Certificate {
  expect(svid.chain).toHaveLength(1);
  return Certificate.parse(svid.chain[0]!);
}

/** The extensions as OpenSSL prints them, one line each: `Key Usage: critical Digital Signature`. */
function extensionsIn(certificate: Certificate): string[] {
  const args = ['x509', '-noout', '-ext', 'basicConstraints,keyUsage,extendedKeyUsage,subjectAltName'];
  const text = openssl(args, certificate.toPem()).toString();
  return text
    .replaceAll(/:\s*(critical)?\n\s+/g, (_, critical = '') => `: ${critical} `.replace('  ', ' '))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.trim().replace('X509v3 ', ''));
}

const subjectIn = (certificate: Certificate) =>
  openssl(['x509', '-noout', '-subject', '-nameopt', 'RFC2253'], certificate.toPem()).toString().trim();

/** OpenSSL at its strictest, for this use of the leaf. */
function strictVerdict(leaf: Certificate, root: Certificate, purpose: string, nowMs: number): string {
  const directory = tempDir();
  const [rootFile, leafFile] = [join(directory, 'root.pem'), join(directory, 'leaf.pem')];
  writeFileSync(rootFile, root.toPem());
  writeFileSync(leafFile, leaf.toPem());
  const at = ['-attime', String(nowMs / 1000), '-purpose', purpose];
  const args = ['verify', '-x509_strict', '-check_ss_sig', '-CAfile', rootFile, ...at, leafFile];
  return openssl(args).toString().trim().replace(leafFile, 'leaf');
}

describe.each<{ keyType: KeyType }>([
  { keyType: 'ec-p256' },
  { keyType: 'ec-p384' },
  { keyType: 'rsa-2048' },
])('an authority with an $keyType key', ({ keyType }) => {
  it('signs leaves that OpenSSL accepts from servers and clients', async () => {
    const { authority, root, clock } = await startAuthority({ keyType });
    const leaf = leafOf(await authority.signX509Svid(workload(await newSigner(), { dnsNames: ['web'] })));
    for (const purpose of ['sslserver', 'sslclient']) {
      expect(strictVerdict(leaf, root, purpose, clock.now())).toBe('leaf: OK');
    }
    expect(strictVerdict(root, root, 'any', clock.now())).toBe('leaf: OK');
  });
});

describe('a root', () => {
  it('says what a SPIFFE signing certificate must say, and no more', async () => {
    const { root } = await startAuthority();
    expect(extensionsIn(root)).toEqual([
      'Basic Constraints: critical CA:TRUE, pathlen:0',
      'Key Usage: critical Certificate Sign, CRL Sign',
      'Subject Alternative Name: URI:spiffe://example.org',
    ]);
    expect(subjectIn(root)).toMatch(/^subject=serialNumber=\d+,CN=example\.org,O=Ops,O=Signet,C=DE$/);
  });

  it('has a name, a key identifier and a serial number that no other root has', async () => {
    const { clock, root } = await startAuthority();
    const { certificate: next } = await selfSignedSlot({ trustDomain, clock, subject });
    expect(next.subject.equals(root.subject)).toBe(false);
    expect(next.subjectKeyId).not.toBe(root.subjectKeyId);
    expect(next.serialHex).not.toBe(root.serialHex);
  });

  it('is valid from ten seconds ago for its lifetime from now', async () => {
    const { root, clock } = await startAuthority();
    expect(root.notBeforeMs).toBe(clock.now() - 10_000);
    expect(root.notAfterMs).toBe(clock.now() + dayMs);
  });

  it('lets no intermediate stand below it', async () => {
    const { authority, root, signer, clock } = await startAuthority();
    const key = await newSigner();
    const intermediate = Certificate.parse(
      await issueCertificate(
        {
          serial: newSerial(),
          issuer: root.subject,
          subject: encodeName({ commonName: 'intermediate' }),
          notBeforeMs: clock.now(),
          notAfterMs: clock.now() + hourMs,
          spki: key.publicKey,
          extensions: [
            basicConstraints({ ca: true }),
            keyUsage(['keyCertSign']),
            subjectKeyIdentifier(key.publicKey),
          ],
        },
        signer,
      ),
    );
    authority.activate({ id: 'ca', certificate: intermediate, chain: [intermediate], signer: key });
    const svid = await authority.signX509Svid(workload(await newSigner()));
    expect(svid.chain[1]).toEqual(intermediate.der);
    const leaf = Certificate.parse(svid.chain[0]!);
    const verdict = opensslVerdict({
      leaf,
      intermediates: [intermediate],
      anchors: [root],
      nowMs: clock.now(),
    });
    expect(verdict).toMatch(/path length/);
  });

  it('does not sign anything before it is activated', async () => {
    const authority = new Authority({ trustDomain, clock: new FakeClock(), log: silentLogger });
    const refused = authority.signX509Svid(workload(await newSigner()));
    await expect(refused).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('does not sign anything once it has expired', async () => {
    const { authority, clock } = await startAuthority();
    await clock.advance(dayMs);
    const refused = authority.signX509Svid(workload(await newSigner()));
    await expect(refused).rejects.toMatchObject({ code: 'unavailable' });
  });
});

describe('a leaf', () => {
  it('says what an X.509-SVID must say, and no more', async () => {
    const { authority } = await startAuthority();
    const dnsNames = ['web.example.org', '*.web.example.org'];
    const svid = await authority.signX509Svid(workload(await newSigner(), { dnsNames }));
    const leaf = leafOf(svid);
    expect(extensionsIn(leaf)).toEqual([
      'Basic Constraints: critical CA:FALSE',
      'Key Usage: critical Digital Signature',
      'Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication',
      'Subject Alternative Name: URI:spiffe://example.org/web, DNS:web.example.org, DNS:*.web.example.org',
    ]);
    expect(subjectIn(leaf)).toBe('subject=CN=web.example.org,O=Signet');
    expect(X509Svid.parse([leaf]).id.equals(web)).toBe(true);
    expect(svid).toMatchObject({ id: web, serialDecimal: leaf.serialDecimal, notAfterMs: leaf.notAfterMs });
  });

  it('certifies the key of the request and names the key of its issuer', async () => {
    const { authority, root } = await startAuthority();
    const key = await newSigner();
    const leaf = leafOf(await authority.signX509Svid(workload(key)));
    expect(leaf.spki.equals(key.publicKey)).toBe(true);
    expect(leaf.issuer.equals(root.subject)).toBe(true);
    expect(leaf.authorityKeyId).toBe(root.subjectKeyId);
  });

  it.each<{ keyType: KeyType }>([{ keyType: 'ec-p384' }, { keyType: 'rsa-2048' }])(
    'may have an $keyType key',
    async ({ keyType }) => {
      const { authority, root, clock } = await startAuthority();
      const leaf = leafOf(await authority.signX509Svid(workload(await newSigner(keyType))));
      expect(strictVerdict(leaf, root, 'sslserver', clock.now())).toBe('leaf: OK');
    },
  );

  it('leaves a DNS name that is too long for a common name to the alternative names', async () => {
    const { authority } = await startAuthority();
    const dnsNames = [`${'a'.repeat(60)}.example.org`, 'short'];
    const leaf = leafOf(await authority.signX509Svid(workload(await newSigner(), { dnsNames })));
    expect(subjectIn(leaf)).toBe('subject=O=Signet');
    expect(leaf.dnsNames).toEqual(dnsNames);
  });

  it('begins ten seconds ago, ends in whole seconds, and never outlives its root', async () => {
    const { authority, root, clock } = await startAuthority();
    const key = await newSigner();
    const anyMoment = fc.integer({ min: 0, max: dayMs - 1 });
    const anyTtl = fc.integer({ min: 1000, max: 2 * dayMs });
    const beginMs = clock.now();
    await fc.assert(
      fc.asyncProperty(anyMoment, anyTtl, async (afterMs, ttlMs) => {
        clock.stepWallClock(beginMs + afterMs - clock.now());
        const svid = await authority.signX509Svid(workload(key, { ttlMs }));
        const leaf = leafOf(svid);
        const wholeSeconds = (ms: number) => Math.floor(ms / 1000) * 1000;
        expect(leaf.notBeforeMs).toBe(wholeSeconds(clock.now() - 10_000));
        expect(leaf.notAfterMs).toBe(Math.min(wholeSeconds(clock.now() + ttlMs), root.notAfterMs));
        expect(svid.notAfterMs).toBe(leaf.notAfterMs);
      }),
      { numRuns: 200 },
    );
  });

  it('that must end with its root is signed, and it and the log say so', async () => {
    const lines: string[] = [];
    const log = createLogger({ level: 'warn', format: 'json', write: (line) => lines.push(line) });
    const { authority, root } = await startAuthority({ log });
    const key = await newSigner();
    const whole = await authority.signX509Svid(workload(key, { ttlMs: dayMs }));
    expect([whole.shortened, lines]).toEqual([undefined, []]);
    const svid = await authority.signX509Svid(workload(key, { ttlMs: dayMs + 1 }));
    expect(svid.notAfterMs).toBe(root.notAfterMs);
    expect(svid.shortened).toContain('86400.001 s was asked');
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([{ spiffeId: web.toString() }]);
  });

  it('is linted before the key of the authority touches it', async () => {
    const { authority, slot, signer } = await startAuthority();
    let signatures = 0;
    const counting: Signer = {
      ...signer,
      sign: (data) => {
        signatures += 1;
        return signer.sign(data);
      },
    };
    authority.activate({ ...slot, signer: counting });
    const id = SpiffeId.parse('spiffe://other.org/web');
    const refused = authority.signX509Svid(workload(await newSigner(), { id }));
    await expect(refused).rejects.toMatchObject({ code: 'internal', reason: 'ID_IN_TRUST_DOMAIN' });
    expect(signatures).toBe(0);
    await authority.signX509Svid(workload(await newSigner()));
    expect(signatures).toBe(1);
  });

  it('for the server or an agent carries their reserved name', async () => {
    const { authority } = await startAuthority();
    const { publicKey: spki } = await newSigner();
    const agentId = SpiffeId.of(trustDomain, '/spire/agent/join_token/1');
    const server = leafOf(await authority.signServerSvid({ spki, ttlMs: hourMs }));
    const agent = leafOf(await authority.signAgentSvid({ id: agentId, spki, ttlMs: hourMs }));
    expect(server.uris).toEqual(['spiffe://example.org/spire/server']);
    expect(agent.uris).toEqual([agentId.toString()]);
  });

  it('has a serial number of its own: many and none twice', async () => {
    const { authority } = await startAuthority();
    const key = await newSigner();
    const svids = await Promise.all(Array.from({ length: 200 }, () => authority.signX509Svid(workload(key))));
    expect(new Set(svids.map((svid) => svid.serialDecimal)).size).toBe(200);
  });
});
