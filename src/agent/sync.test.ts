import { createPrivateKey, createPublicKey } from 'node:crypto';
import { describe, expect, it, onTestFinished } from 'vitest';
import { MemoryKeyManager } from '../plugins/key-manager/memory.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { AppError } from '../runtime/error.ts';
import { Observable } from '../runtime/observable.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger, until } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { type Chain, ScriptedServer } from '../testing/scripted-server.ts';
import { TcpGate } from '../testing/tcp-gate.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import type { CertificateRequest } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../x509/signature.ts';
import { AgentIdentity, type AgentIdentityState } from './agent-identity.ts';
import { Bootstrap } from './bootstrap.ts';
import { ServerConnection } from './server-connection.ts';
import { SvidCache } from './svid-cache.ts';
import { Sync } from './sync.ts';

const trustDomain = TrustDomain.parse('example.org');
const hourMs = 3_600_000;
const intervalMs = 5_000;
const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
const api = testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api', createdAt: 1_700_000_001 });
const webCaller = [parseSelector('unix:uid:1000')];

/** The sync of an attested agent with its server; it runs until the test ends. */
async function start(
  options: {
    readonly entries?: readonly RegistrationEntry[];
    readonly prepare?: (server: ScriptedServer) => void;
    readonly isAttested?: boolean;
    readonly window?: readonly [number, number];
    /** Another way to the server than the straight one. */
    readonly addressOf?: (server: ScriptedServer) => Promise<string>;
  } = {},
) {
  const clock = new FakeClock(Date.now());
  const server = await ScriptedServer.start({ clock });
  server.script.entries = options.entries ?? [web];
  options.prepare?.(server);
  const address = (await options.addressOf?.(server)) ?? server.address;
  const { log, lines } = memoryLogger();
  const agent = await agentAt(server, { address, clock });
  const cache = new SvidCache({ clock, keyType: 'ec-p256' });
  const window = options.window ?? [0.5, 0.5];
  const sync = new Sync(
    { ...agent, cache, clock, log },
    { intervalMs, windows: { first: window, later: window } },
  );
  const attest = async () => agent.state.set(await ownIdentity(server));
  if (options.isAttested ?? true) await attest();
  const stopping = new AbortController();
  const running = sync.run(stopping.signal, () => undefined);
  onTestFinished(async () => {
    stopping.abort();
    await running;
  });
  return { server, clock, cache, sync, state: agent.state, identity: agent.identity, attest, lines };
}

type Running = Awaited<ReturnType<typeof start>>;

async function agentAt(server: ScriptedServer, options: { address: string; clock: FakeClock }) {
  const { address, clock } = options;
  const state = new Observable<AgentIdentityState | undefined>(undefined);
  const connection = new ServerConnection({ address, trustDomain, identity: state, clock });
  onTestFinished(() => connection.close());
  const client = () => connection.client();
  const config = { server: server.address, insecureBootstrap: true };
  const identity = new AgentIdentity({
    trustDomain,
    state,
    dataDir: tempDir(),
    attestorType: 'join_token',
    attestor: new JoinTokenAgentAttestor({}),
    keyManager: new MemoryKeyManager(),
    bootstrap: new Bootstrap(trustDomain, config, clock),
    client,
    onBanned: () => undefined,
    clock,
    log: memoryLogger().log,
  });
  return { state, client, identity };
}

async function ownIdentity(server: ScriptedServer): Promise<AgentIdentityState> {
  const nowMs = Date.now();
  const leaf = await server.root.issue('spiffe://example.org/spire/agent/a', {
    notBeforeMs: nowMs - hourMs,
    notAfterMs: nowMs + 24 * hourMs,
  });
  const svid = X509Svid.parse([leaf.certificate]);
  return { svid, privateKeyPem: leaf.privateKeyPem, bundle: server.script.bundle, reattestable: false };
}

/** A whole round that succeeded after now. */
async function nextRound({ clock, sync }: Running): Promise<void> {
  const before = sync.status.lastSyncMs ?? 0;
  await clock.advance(intervalMs);
  await until(() => (sync.status.lastSyncMs ?? 0) > before, `a round; ${sync.status.problems.sync}`);
}

