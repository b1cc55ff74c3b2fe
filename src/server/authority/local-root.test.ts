import { describe, expect, it } from 'vitest';
import type { KeyManager } from '../../plugin-api/key-manager.ts';
import { DiskKeyManager } from '../../plugins/key-manager/disk.ts';
import { MemoryKeyManager } from '../../plugins/key-manager/memory.ts';
import {
  AuthorityProcess,
  type AuthorityProcessOptions,
  authorityDomain,
} from '../../testing/authority-process.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { opensslVerdict } from '../../testing/openssl.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { newSigner } from '../../testing/test-authority.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { buildCsr } from '../../x509/csr.ts';
import { findLocalRoot } from '../config.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

interface Topology {
  readonly rootKeys?: KeyManager;
  readonly rootTtl?: string;
  readonly authority?: Readonly<Record<string, unknown>>;
}

/** Signing keys in memory and root keys on disk, as in production with an HSM. */
async function options(topology: Topology = {}): Promise<AuthorityProcessOptions> {
  const dataDir = tempDir();
  const rootKeys = topology.rootKeys ?? (await DiskKeyManager.open({ dataDir }));
  const { rootTtl = '365d', authority = {} } = topology;
  return {
    dataDir,
    clock: new FakeClock(),
    keyManager: new MemoryKeyManager(),
    settings: { authority, upstreamAuthority: { local_root: { keyManager: { disk: {} }, rootTtl } } },
    upstream: (config) => ({
      kind: 'local-root',
      config: findLocalRoot(config, 'test')!,
      keyManager: rootKeys,
    }),
  };
}

const start = async (topology?: Topology) => AuthorityProcess.ready(await options(topology));

function verdictOf(path: readonly Certificate[], nowMs: number): string {
  const [leaf, ...above] = path;
  return opensslVerdict({ leaf: leaf!, intermediates: above.slice(0, -1), anchors: above.slice(-1), nowMs });
}

const noAbort = new AbortController().signal;

