import { renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AuthorityStore, BundleStore } from '../../plugin-api/data-store.ts';
import type { KeyManager } from '../../plugin-api/key-manager.ts';
import { DiskKeyManager } from '../../plugins/key-manager/disk.ts';
import { MemoryKeyManager } from '../../plugins/key-manager/memory.ts';
import { silentLogger } from '../../runtime/log.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../../spiffe/x509-svid.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { Certificate } from '../../x509/certificate.ts';
import { BundleKeeper } from '../bundles/bundle-keeper.ts';
import { usualTimes } from '../rotation-times.ts';
import { Authority } from './authority.ts';
import { SelfCertifier } from './certifier.ts';
import { KeySlots } from './key-slots.ts';
import { AuthorityRotation } from './rotation.ts';

const trustDomain = TrustDomain.parse('example.org');
const agentId = SpiffeId.of(trustDomain, '/spire/agent/test');
const workloadKey = await newSigner();
const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;
const subject = { commonName: 'example.org', organization: ['Signet'], country: [] };

/** Puts something between rotation and one of its real parts. */
interface Wrap {
  readonly journal?: (journal: AuthorityStore) => AuthorityStore;
  readonly bundles?: (bundles: BundleStore) => BundleStore;
  readonly keyManager?: (keys: KeyManager) => KeyManager;
}

/** One process of a server on the files in `dataDir`, as far as rotation goes. */
class ServerProcess {
  static async start(files: { dataDir: string; clock: FakeClock }, wrap: Wrap = {}, keys?: KeyManager) {
    const { dataDir, clock } = files;
    const store = await openTestStore({ dataDir, clock });
    const bundleStore = wrap.bundles?.(store.bundles) ?? store.bundles;
    const bundles = await BundleKeeper.load({ trustDomain, store: bundleStore, log: silentLogger });
    const authority = new Authority({ trustDomain, clock, log: silentLogger });
    const disk = keys ?? (await DiskKeyManager.open({ dataDir }));
    const keyManager = wrap.keyManager?.(disk) ?? disk;
    const journal = wrap.journal?.(store.authorities) ?? store.authorities;
    const onStep = () => undefined;
    const keySlots = new KeySlots('signing', { keyManager, journal: store.keys, clock, onStep });
    const certifier = new SelfCertifier(clock, {
      trustDomain,
      subject,
      ttlMs: dayMs,
      pathLength: 0,
      nameConstraints: false,
    });
    const rotation = new AuthorityRotation(
      {
        trustDomain,
        journal,
        keys: keySlots,
        bundles,
        certifier,
        target: authority,
        onStep,
        clock,
        log: silentLogger,
      },
      { role: 'signing', keyType: 'ec-p256', ttlMs: dayMs, times: usualTimes },
    );
    return new ServerProcess({ files, store, bundles, authority, rotation, keyManager: disk });
  }

  readonly parts;

  private constructor(parts: {
    files: { dataDir: string; clock: FakeClock };
    store: Awaited<ReturnType<typeof openTestStore>>;
    bundles: BundleKeeper;
    authority: Authority;
    rotation: AuthorityRotation;
    keyManager: KeyManager;
  }) {
    this.parts = parts;
  }

  step(): Promise<void> {
    return this.parts.rotation.step(new AbortController().signal);
  }

