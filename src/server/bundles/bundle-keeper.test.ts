import { beforeAll, describe, expect, it } from 'vitest';
import type { DataStore } from '../../plugin-api/data-store.ts';
import { silentLogger } from '../../runtime/log.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import type { JwtAuthority } from '../../spiffe/jwt-authority.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { TestIdentity, testStartMs } from '../../testing/certificates.ts';
import { jwtKey } from '../../testing/jwt-keys.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { BundleKeeper } from './bundle-keeper.ts';

const trustDomain = TrustDomain.parse('example.org');
const agent = (name: string) => SpiffeId.of(trustDomain, `/spire/agent/${name}`);
const hourMs = 3_600_000;
const now = testStartMs;

let short: TestIdentity;
let long: TestIdentity;
beforeAll(async () => {
  short = await TestIdentity.root('example.org', { notAfterMs: now + hourMs });
  long = await TestIdentity.root('example.org', { notAfterMs: now + 24 * hourMs });
});

function bundleOf(sequence: number, ...roots: readonly TestIdentity[]): Bundle {
  const x509Authorities = roots.map(({ certificate }) => ({ certificate, tainted: false }));
  return new Bundle({ trustDomain, x509Authorities, sequence, refreshHintSeconds: 0 });
}

/** A keeper of a bundle that is stored already. */
async function keeperOf(bundle?: Bundle): Promise<{ keeper: BundleKeeper; store: DataStore }> {
  const store = await openTestStore();
  if (bundle !== undefined) await store.bundles.update(trustDomain, () => bundle);
  const keeper = await BundleKeeper.load({ trustDomain, store: store.bundles, log: silentLogger });
  return { keeper, store };
}

const rootsOf = (bundle: Bundle | undefined) => bundle?.certificates().map((root) => root.fingerprint);
const prints = (...roots: readonly TestIdentity[]) => roots.map((root) => root.certificate.fingerprint);

describe('the bundle keeper', () => {
  it('of a new server has an empty bundle and stores nothing', async () => {
    const { keeper, store } = await keeperOf();
    expect(keeper.own.value.certificates()).toEqual([]);
    expect(keeper.own.value.sequence).toBe(0n);
    expect(await store.bundles.find(trustDomain)).toBeUndefined();
  });

  it('begins with what is stored', async () => {
    const { keeper } = await keeperOf(bundleOf(7, short, long));
    expect(rootsOf(keeper.own.value)).toEqual(prints(short, long));
    expect(keeper.own.value.sequence).toBe(7n);
  });

  it('tells its followers what it has adopted', async () => {
    const { keeper } = await keeperOf();
    const seen: bigint[] = [];
    keeper.own.subscribe(() => seen.push(keeper.own.value.sequence));
    keeper.adopt(bundleOf(1, short));
    expect(seen).toEqual([1n]);
  });

  it('keeps a root for as long again as it lived and drops it after: a clock may run ahead', async () => {
    const { keeper, store } = await keeperOf(bundleOf(3, short, long));
    const forgottenMs = 2 * short.certificate.notAfterMs - short.certificate.notBeforeMs;
    await keeper.prune(forgottenMs);
    expect(rootsOf(keeper.own.value)).toEqual(prints(short, long));
    await keeper.prune(forgottenMs + 1);
    expect(rootsOf(keeper.own.value)).toEqual(prints(long));
    expect(rootsOf(await store.bundles.find(trustDomain))).toEqual(prints(long));
    expect(keeper.own.value.sequence).toBe(4n);
  });

  it('wakes nobody when there is nothing to drop', async () => {
    const { keeper } = await keeperOf(bundleOf(3, short, long));
    await keeper.prune(now);
    expect(keeper.own.version).toBe(0);
    expect(keeper.own.value.sequence).toBe(3n);
  });

  it('drops nothing from the store but what has expired, even if the store knows more', async () => {
    const { keeper, store } = await keeperOf(bundleOf(3, short));
    await store.bundles.update(trustDomain, () => bundleOf(4, short, long));
    await keeper.prune(now + 3 * hourMs);
    expect(rootsOf(await store.bundles.find(trustDomain))).toEqual(prints(long));
    expect(rootsOf(keeper.own.value)).toEqual(prints(long));
  });

  it('puts a missing root into memory and store, and only a missing one', async () => {
    const { keeper, store } = await keeperOf(bundleOf(3, short));
    await keeper.ensure(long.certificate);
    expect(rootsOf(keeper.own.value)).toEqual(prints(short, long));
    expect(rootsOf(await store.bundles.find(trustDomain))).toEqual(prints(short, long));
    await keeper.ensure(long.certificate);
    expect([keeper.own.version, keeper.own.value.sequence]).toEqual([1, 4n]);
  });

  it('catches up with the store when only memory lacks a root', async () => {
    const { keeper, store } = await keeperOf(bundleOf(3, short));
    await store.bundles.update(trustDomain, () => bundleOf(9, short, long));
    await keeper.ensure(long.certificate);
    expect(keeper.own.value.sequence).toBe(9n);
  });
});