const firstRound = ({ sync }: Running) =>
  until(() => sync.status.lastSyncMs !== undefined, `the first round; ${sync.status.problems.sync}`);

const printOf = ({ cache }: Running, entryId: string) => cache.findSvid(entryId)?.svid.leaf.fingerprint;

describe('a round', () => {
  it('fetches the bundle, then the entries, then the SVIDs', async () => {
    const running = await start({ entries: [web, api] });
    await firstRound(running);
    const { server, cache } = running;
    expect(server.calls).toEqual(['GetBundle', 'SyncAuthorizedEntries', 'BatchNewX509SVID', 'PostStatus']);
    expect(cache.bundle?.equals(server.script.bundle)).toBe(true);
    expect([...cache.entries.keys()].sort()).toEqual(['api', 'web']);
    for (const entry of [web, api]) {
      const { svid, privateKeyPem } = cache.findSvid(entry.id)!;
      expect(svid.id.toString()).toBe(entry.spiffeId.toString());
      const spki = createPublicKey(createPrivateKey(privateKeyPem)).export({ format: 'der', type: 'spki' });
      expect(Buffer.compare(spki, svid.leaf.spki)).toBe(0);
    }
    expect(cache.findSvid('web')?.privateKeyPem).not.toBe(cache.findSvid('api')?.privateKeyPem);
  });

  it('comes again within the interval, and signs nothing that is not due', async () => {
    const running = await start();
    await firstRound(running);
    const before = printOf(running, 'web');
    running.server.calls.length = 0;
    await nextRound(running);
    expect(running.server.calls).toEqual(['GetBundle', 'SyncAuthorizedEntries']);
    expect(printOf(running, 'web')).toBe(before);
  });

  it('waits until the agent is attested, and then starts at once', async () => {
    const running = await start({ isAttested: false });
    await running.clock.advance(20 * intervalMs);
    expect(running.server.calls).toEqual([]);
    await running.attest();
    await firstRound(running);
  });

  it('has the bundle before the SVIDs that need it', async () => {
    const running = await start();
    await firstRound(running);
    const { server, cache, state } = running;
    const next = await TestIdentity.root('example.org', { notAfterMs: Date.now() + 24 * hourMs });
    server.script.bundle = bundleOf('example.org', [server.root.certificate, next.certificate], 2);
    server.script.entries = [web, api];
    server.script.signEntry = async ({ spiffeId }, { spki }) => [
      await server.issue(spiffeId.toString(), spki, { issuer: next }),
    ];
    await nextRound(running);
    await until(() => cache.findSvid('api') !== undefined, 'signed by the new root');
    // The agent itself trusts its server by it from now on.
    expect(state.value?.bundle.equals(server.script.bundle)).toBe(true);
  });

  it.each([
    { name: 'of another trust domain', bundle: () => bundleOf('other.org', []) },
    { name: 'without a root', bundle: () => bundleOf('example.org', []) },
  ])('does not take a bundle $name', async ({ bundle }) => {
    const running = await start();
    await firstRound(running);
    const { server, sync, cache, clock, state } = running;
    const before = cache.bundle;
    const ownBefore = state.value?.bundle;
    server.script.bundle = bundle();
    await clock.advance(intervalMs);
    await until(() => sync.status.problems.sync !== undefined, 'the problem is noted');
    expect(cache.bundle).toBe(before);
    expect(state.value?.bundle).toBe(ownBefore);
  });

  it('asks in batches, the SVIDs that a workload waits for first', async () => {
    const entries = Array.from({ length: 120 }, (_, i) =>
      testEntry({ id: `e${i}`, spiffeId: `spiffe://example.org/e${i}`, selectors: [`test:${i}`] }),
    );
    const signed: string[] = [];
    const running = await start({
      entries,
      isAttested: false,
      prepare: ({ script }) => {
        const { signEntry } = script;
        script.signEntry = (entry, csr) => {
          signed.push(entry.id);
          return signEntry(entry, csr);
        };
      },
    });
    running.cache.watch([parseSelector('test:119')]);
    await running.attest();
    await firstRound(running);
    expect(signed[0]).toBe('e119');
    expect(new Set(signed).size).toBe(120);
    expect(running.server.calls.filter((call) => call === 'BatchNewX509SVID')).toHaveLength(2);
  });
});