  /** Lets time pass as it does for a running server: with a step now and then. */
  async live(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 30 * minuteMs) {
      await this.parts.files.clock.advance(Math.min(left, 30 * minuteMs));
      await this.step();
    }
  }

  /** Ends this process and starts another on its files. */
  async restart(wrap: Wrap = {}, keys?: KeyManager): Promise<ServerProcess> {
    await this.parts.store.close();
    return ServerProcess.start(this.parts.files, wrap, keys);
  }

  /** The root that signs, by fingerprint. */
  get signing(): string | undefined {
    return this.parts.authority.active.value?.certificate.fingerprint;
  }

  /** The roots that agents are given now, by fingerprint. */
  get served(): readonly string[] {
    return this.parts.bundles.own.value.certificates().map((certificate) => certificate.fingerprint);
  }

  async stored(): Promise<readonly string[]> {
    const bundle = await this.parts.store.bundles.find(trustDomain);
    return (bundle?.certificates() ?? []).map((certificate) => certificate.fingerprint);
  }

  /** The journal: state and root of each record, oldest first. */
  async journal(): Promise<readonly (readonly [string, string])[]> {
    const records = await this.parts.store.authorities.list();
    return records.map(({ state, certificate }) => [state, certificate.fingerprint]);
  }

  /** Signs a leaf and checks it as an agent with the served bundle would; the fingerprint of its root. */
  async issue(): Promise<string> {
    const { authority, bundles, files } = this.parts;
    const id = SpiffeId.of(trustDomain, '/web');
    const request = { id, spki: workloadKey.publicKey, dnsNames: [], ttlMs: hourMs };
    const chain = (await authority.signX509Svid(request)).chain.map((der) => Certificate.parse(der));
    verifyX509Svid({ chain, bundles: () => bundles.own.value, nowMs: files.clock.now() });
    return this.signing!;
  }

  /** As an agent does in each round: it fetches the bundle, then it calls for something else. */
  agentCalls(bundleSequence?: bigint): void {
    const { bundles, files } = this.parts;
    bundles.noteAgent(agentId, files.clock.now(), bundleSequence);
    bundles.noteAgent(agentId, files.clock.now());
  }
}

/** A crash in the nth call from now of journal, bundle store or key manager: before it does its work, or after. */
class Faults {
  #left = Number.POSITIVE_INFINITY;
  #when: 'before' | 'after' = 'before';
  #method: string | undefined;

  arm(fault: { call: number; when: 'before' | 'after' }): void {
    this.#left = fault.call;
    this.#when = fault.when;
  }

  /** The next call of this method crashes. */
  armMethod(name: string, when: 'before' | 'after'): void {
    this.#method = name;
    this.#when = when;
  }

  disarm(): void {
    this.#left = Number.POSITIVE_INFINITY;
  }

