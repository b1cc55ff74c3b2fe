import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskKeyManager } from '../../plugins/key-manager/disk.ts';
import { AuthorityProcess, type AuthorityProcessOptions } from '../../testing/authority-process.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { findLocalRoot } from '../config.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const signal = new AbortController().signal;

/** A crash in the nth call from now of a store or a key manager: before it does its work, or after. */
class Crashes {
  #left = Number.POSITIVE_INFINITY;
  #when: 'before' | 'after' = 'before';

  arm(crash: { call: number; when: 'before' | 'after' } | null): void {
    this.#left = crash?.call ?? Number.POSITIVE_INFINITY;
    this.#when = crash?.when ?? 'before';
  }

  readonly in = <T extends object>(part: T): T =>
    new Proxy(part, {
      get: (_, name) => {
        const method = Reflect.get(part, name);
        if (typeof method !== 'function') return method;
        return async (...args: unknown[]) => {
          this.#left -= 1;
          if (this.#left === 0 && this.#when === 'before') throw new Error(`crash before ${String(name)}`);
          const isHit = this.#left === 0;
          const result = await method.apply(part, args);
          if (isHit) throw new Error(`crash after ${String(name)}`);
          return result;
        };
      },
    });
}

const byHand = ['prepare', 'prepare-root', 'activate', 'taint', 'revoke'] as const;

const anyEvent = fc.record({
  gapMs: fc.integer({ min: minuteMs, max: 5 * hourMs }),
  clockStepMs: fc.option(fc.integer({ min: -hourMs, max: hourMs }), { freq: 4 }),
  crash: fc.option(
    fc.record({
      call: fc.integer({ min: 1, max: 14 }),
      when: fc.constantFrom('before' as const, 'after' as const),
    }),
    { freq: 2 },
  ),
  act: fc.option(fc.constantFrom(...byHand), { freq: 2 }),
  isBehind: fc.boolean(),
  thenRestart: fc.boolean(),
});

/** Does by hand what the event says, where the state allows it. */
async function act(server: AuthorityProcess, what: (typeof byHand)[number]): Promise<void> {
  const { administration, root } = server.rooms;
  const records = await server.store.authorities.list();
  const signing = records.filter(({ role }) => role === 'signing');
  switch (what) {
    case 'prepare':
    case 'prepare-root':
      await administration.prepare({ newRoot: what === 'prepare-root' && root !== undefined, signal });
      return;
    case 'activate':
      await administration.activate(signing.find(({ state }) => state === 'prepared')?.id ?? '');
      return;
    case 'taint':
    case 'revoke': {
      const old = signing.find(({ state }) => state === 'old');
      const force = { force: false };
      if (what === 'taint' && root === undefined) await administration.taint(old?.id ?? '');
      else if (what === 'taint') await administration.taintUpstream(old?.upstreamKeyId ?? '');
      else if (root === undefined) await administration.revoke(old?.id ?? '', force);
      else await administration.revokeUpstream(old?.upstreamKeyId ?? '', force);
    }
  }
}

/** What peers must be able to verify: for each leaf its root and its end. */
class Leaves {
  readonly #ends = new Map<string, number>();

  async issueBy(server: AuthorityProcess): Promise<void> {
    const path = await server.issue();
    const root = path.at(-1)!.subjectKeyId!;
    this.#ends.set(root, Math.max(this.#ends.get(root) ?? 0, path[0]!.notAfterMs));
  }

  /** A root stays until the last leaf below it has expired. */
  check(server: AuthorityProcess): void {
    for (const [root, endMs] of this.#ends) {
      if (endMs > server.clock.now()) expect(server.served).toContain(root);
    }
  }
}

/** Nothing signs that is not published, in memory and in the store. */
async function expectSound(server: AuthorityProcess): Promise<void> {
  const stored = await server.store.bundles.find(server.bundles.own.value.trustDomain);
  const active = server.rooms.authority.active.value;
  if (active === undefined) return;
  const root = active.chain.at(-1)?.authorityKeyId ?? active.certificate.subjectKeyId;
  expect(server.served).toContain(root);
  expect(stored?.certificates().map(({ subjectKeyId }) => subjectKeyId)).toContain(root);
}

/** Two slots of each role, and nothing in them that the journal does not know. */
async function expectNoOrphans(server: AuthorityProcess): Promise<void> {
  const records = await server.store.authorities.list();
  for (const slots of server.rooms.keys) expect(await slots.strays(records)).toEqual([]);
  expect((await server.keyManager.listKeys()).length).toBeLessThanOrEqual(2);
  expect(await server.store.keys.retired()).toEqual([]);
}

type Topology = 'self-signed' | 'local_root';

async function optionsOf(topology: Topology, crashes: Crashes): Promise<AuthorityProcessOptions> {
  const dataDir = tempDir();
  const common = { dataDir, clock: new FakeClock(), wrap: crashes.in };
  if (topology === 'self-signed') return common;
  const keyManager = crashes.in(await DiskKeyManager.open({ dataDir: tempDir() }));
  return {
    ...common,
    settings: { upstreamAuthority: { local_root: { keyManager: { disk: {} }, rootTtl: '8d' } } },
    upstream: (config) => ({ kind: 'local-root', config: findLocalRoot(config, 'test')!, keyManager }),
  };
}

describe.each<{ topology: Topology }>([{ topology: 'self-signed' }, { topology: 'local_root' }])(
  'an authority that is $topology',
  ({ topology }) => {
    it('never signs below a root that is not published, keeps roots as long as leaves, and loses no key, whatever crashes and wherever its clock is', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(anyEvent, { minLength: 5, maxLength: 20 }), async (events) => {
          const crashes = new Crashes();
          const leaves = new Leaves();
          let server = await AuthorityProcess.start(await optionsOf(topology, crashes));
          for (const { gapMs, clockStepMs, crash, act: hand, isBehind, thenRestart } of events) {
            await server.clock.advance(gapMs);
            server.clock.stepWallClock(clockStepMs ?? 0);
            server.agentCalls(isBehind ? 0n : undefined);
            crashes.arm(crash);
            if (hand !== null) await act(server, hand).catch(() => undefined);
            await expectSound(server);
            const hasCrashed = await server.step().then(
              () => false,
              () => true,
            );
            crashes.arm(null);
            await expectSound(server);
            if (!hasCrashed) await leaves.issueBy(server);
            leaves.check(server);
            if (thenRestart) server = await server.restart();
          }
          await server.step();
          await leaves.issueBy(server);
          leaves.check(server);
          await expectSound(server);
          await server.step();
          await expectNoOrphans(server);
          await server.store.close();
        }),
        { numRuns: 12 },
      );
    });
  },
);