describe('a round in which more is due than one batch', () => {
  const testEntries = (count: number) =>
    Array.from({ length: count }, (_, i) =>
      testEntry({ id: `e${i}`, spiffeId: `spiffe://example.org/e${i}`, selectors: [`test:${i}`] }),
    );

  /** `signing` is called before each entry, with how many there were before. */
  async function startSigning(count: number, signing: (before: number, running: Running) => Promise<void>) {
    const signed: string[] = [];
    const running = await start({ entries: testEntries(count), isAttested: false });
    const { script } = running.server;
    const { signEntry } = script;
    script.signEntry = async (entry, csr) => {
      const before = signed.push(entry.id) - 1;
      await signing(before, running);
      return signEntry(entry, csr);
    };
    await running.attest();
    await until(() => signed.length > 0 && running.cache.due().length === 0, 'all are signed');
    return { running, signed };
  }

  it('ends early for a workload that waits, whose SVID is in the next batch', async () => {
    const { signed, running } = await startSigning(350, async (before, { cache }) => {
      if (before === 150) cache.watch([parseSelector('test:349')]);
    });
    expect(signed.indexOf('e349')).toBe(200);
    expect(signed).toHaveLength(350);
    expect(running.clock.monotonic()).toBe(0);
  });

  it('ends after an interval, so that changes are seen meanwhile', async () => {
    const { running, signed } = await startSigning(250, async (before, { clock, server }) => {
      if (before % 100 === 0) await clock.advance(intervalMs);
      if (before === 100) server.script.entries = server.script.entries.slice(0, 210);
    });
    expect(signed).toHaveLength(210);
    const { calls } = running.server;
    const round = ['GetBundle', 'SyncAuthorizedEntries', 'BatchNewX509SVID'];
    expect(calls.filter((method) => method !== 'PostStatus')).toEqual([...round, ...round, ...round]);
  });
});

describe('a workload that waits for an SVID', () => {
  it('starts a round at once', async () => {
    const onDemand = { ...web, disableX509SvidPrefetch: true };
    const running = await start({ entries: [onDemand] });
    await firstRound(running);
    expect(running.cache.findSvid('web')).toBeUndefined();
    const { view } = running.cache.watch(webCaller);
    // No time passes.
    await until(() => view.value.identities[0]?.svid !== undefined, 'the SVID is in the view');
  });

  it('starts the next round right after the one that runs', async () => {
    const running = await start();
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    const { server, sync } = running;
    const { signEntry } = server.script;
    server.script.signEntry = async (entry, csr) => {
      asked.resolve();
      await answer.promise;
      return signEntry(entry, csr);
    };
    await asked.promise;
    server.script.entries = [web, api];
    sync.wake();
    answer.resolve();
    await until(() => running.cache.findSvid('api') !== undefined, 'the new entry without a pause');
  });
});

describe('one bad item', () => {
  it.each([
    { name: 'an SVID that is refused', error: new AppError('invalid-argument', 'no such template') },
    { name: 'an SVID that the server fails on', error: new AppError('internal', 'out of luck') },
  ])('delays nothing else: $name', async ({ error }) => {
    const running = await start({
      entries: [web, api],
      prepare: ({ script }) => {
        const { signEntry } = script;
        script.signEntry = (entry, csr) =>
          entry.id === 'web' ? Promise.reject(error) : signEntry(entry, csr);
      },
    });
    const { cache, sync, server, clock } = running;
    await until(() => sync.status.problems.signing !== undefined, 'the problem is noted');
    expect(sync.status.problems.signing).toContain('spiffe://example.org/web');
    expect(cache.findSvid('api')).toBeDefined();
    expect(cache.findSvid('web')).toBeUndefined();
    server.script.signEntry = async ({ spiffeId }, { spki }) => [
      await server.issue(spiffeId.toString(), spki),
    ];
    await clock.advance(intervalMs);
    await until(() => cache.findSvid('web') !== undefined, 'tried again');
    await until(() => sync.status.problems.signing === undefined, 'the problem is gone');
  });

  it('delays nothing else: an entry that cannot be understood', async () => {
    const strange = { ...api, selectors: [{ type: 'a:b', value: 'c' }] };
    const running = await start({ entries: [strange, web] });
    await firstRound(running);
    expect([...running.cache.entries.keys()]).toEqual(['web']);
    expect(running.cache.findSvid('web')).toBeDefined();
    expect(running.lines).toContainEqual(expect.objectContaining({ level: 'warn', entryId: 'api' }));
  });
});

