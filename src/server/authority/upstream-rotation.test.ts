import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DiskUpstreamAuthority } from '../../plugins/upstream-authority/disk.ts';
import { silentLogger } from '../../runtime/log.ts';
import { AuthorityProcess, authorityDomain } from '../../testing/authority-process.ts';
import { TestIdentity } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { opensslVerdict } from '../../testing/openssl.ts';
import { tempDir } from '../../testing/temp-dir.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const signal = new AbortController().signal;

/** A server below a company's intermediate in files, which `put` replaces. */
async function startBelow(company: { root: TestIdentity; issuing: TestIdentity }) {
  const clock = new FakeClock();
  const dir = tempDir();
  const [certFile, keyFile, bundleFile] = ['ca.pem', 'ca.key', 'roots.pem'].map((name) =>
    join(dir, name),
  ) as [string, string, string];
  const put = (issuing: TestIdentity, ...roots: readonly TestIdentity[]) => {
    writeFileSync(certFile, issuing.certificate.toPem());
    writeFileSync(keyFile, issuing.privateKeyPem, { mode: 0o600 });
    writeFileSync(bundleFile, roots.map(({ certificate }) => certificate.toPem()).join(''));
  };
  put(company.issuing, company.root);
  const context = {
    trustDomain: authorityDomain,
    dataDir: dir,
    clock,
    log: silentLogger,
    nameConstraints: false,
  };
  const authority = await DiskUpstreamAuthority.open({ certFile, keyFile, bundleFile }, context);
  const server = await AuthorityProcess.ready({
    dataDir: tempDir(),
    clock,
    upstream: () => ({ kind: 'plugin', name: 'disk', authority }),
  });
  return { server, put };
}

async function company(days = 365) {
  const notAfterMs = new FakeClock().now() + days * dayMs;
  const root = await TestIdentity.root('corp', { uris: [], notAfterMs });
  return { root, issuing: await root.intermediate({ uris: [], notAfterMs }) };
}

const idOf = ({ certificate }: TestIdentity) => certificate.subjectKeyId!;

describe('a server below a company CA', () => {
  it('gives leaves the whole chain without the root, and OpenSSL agrees', async () => {
    const { root, issuing } = await company();
    const { server } = await startBelow({ root, issuing });
    const [leaf, ours, theirs, anchor] = await server.issue();
    expect(theirs?.fingerprint).toBe(issuing.certificate.fingerprint);
    expect(anchor?.fingerprint).toBe(root.certificate.fingerprint);
    const verdict = opensslVerdict({
      leaf: leaf!,
      intermediates: [ours!, theirs!],
      anchors: [anchor!],
      nowMs: server.clock.now(),
    });
    expect(verdict).toBe('OK');
    expect(server.served).toEqual([idOf(root)]);
  });

  it('goes on with what it has after a restart', async () => {
    const { server } = await startBelow(await company());
    const [, ours] = await server.issue();
    const after = await server.restart();
    await after.step();
    const path = await after.issue();
    expect(path).toHaveLength(4);
    expect(path[1]?.fingerprint).toBe(ours?.fingerprint);
  });

  it('publishes a new root long before it signs below it; the old one is tainted, revoked, and stays away', async () => {
    const before = await company();
    const { server, put } = await startBelow(before);
    const next = await company();
    put(before.issuing, before.root, next.root);
    await server.step();
    expect(server.served).toEqual([idOf(before.root), idOf(next.root)]);
    put(next.issuing, before.root, next.root);
    await server.live(13 * hourMs);
    expect((await server.issue())[3]?.subjectKeyId).toBe(idOf(before.root));
    await server.live(8 * hourMs);
    expect((await server.issue())[3]?.subjectKeyId).toBe(idOf(next.root));
    const { administration } = server.rooms;
    await expect(administration.taintUpstream(idOf(next.root))).rejects.toThrow(/singing current authority/);
    await administration.taintUpstream(idOf(before.root));
    expect(server.tainted).toEqual([idOf(before.root)]);
    await administration.revokeUpstream(idOf(before.root), { force: true });
    // The file still has it.
    await server.step();
    expect(server.served).toEqual([idOf(next.root)]);
    const after = await server.restart();
    await after.step();
    expect(after.served).toEqual([idOf(next.root)]);
  });

  it('says what to do when what stands above it ends too soon for a successor, and signs until the end', async () => {
    const { server, put } = await startBelow(await company(1));
    const [, ours] = await server.issue();
    await server.clock.advance(dayMs / 2 + 10_000);
    await expect(server.step()).rejects.toThrow(
      /no successor can be made: what stands above it ends at .*give the upstream/,
    );
    expect((await server.issue())[1]?.fingerprint).toBe(ours?.fingerprint);
    expect(await server.journal()).toHaveLength(1);
    const next = await company(30);
    put(next.issuing, next.root);
    await server.step();
    expect(await server.journal()).toHaveLength(2);
  });

  it('refuses by hand what SPIRE refuses', async () => {
    const { root, issuing } = await company();
    const { server } = await startBelow({ root, issuing });
    const { administration } = server.rooms;
    const id = server.signing!.subjectKeyId!;
    for (const [work, says] of [
      [administration.taint(id), "local authority can't be tainted if there is an upstream authority"],
      [
        administration.revoke(id, { force: true }),
        "local authority can't be revoked if there is an upstream authority",
      ],
      [administration.taintUpstream(''), 'provided subject key id is not valid: no subject key ID provided'],
      [
        administration.taintUpstream('ab'),
        "provided subject key id is not valid: upstream authority didn't sign the old local authority",
      ],
      [
        administration.revokeUpstream(idOf(root), { force: true }),
        'invalid subject key ID: unable to use upstream authority singing current authority',
      ],
      [administration.prepare({ newRoot: true, signal }), /a new root can be asked for only with/],
    ] as const) {
      await expect(work).rejects.toThrow(says);
    }
  });
});