  readonly in = <T extends object>(part: T): T =>
    new Proxy(part, {
      get: (_, name) => {
        const method = Reflect.get(part, name);
        if (typeof method !== 'function') return method;
        return async (...args: unknown[]) => {
          this.#left -= 1;
          const isHit = this.#left === 0 || this.#method === name;
          if (isHit) this.#method = undefined;
          if (isHit && this.#when === 'before') throw new Error(`crash before ${String(name)}`);
          const result = await method.apply(part, args);
          if (isHit) throw new Error(`crash after ${String(name)}`);
          return result;
        };
      },
    });
}

async function startServer(): Promise<ServerProcess> {
  const server = await ServerProcess.start({ dataDir: tempDir(), clock: new FakeClock() });
  await server.step();
  return server;
}

const keyFile = (server: ServerProcess, slot: 'a' | 'b') =>
  join(server.parts.files.dataDir, 'keys', `x509-ca-${slot}.pem`);

describe('a new server', () => {
  it('makes a root, puts it into the bundle, and signs with it', async () => {
    const server = await startServer();
    expect(await server.issue()).toBe(server.signing);
    expect(await server.stored()).toEqual([server.signing]);
    expect(await server.journal()).toEqual([['active', server.signing]]);
  });

  it('has nothing to do until half of the life of its root is over', async () => {
    const server = await startServer();
    const before = [await server.journal(), server.parts.bundles.own.version];
    await server.live(11 * hourMs);
    expect([await server.journal(), server.parts.bundles.own.version]).toEqual(before);
  });
});

describe('a restarted server', () => {
  it('goes on with the root it had', async () => {
    const before = await startServer();
    const after = await before.restart();
    await after.step();
    expect(await after.issue()).toBe(before.signing);
    expect(await after.stored()).toEqual([before.signing]);
  });

  it('finds the key by its public key, whatever its name, and does not overwrite it', async () => {
    const before = await startServer();
    renameSync(keyFile(before, 'a'), keyFile(before, 'b'));
    const after = await before.restart();
    await after.step();
    expect(await after.issue()).toBe(before.signing);
    await after.live(13 * hourMs);
    expect(await after.journal()).toMatchObject([
      ['active', before.signing],
      ['prepared', expect.any(String)],
    ]);
    const again = await after.restart();
    await again.step();
    expect(await again.issue()).toBe(before.signing);
  });

  it.each([
    { name: 'a successor is due', hours: 12 },
    { name: 'a successor should have taken over', hours: 21 },
    { name: 'a successor must take over', hours: 23.9 },
  ])('signs from its first step on although $name', async ({ hours }) => {
    const before = await startServer();
    await before.parts.files.clock.advance(hours * hourMs);
    const after = await before.restart();
    await after.step();
    expect(await after.issue()).toBe(before.signing);
    expect((await after.journal()).map(([state]) => state)).toEqual(['active', 'prepared']);
  });

  it('begins anew when it comes back after its root has expired', async () => {
    const before = await startServer();
    await before.parts.files.clock.advance(dayMs + 1);
    const after = await before.restart();
    await after.step();
    expect(await after.issue()).not.toBe(before.signing);
    expect(await after.stored()).toEqual([before.signing, after.signing]);
    const { clock } = after.parts.files;
    // A day after its end, and a step of the rotation each: the new one has a successor by then.
    for (let hours = 0; hours < 25; hours += 1) {
      await clock.advance(hourMs);
      await after.step();
    }
    expect(await after.stored()).not.toContain(before.signing);
  });

  it('does not take no agents for all agents: it waits until those that are connected had time to call', async () => {
    const before = await startServer();
    await before.live(20 * hourMs - 10_000);
    const after = await before.restart();
    await after.parts.files.clock.advance(10_000);
    await after.step();
    const newRoot = after.served.at(-1);
    expect(await after.issue()).toBe(before.signing);
    await after.parts.files.clock.advance(50_000);
    after.agentCalls();
    await after.parts.files.clock.advance(10_000);
    await after.step();
    expect(await after.issue()).toBe(before.signing);
    after.agentCalls(after.parts.bundles.own.value.sequence);
    await after.step();
    expect(await after.issue()).toBe(newRoot);
  });
});

describe('a clock that ran ahead and is set right', () => {
  it('brings the root before back: no peer would accept what one from the future signs', async () => {
    const server = await startServer();
    const first = server.signing!;
    const { clock } = server.parts.files;
    clock.stepWallClock(22.5 * hourMs);
    await server.step();
    await server.step();
    expect(await server.issue()).not.toBe(first);
    clock.stepWallClock(-22.5 * hourMs);
    await server.step();
    expect(await server.issue()).toBe(first);
  });
});

describe('a successor', () => {
  async function serverWithSuccessor() {
    const server = await startServer();
    const old = server.signing!;
    await server.live(12 * hourMs);
    return { server, old, next: server.served.at(-1)! };
  }

  it('is in journal and bundle before a leaf of it exists', async () => {
    const { server, old, next } = await serverWithSuccessor();
    expect(await server.journal()).toEqual([
      ['active', old],
      ['prepared', next],
    ]);
    expect(await server.stored()).toEqual([old, next]);
    expect(await server.issue()).toBe(old);
  });

  it('is made once', async () => {
    const { server } = await serverWithSuccessor();
    const before = await server.journal();
    await server.live(7 * hourMs);
    expect(await server.journal()).toEqual(before);
  });

  it('survives a restart', async () => {
    const { server, old, next } = await serverWithSuccessor();
    const after = await server.restart();
    await after.step();
    expect(await after.journal()).toEqual([
      ['active', old],
      ['prepared', next],
    ]);
    await after.live(8 * hourMs);
    expect(await after.issue()).toBe(next);
  });

  it('takes over when a sixth is left and all connected agents hold it; the old root stays in the bundle', async () => {
    const { server, old, next } = await serverWithSuccessor();
    await server.live(7.5 * hourMs);
    server.agentCalls(server.parts.bundles.own.value.sequence);
    expect(await server.issue()).toBe(old);
    await server.live(0.5 * hourMs);
    expect(await server.issue()).toBe(next);
    expect(await server.journal()).toEqual([
      ['old', old],
      ['active', next],
    ]);
    expect(server.served).toEqual([old, next]);
  });

  it('waits for a connected agent that does not hold it yet', async () => {
    const { server, old, next } = await serverWithSuccessor();
    await server.live(8 * hourMs - 10 * minuteMs);
    const { clock } = server.parts.files;
    const { sequence } = server.parts.bundles.own.value;
    for (let minutes = 0; minutes < 30; minutes += 1) {
      await clock.advance(minuteMs);
      server.agentCalls(sequence - 1n);
      await server.step();
    }
    expect(await server.issue()).toBe(old);
    server.agentCalls(sequence);
    await server.step();
    expect(await server.issue()).toBe(next);
  });

  it('does not wait for an agent that has gone away', async () => {
    const { server, next } = await serverWithSuccessor();
    server.agentCalls(0n);
    await server.live(8 * hourMs);
    expect(await server.issue()).toBe(next);
  });

  it('takes over by force when a twelfth is left, whoever is behind', async () => {
    const { server, old, next } = await serverWithSuccessor();
    const { clock } = server.parts.files;
    for (let passed = 12 * hourMs; passed < 22 * hourMs; passed += 30 * minuteMs) {
      expect(await server.issue()).toBe(old);
      await clock.advance(30 * minuteMs);
      server.agentCalls(0n);
      await server.step();
    }
    expect(await server.issue()).toBe(next);
  });

  it('does not sign before the journal says so', async () => {
    const { server, old, next } = await serverWithSuccessor();
    const faults = new Faults();
    const after = await server.restart({ journal: faults.in });
    await after.live(8 * hourMs - 10 * minuteMs);
    await after.parts.files.clock.advance(10 * minuteMs);
    faults.armMethod('activate', 'before');
    await expect(after.step()).rejects.toThrow('crash before activate');
    expect(await after.issue()).toBe(old);
    await after.step();
    expect(await after.issue()).toBe(next);
  });

  it('is given to agents although the answer of the journal that stored it was lost', async () => {
    const faults = new Faults();
    const before = await startServer();
    const server = await before.restart({ journal: faults.in });
    await server.live(12 * hourMs - minuteMs);
    await server.parts.files.clock.advance(minuteMs);
    faults.armMethod('prepare', 'after');
    await expect(server.step()).rejects.toThrow('crash after prepare');
    await server.step();
    expect(server.served).toEqual(await server.stored());
    expect(server.served).toHaveLength(2);
  });
});

describe('a lost key', () => {
  it('of a successor makes room for another successor', async () => {
    const before = await startServer();
    await before.live(12 * hourMs);
    rmSync(keyFile(before, 'b'));
    const after = await before.restart();
    await after.step();
    const [active, prepared, ...others] = await after.journal();
    expect(active).toEqual(['active', before.signing]);
    expect(prepared?.[0]).toBe('prepared');
    expect(before.served).not.toContain(prepared?.[1]);
    expect(others).toEqual([]);
    await after.live(8 * hourMs);
    expect(await after.issue()).toBe(prepared?.[1]);
  });

  it('of the active authority lets the successor take over at once', async () => {
    const before = await startServer();
    await before.live(12 * hourMs);
    rmSync(keyFile(before, 'a'));
    const after = await before.restart();
    await after.step();
    expect(await after.issue()).toBe(before.served.at(-1));
  });

  it('of the only authority, as a memory key manager loses it, makes a new root beside the old one', async () => {
    const files = { dataDir: tempDir(), clock: new FakeClock() };
    const before = await ServerProcess.start(files, {}, new MemoryKeyManager());
    await before.step();
    const after = await before.restart({}, new MemoryKeyManager());
    await after.step();
    expect(await after.issue()).not.toBe(before.signing);
    expect(after.served).toEqual([before.signing, after.signing]);
  });
});

describe('the bundle over four days', () => {
  it('holds each root from before its first leaf until a day after it has expired, and not longer', async () => {
    const server = await startServer();
    const { clock } = server.parts.files;
    const firstLeaf = new Map<string, number>();
    const ends = new Map<string, number>();
    for (let hour = 0; hour < 96; hour += 1) {
      await server.live(hourMs);
      const certificates = server.parts.bundles.own.value.certificates();
      for (const { fingerprint, notAfterMs } of certificates) ends.set(fingerprint, notAfterMs);
      const isAlive = (fingerprint: string) => ends.get(fingerprint)! + dayMs >= clock.now();
      expect(server.served).toEqual([...ends.keys()].filter(isAlive));
      expect(await server.stored()).toEqual(server.served);
      const root = await server.issue();
      if (!firstLeaf.has(root)) firstLeaf.set(root, clock.now());
    }
    expect(firstLeaf.size).toBeGreaterThanOrEqual(5);
    expect((await server.journal()).length).toBeLessThanOrEqual(5);
  });
});

describe('the service', () => {
  it('is ready when it can sign, steps at each tick, and ends when it is told to', async () => {
    const server = await ServerProcess.start({ dataDir: tempDir(), clock: new FakeClock() });
    const { rotation, files } = server.parts;
    const stop = new AbortController();
    const ready = Promise.withResolvers<void>();
    const running = rotation.run(stop.signal, ready.resolve);
    await ready.promise;
    await server.issue();
    await files.clock.untilSleepers(1);
    files.clock.stepWallClock(12 * hourMs);
    await files.clock.advance(10_000);
    await files.clock.untilSleepers(1);
    expect(server.served).toHaveLength(2);
    stop.abort();
    await running;
  });

  it('remembers why a step failed until one succeeds, and goes on signing meanwhile', async () => {
    let isDown = false;
    const listKeys = (keys: KeyManager): KeyManager => ({
      generateKey: (id, type) => keys.generateKey(id, type),
      findKey: (id) => keys.findKey(id),
      deleteKey: (id) => keys.deleteKey(id),
      listKeys: async () => {
        if (isDown) throw new Error('the HSM is away');
        return keys.listKeys();
      },
    });
    const files = { dataDir: tempDir(), clock: new FakeClock() };
    const server = await ServerProcess.start(files, { keyManager: listKeys });
    const stop = new AbortController();
    const running = server.parts.rotation.run(stop.signal, () => undefined);
    await files.clock.untilSleepers(1);
    for (const [down, failure] of [
      [true, 'the HSM is away'],
      [false, undefined],
    ] as const) {
      isDown = down;
      await files.clock.advance(10_000);
      await files.clock.untilSleepers(1);
      expect(server.parts.rotation.lastFailure).toBe(failure);
      await server.issue();
    }
    stop.abort();
    await running;
  });
});

describe('a crash between two steps', () => {
  const anyFault = fc.record({
    call: fc.integer({ min: 1, max: 12 }),
    when: fc.constantFrom('before' as const, 'after' as const),
    thenRestart: fc.boolean(),
  });
  const anyTick = fc.record({
    gapMs: fc.integer({ min: minuteMs, max: 4 * hourMs }),
    fault: fc.option(anyFault, { freq: 2 }),
    agentSequence: fc.constantFrom(undefined, 0, 1000),
  });

  it('never makes a server sign with a root that is not in its bundle, or leaves it unable to sign', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyTick, { minLength: 5, maxLength: 25 }), async (ticks) => {
        const faults = new Faults();
        const wrap: Wrap = { journal: faults.in, bundles: faults.in, keyManager: faults.in };
        let server = await ServerProcess.start({ dataDir: tempDir(), clock: new FakeClock() }, wrap);
        const expectSound = async () => {
          if (server.signing === undefined) return;
          expect(server.served).toContain(server.signing);
          expect(await server.stored()).toContain(server.signing);
        };
        for (const { gapMs, fault, agentSequence } of ticks) {
          await server.parts.files.clock.advance(gapMs);
          if (agentSequence !== undefined) server.agentCalls(BigInt(agentSequence));
          if (fault !== null) faults.arm(fault);
          const hasCrashed = await server.step().then(
            () => false,
            () => true,
          );
          faults.disarm();
          await expectSound();
          if (!hasCrashed) await server.issue();
          if (fault?.thenRestart) server = await server.restart(wrap);
        }
        await server.step();
        await server.issue();
        await expectSound();
        await server.parts.store.close();
      }),
      { numRuns: 15 },
    );
  });
});