describe('what the server signed never reaches the cache', () => {
  const newKey = async () => createSoftwareSigner(await generatePrivateKey('ec-p256')).publicKey;
  const answers: readonly {
    name: string;
    answer: (server: ScriptedServer, csr: CertificateRequest) => Promise<Chain>;
  }[] = [
    {
      name: 'when it is another key',
      answer: async (server) => [await server.issue('spiffe://example.org/web', await newKey())],
    },
    {
      name: 'when it is another identity',
      answer: async (server, { spki }) => [await server.issue('spiffe://example.org/api', spki)],
    },
    {
      name: 'when it is of another trust domain',
      answer: async (server, { spki }) => [await server.issue('spiffe://other.org/web', spki)],
    },
    {
      name: 'when it does not verify under the bundle',
      answer: async (server, { spki }) => {
        const issuer = await TestIdentity.root('example.org', { notAfterMs: Date.now() + hourMs });
        return [await server.issue('spiffe://example.org/web', spki, { issuer })];
      },
    },
    {
      name: 'when it has expired',
      answer: async (server, { spki }) => [
        await server.issue('spiffe://example.org/web', spki, { ttlMs: -1_000 }),
      ],
    },
    { name: 'when it is a CA', answer: async (server) => [server.root.certificate] },
    { name: 'when it is nothing', answer: async () => [] },
  ];
  it.each(answers)('$name', async ({ answer }) => {
    const running = await start({
      entries: [web, api],
      prepare: (server) => {
        const { signEntry } = server.script;
        server.script.signEntry = (entry, csr) =>
          entry.id === 'web' ? answer(server, csr) : signEntry(entry, csr);
      },
    });
    const { cache, sync } = running;
    await until(() => sync.status.problems.signing !== undefined, 'the problem is noted');
    expect(cache.findSvid('web')).toBeUndefined();
    expect(cache.findSvid('api')).toBeDefined();
  });

  it('and does not replace what is held', async () => {
    const running = await start();
    await firstRound(running);
    const { server, clock, cache, sync } = running;
    const before = printOf(running, 'web');
    server.script.signEntry = async (_entry, { spki }) => [
      await server.issue('spiffe://example.org/api', spki),
    ];
    clock.stepWallClock(0.5 * hourMs);
    await clock.advance(intervalMs);
    await until(() => sync.status.problems.signing !== undefined, 'the renewal is refused');
    expect(cache.findSvid('web')?.svid.leaf.fingerprint).toBe(before);
  });
});

describe('a server that is gone', () => {
  it('leaves everything in use, is reported once, and is found again', async () => {
    let gate: TcpGate | undefined;
    const addressOf = async ({ address }: ScriptedServer) => {
      gate = await TcpGate.before(address);
      return gate.address;
    };
    const running = await start({ addressOf });
    await firstRound(running);
    const { clock, cache, sync, lines, server } = running;
    const { view } = cache.watch(webCaller);
    const before = view.value;
    await gate!.close();
    const failed = () => lines.filter(({ level }) => level === 'warn');
    for (let round = 0; round < 4; round += 1) await clock.advance(intervalMs);
    await until(() => sync.status.problems.sync !== undefined, 'the problem is noted');
    const lastSyncMs = sync.status.lastSyncMs!;
    expect(lastSyncMs).toBeLessThan(clock.now());
    expect(view.value).toBe(before);
    expect(view.value.identities[0]?.svid).toBeDefined();
    expect(failed()).toHaveLength(1);
    server.script.entries = [web, api];
    await gate!.open();
    while (cache.findSvid('api') === undefined || sync.status.problems.sync !== undefined) {
      await clock.advance(100);
    }
    expect(sync.status.lastSyncMs).toBeGreaterThan(lastSyncMs);
    expect(lines.at(-1)).toMatchObject({ message: 'sync with the server works again' });
  });
});