describe('a root of our own', () => {
  it('stands above signing certificates that stand above leaves, and OpenSSL agrees', async () => {
    const server = await start();
    const path = await server.issue();
    expect(path).toHaveLength(3);
    expect(verdictOf(path, server.clock.now())).toBe('OK');
    const [, intermediate, root] = path;
    expect([intermediate?.pathLength, root?.pathLength]).toEqual([0, 1]);
    expect([intermediate?.nameConstraints, root?.nameConstraints]).toEqual([undefined, undefined]);
    expect(server.served).toEqual([root?.subjectKeyId]);
    expect(await server.journal()).toEqual([
      `root active ${root?.subjectKeyId}`,
      `signing active ${intermediate?.subjectKeyId}`,
    ]);
  });

  it('can limit the URIs below it to the trust domain, and OpenSSL agrees', async () => {
    const server = await start({ authority: { nameConstraints: true } });
    const path = await server.issue();
    expect(verdictOf(path, server.clock.now())).toBe('OK');
    expect(path.slice(1).map(({ nameConstraints }) => nameConstraints?.permitted[0]?.text)).toEqual([
      'example.org',
      'example.org',
    ]);
  });

  it('certifies signing certificates of its own trust domain only', async () => {
    const { rooms } = await start();
    const signer = await newSigner();
    const mint = async (uris: readonly string[]) =>
      rooms.root!.mint(await buildCsr({ signer, uris }), {
        preferredTtlMs: hourMs,
        signal: noAbort,
        root: 'active',
      });
    for (const uris of [
      [],
      ['spiffe://other.org'],
      ['spiffe://example.org/web'],
      ['spiffe://example.org', 'spiffe://example.org'],
    ]) {
      await expect(mint(uris)).rejects.toMatchObject({ code: 'invalid-argument' });
    }
    expect((await mint(['spiffe://example.org'])).chain[0]?.uris).toEqual([authorityDomain.id]);
  });

  it('has no part in the rotation of signing certificates but to sign them', async () => {
    const server = await start();
    const [, first, root] = await server.issue();
    await server.live(21 * hourMs);
    const [, second, sameRoot] = await server.issue();
    expect(second?.fingerprint).not.toBe(first?.fingerprint);
    expect(sameRoot?.fingerprint).toBe(root?.fingerprint);
    expect(server.served).toEqual([root?.subjectKeyId]);
  });

  it('lets a restarted server sign at once, although its signing key was in memory', async () => {
    const before = await start();
    const [, , root] = await before.issue();
    const after = await before.restart({ keyManager: new MemoryKeyManager() });
    await after.step();
    expect((await after.issue())[2]?.fingerprint).toBe(root?.fingerprint);
  });

  it('goes on without its key: what it has signed signs, and no successor is made until it is back', async () => {
    let isAway = false;
    const disk = await DiskKeyManager.open({ dataDir: tempDir() });
    const rootKeys = new Proxy(disk, {
      get: (target, name) => {
        if (isAway) throw new Error('the HSM is away');
        const value = Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const server = await start({ rootKeys });
    isAway = true;
    await server.clock.advance(13 * hourMs);
    await expect(server.step()).rejects.toThrow('the HSM is away');
    expect(await server.issue()).toHaveLength(3);
    isAway = false;
    await server.step();
    expect((await server.journal()).map((line) => line.split(' ', 2).join(' '))).toEqual([
      'root active',
      'signing active',
      'signing prepared',
    ]);
  });

  it('is replaced in time, published long before anything stands below it', async () => {
    const server = await start({ rootTtl: '10d' });
    const [, , first] = await server.issue();
    const firstLeaf = new Map<string, number>();
    const published = new Map<string, number>();
    for (let hours = 0; hours < 24 * 12; hours += 1) {
      await server.live(hourMs, hourMs);
      for (const root of server.served) if (!published.has(root)) published.set(root, server.clock.now());
      const path = await server.issue();
      // Nothing is cut.
      expect(path[0]?.notAfterMs).toBe(server.clock.now() + hourMs);
      expect(path[1]!.notAfterMs).toBeLessThanOrEqual(path[2]!.notAfterMs);
      const root = path[2]!.subjectKeyId!;
      if (!firstLeaf.has(root)) firstLeaf.set(root, server.clock.now());
    }
    const [second] = [...firstLeaf.keys()].filter((root) => root !== first?.subjectKeyId);
    expect(firstLeaf.get(second!)! - published.get(second!)!).toBeGreaterThan(2 * dayMs);
    // A day after its end it is gone, and two roots have been enough.
    expect(server.served).not.toContain(first?.subjectKeyId);
    expect(published.size).toBeLessThanOrEqual(3);
  });
});

describe('a new root by hand', () => {
  it('signs once an administrator says so; then the old one can be tainted and revoked', async () => {
    const server = await start();
    const { administration } = server.rooms;
    const [, oldCa, oldRoot] = await server.issue();
    const prepared = await administration.prepare({ newRoot: true, signal: noAbort });
    expect(server.served).toEqual([oldRoot?.subjectKeyId, prepared.upstreamKeyId]);
    expect((await server.issue())[2]?.fingerprint).toBe(oldRoot?.fingerprint);
    await administration.activate(prepared.id);
    const path = await server.issue();
    expect(path[2]?.subjectKeyId).toBe(prepared.upstreamKeyId);
    expect(verdictOf(path, server.clock.now())).toBe('OK');
    expect(await server.journal()).toEqual([
      `root active ${prepared.upstreamKeyId}`,
      `root old ${oldRoot?.subjectKeyId}`,
      `signing active ${prepared.id}`,
      `signing old ${oldCa?.subjectKeyId}`,
    ]);
    const oldId = oldRoot!.subjectKeyId!;
    await administration.taintUpstream(oldId.toUpperCase());
    expect(server.tainted).toEqual([oldId]);
    await administration.revokeUpstream(oldId, { force: false });
    expect(server.served).toEqual([prepared.upstreamKeyId]);
    await server.step();
    await server.step();
    expect(server.served).toEqual([prepared.upstreamKeyId]);
    expect((await server.restart({ keyManager: new MemoryKeyManager() })).served).toEqual([
      prepared.upstreamKeyId,
    ]);
  });

  it('is made once, however often it is asked for before it signs', async () => {
    const server = await start();
    const { administration } = server.rooms;
    const first = await administration.prepare({ newRoot: true, signal: noAbort });
    const second = await administration.prepare({ newRoot: true, signal: noAbort });
    expect(second.upstreamKeyId).toBe(first.upstreamKeyId);
    expect(server.served).toHaveLength(2);
  });
});

describe('a change of the topology', () => {
  it('takes effect with the next authority; roots of the one before can be taken away', async () => {
    const dataDir = tempDir();
    const clock = new FakeClock();
    const before = await AuthorityProcess.ready({ dataDir, clock });
    const first = before.signing!.subjectKeyId!;
    await before.issue();
    const { settings, upstream } = await options();
    const below = await before.restart({ settings: settings!, upstream: upstream! });
    await below.step();
    expect((await below.issue()).at(-1)?.subjectKeyId).toBe(first);
    await below.live(21 * hourMs);
    const path = await below.issue();
    expect(path).toHaveLength(3);
    expect(verdictOf(path, clock.now())).toBe('OK');
    const { administration } = below.rooms;
    expect(await administration.isLocal(first)).toBe(true);
    await administration.taint(first);
    await administration.revoke(first, { force: false });
    const root = path[2]!.subjectKeyId!;
    expect(below.served).toEqual([root]);
    const back = await below.restart({ settings: {}, upstream: async () => undefined as never });
    await back.step();
    expect(await back.issue()).toHaveLength(3);
    await back.live(42 * hourMs);
    expect(await back.issue()).toHaveLength(2);
    await back.rooms.administration.taintUpstream(root);
    await back.rooms.administration.revokeUpstream(root, { force: false });
    expect(back.served).not.toContain(root);
  });
});