describe('the own bundle, when authorities are appended', () => {
  const append = (keeper: BundleKeeper, ...jwt: readonly JwtAuthority[]) => keeper.append({ x509: [], jwt });

  it('has them in memory and store, also when several come at the same time', async () => {
    const { keeper, store } = await keeperOf(bundleOf(3, short));
    const keys = ['a', 'b', 'c'].map((keyId) => jwtKey(keyId));
    await Promise.all([...keys.map((key) => append(keeper, key)), keeper.ensure(long.certificate)]);
    for (const bundle of [keeper.own.value, await store.bundles.find(trustDomain)]) {
      expect(bundle?.jwtAuthorities.map(({ keyId }) => keyId).sort()).toEqual(['a', 'b', 'c']);
      expect(rootsOf(bundle)).toEqual(prints(short, long));
      expect(bundle?.sequence).toBe(7n);
    }
  });

  it('is not replaced by one that was stored before it', async () => {
    const { keeper } = await keeperOf(bundleOf(3, short));
    keeper.adopt(bundleOf(5, short, long));
    keeper.adopt(bundleOf(4, short));
    expect(rootsOf(keeper.own.value)).toEqual(prints(short, long));
  });

  it('loses a key a day after it has expired, and never one that does not say when', async () => {
    const { keeper } = await keeperOf(bundleOf(3, long));
    const expiresAt = now / 1000;
    await append(keeper, { ...jwtKey('ends'), expiresAt }, jwtKey('lasts'));
    const keyIds = () => keeper.own.value.jwtAuthorities.map(({ keyId }) => keyId);
    await keeper.prune(now + 24 * hourMs);
    expect(keyIds()).toEqual(['ends', 'lasts']);
    await keeper.prune(now + 24 * hourMs + 1);
    expect(keyIds()).toEqual(['lasts']);
  });
});

describe('an agent', () => {
  interface Call {
    readonly agent: string;
    readonly atMs?: number;
    readonly sequence?: bigint;
  }
  it.each<{ name: string; calls: readonly Call[]; behind: number }>([
    { name: 'that never called does not count', calls: [], behind: 0 },
    { name: 'that called without fetching the bundle is behind', calls: [{ agent: 'a' }], behind: 1 },
    { name: 'that fetched the bundle before is behind', calls: [{ agent: 'a', sequence: 4n }], behind: 1 },
    {
      name: 'that was given the current bundle is behind until it calls again: the answer may have been lost',
      calls: [{ agent: 'a', sequence: 5n }],
      behind: 1,
    },
    {
      name: 'that was given it twice is not behind',
      calls: [
        { agent: 'a', sequence: 5n },
        { agent: 'a', sequence: 5n },
      ],
      behind: 0,
    },
    {
      name: 'that fetched it and then called for something else is not behind',
      calls: [{ agent: 'a', sequence: 5n }, { agent: 'a' }],
      behind: 0,
    },
    {
      name: 'counts once and for itself',
      calls: [
        { agent: 'a' },
        { agent: 'a' },
        { agent: 'b', sequence: 5n },
        { agent: 'b' },
        { agent: 'c', sequence: 1n },
      ],
      behind: 2,
    },
    { name: 'that called a minute ago still counts', calls: [{ agent: 'a', atMs: now - 60_000 }], behind: 1 },
    {
      name: 'that has been silent for longer does not',
      calls: [{ agent: 'a', atMs: now - 60_001 }],
      behind: 0,
    },
  ])('$name', async ({ calls, behind }) => {
    const { keeper } = await keeperOf(bundleOf(5, short));
    for (const { agent: name, atMs = now, sequence } of calls) keeper.noteAgent(agent(name), atMs, sequence);
    expect(keeper.agentsBehind(now)).toBe(behind);
  });

  it('is behind again as soon as the bundle changes', async () => {
    const { keeper } = await keeperOf(bundleOf(5, short));
    keeper.noteAgent(agent('a'), now, 5n);
    keeper.noteAgent(agent('a'), now);
    keeper.adopt(bundleOf(6, short, long));
    expect(keeper.agentsBehind(now)).toBe(1);
  });

  it('that comes back after a silence must fetch the bundle again', async () => {
    const { keeper } = await keeperOf(bundleOf(5, short));
    keeper.noteAgent(agent('a'), now, 5n);
    expect(keeper.agentsBehind(now + 60_001)).toBe(0);
    keeper.noteAgent(agent('a'), now + 60_002);
    expect(keeper.agentsBehind(now + 60_002)).toBe(1);
  });
});