describe('an SVID', () => {
  it('is renewed at the moment stored with it, with a new key', async () => {
    const running = await start({ window: [0.25, 0.25] });
    await firstRound(running);
    const { clock, cache } = running;
    const before = cache.findSvid('web')!;
    expect(before.renewAtMs - before.issuedAtMs).toBe((before.svid.notAfterMs - before.issuedAtMs) / 4);
    clock.stepWallClock(before.renewAtMs - clock.now() - 2 * intervalMs);
    await nextRound(running);
    expect(cache.findSvid('web')).toBe(before);
    await clock.advance(2 * intervalMs);
    await until(() => cache.findSvid('web') !== before, 'renewed');
    const after = cache.findSvid('web')!;
    expect(after.privateKeyPem).not.toBe(before.privateKeyPem);
    expect(after.svid.notAfterMs).toBeGreaterThan(before.svid.notAfterMs);
  });

  it('that expires is withdrawn, even while the server does not answer', async () => {
    const running = await start();
    await firstRound(running);
    const { clock, cache, server, lines } = running;
    const { view } = cache.watch(webCaller);
    const asked = Promise.withResolvers<void>();
    server.script.signEntry = () => {
      asked.resolve();
      return new Promise(() => undefined);
    };
    const { notAfterMs } = cache.findSvid('web')!.svid;
    clock.stepWallClock(notAfterMs - clock.now() - 10_000);
    await clock.advance(intervalMs);
    await asked.promise;
    expect(view.value.identities[0]?.svid).toBeDefined();
    await clock.advance(6_000);
    expect(view.value.identities[0]?.svid).toBeUndefined();
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'error', spiffeId: 'spiffe://example.org/web' }),
    );
  });

  it('of an entry that is gone is dropped with it', async () => {
    const running = await start({ entries: [web, api] });
    await firstRound(running);
    running.server.script.entries = [api];
    await nextRound(running);
    expect([...running.cache.entries.keys()]).toEqual(['api']);
    expect(running.cache.findSvid('web')).toBeUndefined();
  });

  it('is signed again when its entry has changed', async () => {
    const running = await start();
    await firstRound(running);
    const before = printOf(running, 'web');
    running.server.script.entries = [{ ...web, dnsNames: ['web.example.org'], revision: 1 }];
    await nextRound(running);
    expect(printOf(running, 'web')).not.toBe(before);
  });
});

describe('the status of the agent', () => {
  it('is posted once per connection, with the version of the program', async () => {
    const posted: string[] = [];
    const running = await start({
      prepare: ({ script }) => {
        script.postStatus = (version) => posted.push(version);
      },
    });
    await firstRound(running);
    await nextRound(running);
    expect(posted).toEqual([expect.stringMatching(/^signet\/\d+\.\d+\.\d+/)]);
    await running.attest();
    await nextRound(running);
    expect(posted).toHaveLength(2);
  });

  it.each(['unimplemented', 'permission-denied'] as const)(
    'is not posted again to a server that answers %s, and nothing else suffers',
    async (code) => {
      const running = await start({
        prepare: ({ script }) => {
          script.postStatus = () => {
            throw new AppError(code, 'unknown method');
          };
        },
      });
      await firstRound(running);
      await nextRound(running);
      expect(running.server.calls.filter((call) => call === 'PostStatus')).toHaveLength(1);
      expect(running.sync.status.problems).toEqual({ sync: undefined, signing: undefined });
    },
  );

  it('is posted in a later round when the server was not there for it', async () => {
    let [failures, posted] = [2, 0];
    const running = await start({
      prepare: ({ script }) => {
        script.postStatus = () => {
          posted += 1;
          failures -= 1;
          if (failures >= 0) throw new AppError('unavailable', 'too busy');
        };
      },
    });
    await firstRound(running);
    for (let round = 0; round < 4; round += 1) await nextRound(running);
    expect(posted).toBe(3);
  });
});

describe('a refusal of the agent itself', () => {
  const refusal = (reason: string) => new AppError('permission-denied', 'refused', { reason });

  it.each(['PostStatus', 'SyncAuthorizedEntries', 'BatchNewX509SVID'])(
    'reaches its identity from %s; workloads keep what they have',
    async (method) => {
      const running = await start({ entries: [web] });
      await firstRound(running);
      const before = printOf(running, 'web');
      const noted: unknown[] = [];
      running.identity.noteRefusal = async (error, svid) => {
        noted.push([(error as AppError).reason, svid]);
      };
      running.server.script.entries = [web, api];
      running.server.script.refuse = (name) => {
        if (name === method) throw refusal('AGENT_NOT_ACTIVE');
      };
      await running.attest();
      await running.clock.advance(intervalMs);
      await until(() => noted.length > 0, 'noted');
      expect(noted[0]).toEqual(['AGENT_NOT_ACTIVE', running.state.value?.svid]);
      expect(printOf(running, 'web')).toBe(before);
      expect([...running.cache.entries.keys()]).toContain('web');
    },
  );

  it('that is a ban is not undone by an answer that was on its way', async () => {
    const running = await start({ entries: [web] });
    await firstRound(running);
    const { cache, state, server, clock, sync } = running;
    const before = sync.status.lastSyncMs ?? 0;
    const asked = Promise.withResolvers<void>();
    server.script.refuse = (name) => {
      if (name !== 'SyncAuthorizedEntries') return;
      // The agent is banned while its entries are on their way to it.
      state.set(undefined);
      cache.setEntries([]);
      asked.resolve();
    };
    await clock.advance(intervalMs);
    await asked.promise;
    await until(() => (sync.status.lastSyncMs ?? 0) > before, 'the round is over');
    expect(cache.entries.size).toBe(0);
    expect(cache.findSvid('web')).toBeUndefined();
  });
});

describe('a server that asks to wait', () => {
  const limited = (retryAfterMs: number) => new AppError('resource-exhausted', 'too many', { retryAfterMs });

  it('is asked again for SVIDs after a short wait, in the same round', async () => {
    const askedAtMs: number[] = [];
    const now = { ms: () => 0 };
    const running = await start({
      prepare: ({ script }) => {
        script.refuse = (method) => {
          if (method !== 'BatchNewX509SVID') return;
          askedAtMs.push(now.ms());
          if (askedAtMs.length < 3) throw limited(1_000);
        };
      },
    });
    const { clock, cache, server, sync } = running;
    now.ms = () => clock.monotonic();
    await eventually(async () => {
      await clock.advance(50);
      expect(cache.findSvid('web')).toBeDefined();
    });
    const waits = askedAtMs.slice(1).map((atMs, i) => atMs - (askedAtMs[i] ?? 0));
    expect(waits).toHaveLength(2);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(1_000);
    expect(server.calls.filter((method) => method === 'GetBundle')).toHaveLength(1);
    expect(sync.status.problems.signing).toBeUndefined();
  });

  it('is left alone as long as it asks, even when a workload waits', async () => {
    let isLimited = true;
    const running = await start({
      prepare: ({ script }) => {
        script.refuse = (method) => {
          if (method === 'SyncAuthorizedEntries' && isLimited) throw limited(60_000);
        };
      },
    });
    const { clock, server, sync, cache } = running;
    await until(() => sync.status.problems.sync !== undefined, 'the refusal');
    await clock.untilSleepers(2);
    isLimited = false;
    const before = server.calls.length;
    for (let seconds = 0; seconds < 59; seconds += 1) {
      sync.wake();
      await clock.advance(1_000);
    }
    expect(server.calls).toHaveLength(before);
    await clock.advance(14_000);
    await until(() => cache.entries.size === 1, 'the entries');
  });
});
