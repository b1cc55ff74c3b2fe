import { createPublicKey } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { AuthorityRole } from '../src/plugin-api/data-store.ts';
import { openSqliteStore } from '../src/plugins/data-store/sql-store.ts';
import { systemClock } from '../src/runtime/time.ts';
import { type JournalStep, journalSteps } from '../src/server/authority/journal-steps.ts';
import { checkout } from './support/checkout.ts';
import { Company } from './support/company.ts';
import { eventually } from './support/eventually.ts';
import type { Sandbox } from './support/sandbox.ts';
import { SignetServer } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';
import { Witness } from './support/witness.ts';

type Cause = 'start' | 'prepare' | 'prepare a new root' | 'activate' | 'taint' | 'revoke';

/** A server is killed right after this step, which it was made to take in this way. */
type Death = readonly [by: Cause, role: AuthorityRole, step: JournalStep];

const deaths = (by: Cause, role: AuthorityRole, ...steps: readonly JournalStep[]): readonly Death[] =>
  steps.map((step) => [by, role, step]);

/** From a key that was left behind to a certificate that signs. */
const firstStart = [
  'key-claimed',
  'key-generated',
  'key-retired',
  'key-destroyed',
  'certified',
  'prepared',
  'activated',
] as const satisfies readonly JournalStep[];

interface Topology {
  readonly name: 'self-signed' | 'local_root' | 'disk';
  /** One server dies all of them, one after the other. */
  readonly story: readonly Death[];
}

const topologies: readonly Topology[] = [
  {
    name: 'self-signed',
    story: [
      ...deaths('start', 'signing', ...firstStart),
      ...deaths('prepare', 'signing', 'key-claimed', 'key-generated', 'certified', 'prepared', 'forgotten'),
      ...deaths('prepare', 'signing', 'published'),
      ...deaths('activate', 'signing', 'activated'),
      ...deaths('prepare', 'signing', 'key-retired'),
      ...deaths('start', 'signing', 'key-destroyed'),
      ...deaths('activate', 'signing', 'signing'),
      ...deaths('taint', 'signing', 'tainted'),
      ...deaths('revoke', 'signing', 'revoked'),
    ],
  },
  {
    name: 'local_root',
    story: [
      ...deaths('start', 'root', ...firstStart),
      ...deaths('start', 'signing', 'key-generated', 'certified', 'prepared', 'activated'),
      ...deaths('prepare a new root', 'root', 'key-claimed', 'key-generated', 'certified', 'published'),
      ...deaths('prepare a new root', 'signing', 'certified', 'prepared', 'forgotten'),
      ...deaths('activate', 'root', 'activated', 'signing'),
      ...deaths('activate', 'signing', 'activated', 'signing'),
      ...deaths('prepare a new root', 'root', 'key-retired'),
      ...deaths('start', 'root', 'key-destroyed'),
      ...deaths('taint', 'signing', 'tainted'),
      ...deaths('revoke', 'signing', 'revoked'),
    ],
  },
  {
    name: 'disk',
    story: [
      ...deaths('start', 'signing', 'certified', 'prepared', 'activated'),
      ...deaths('prepare', 'signing', 'certified', 'published'),
      ...deaths('activate', 'signing', 'activated', 'signing'),
      ...deaths('taint', 'signing', 'tainted'),
      ...deaths('revoke', 'signing', 'revoked'),
    ],
  },
];

/** A server that dies on order, and what an administrator does with it. */
class MortalServer {
  readonly server: SignetServer;
  readonly witness: Witness;
  readonly #topology: Topology['name'];
  readonly #orders: string;
  readonly #company: Company | undefined;

  private constructor(
    topology: Topology['name'],
    parts: { server: SignetServer; orders: string; company: Company | undefined; witness: Witness },
  ) {
    this.server = parts.server;
    this.witness = parts.witness;
    this.#topology = topology;
    this.#orders = parts.orders;
    this.#company = parts.company;
  }

  static async prepare(sandbox: Sandbox, topology: Topology['name']): Promise<MortalServer> {
    const orders = join(sandbox.dir, 'orders');
    const company = topology === 'disk' ? await Company.create(sandbox) : undefined;
    const upstream = {
      'self-signed': {},
      local_root: { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } },
      disk: { upstreamAuthority: { disk: company?.config } },
    }[topology];
    const server = await SignetServer.prepare(sandbox, {
      config: { keyManager: { disk: {} }, ...upstream },
      program: [process.execPath, `${checkout}src/testing/killed-server.ts`, orders],
    });
    const witness = await Witness.start(server);
    sandbox.onDispose(() => witness.stop());
    return new MortalServer(topology, { server, orders, company, witness });
  }

  /** Starts it and waits until it signs. */
  async live(): Promise<void> {
    this.#order('');
    await this.server.start();
    await this.witness.wholeRound();
  }

  /** Has it die, from a state in which that can happen. */
  async die([by, role, step]: Death): Promise<void> {
    const what = by === 'start' ? undefined : await this.#ready(by, role);
    this.#order(`${role} ${step}`);
    if (what === undefined) await this.server.launch();
    // The connection is lost with the server.
    else await what().catch(() => undefined);
    const exit = await eventually(`death at ${role} ${step} by ${by}`, () => this.server.process.exit, {
      timeoutMs: 30_000,
    });
    expect(exit).toEqual({ code: null, signal: 'SIGKILL' });
  }

  #order(text: string): void {
    writeFileSync(this.#orders, text);
  }

  async #ready(by: Exclude<Cause, 'start'>, role: AuthorityRole): Promise<() => Promise<unknown>> {
    switch (by) {
      case 'prepare':
        return () => this.#prepare({ newRoot: false });
      case 'prepare a new root':
        return () => this.#prepare({ newRoot: true });
      case 'activate': {
        const id = await this.#prepared(role);
        return () => this.server.call(({ authorities }, signal) => authorities.activate(id, { signal }));
      }
      case 'taint': {
        const id = (await this.#oldRoot({ tainted: false })) ?? (await this.#replaceRoot());
        return () => this.#taint(id);
      }
      case 'revoke': {
        const id = (await this.#oldRoot({ tainted: true })) ?? (await this.#replaceAndTaint());
        const options = { isUpstream: this.#topology !== 'self-signed', force: true };
        return () =>
          this.server.call(({ authorities }, signal) => authorities.revoke(id, { ...options, signal }));
      }
    }
  }

  #prepare(options: { readonly newRoot: boolean }) {
    return this.server.call(({ authorities }, signal) => authorities.prepare({ ...options, signal }));
  }

  #taint(id: string) {
    const isUpstream = this.#topology !== 'self-signed';
    return this.server.call(({ authorities }, signal) => authorities.taint(id, { isUpstream, signal }));
  }

  async #authorities() {
    return (await this.server.call(({ authorities }, signal) => authorities.show({ signal }))).authorities;
  }

  /** One that can be activated; with `root`, together with its root. The witness has seen its bundle. */
  async #prepared(role: AuthorityRole): Promise<string> {
    const all = await this.#authorities();
    const isFresh = (rootId: string) => all.some(({ id, state }) => id === rootId && state === 'prepared');
    const found = all.find((one) => one.role === 'signing' && one.state === 'prepared');
    const isFit = found !== undefined && (role === 'signing' || isFresh(found.rootId));
    const { id } = isFit ? found : await this.#prepare({ newRoot: role === 'root' });
    await this.witness.wholeRound();
    return id;
  }

  /** A root that has signed and is still trusted. */
  async #oldRoot({ tainted }: { readonly tainted: boolean }): Promise<string | undefined> {
    const signing = (await this.#authorities()).filter(({ role }) => role === 'signing');
    const rootOf = ({ id, rootId }: { id: string; rootId: string }) => (rootId === '' ? id : rootId);
    const active = signing.find(({ state }) => state === 'active')!;
    const old = signing.find(
      (one) =>
        one.state === 'old' &&
        one.details!.isInBundle &&
        one.details!.taintedAt > 0 === tainted &&
        rootOf(one) !== rootOf(active),
    );
    return old === undefined ? undefined : rootOf(old);
  }

  async #replaceAndTaint(): Promise<string> {
    const id = await this.#replaceRoot();
    await this.#taint(id);
    return id;
  }

  /** Puts another root above what signs; returns the one before. */
  async #replaceRoot(): Promise<string> {
    const before = (await this.#authorities()).find(
      (one) => one.role === 'signing' && one.state === 'active',
    )!;
    await this.#company?.renew();
    const next = await eventually('another root', async () => {
      const made = await this.#prepare({ newRoot: this.#topology === 'local_root' });
      return made.rootId !== before.rootId || this.#topology === 'self-signed' ? made : undefined;
    });
    await this.witness.wholeRound();
    await this.server.call(({ authorities }, signal) => authorities.activate(next.id, { signal }));
    return before.rootId === '' ? before.id : before.rootId;
  }
}

/** The keys on the disk, by role. */
function keysOf({ dataDir }: SignetServer) {
  const folders = { signing: join(dataDir, 'keys'), root: join(dataDir, 'root', 'keys') };
  return (Object.keys(folders) as AuthorityRole[]).flatMap((role) =>
    filesIn(folders[role]).map((name) => ({
      role,
      keyId: name.replace(/\.pem$/, ''),
      publicKey: createPublicKey(readFileSync(join(folders[role], name))).export({
        type: 'spki',
        format: 'der',
      }),
    })),
  );
}

function filesIn(dir: string): readonly string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

/** What the journal says of keys, and the keys themselves: those it does not account for, and those it misses. */
async function accounts(server: SignetServer) {
  const store = await openSqliteStore({ dataDir: server.dataDir, clock: systemClock });
  try {
    const [records, claims, retired] = await Promise.all([
      store.authorities.list(),
      store.keys.claims(),
      store.keys.retired(),
    ]);
    const keys = keysOf(server);
    type Key = (typeof keys)[number];
    const isIn = (list: readonly { role: AuthorityRole; publicKey: Uint8Array }[], key: Key) =>
      list.some(({ role, publicKey }) => role === key.role && Buffer.compare(publicKey, key.publicKey) === 0);
    const isClaimed = (key: Key) =>
      claims.some(({ role, keyId }) => role === key.role && keyId === key.keyId);
    return {
      orphans: keys.filter((key) => !isIn([...records, ...retired], key) && !isClaimed(key)),
      missing: records.filter(
        (record) =>
          record.state !== 'old' &&
          !keys.some(({ publicKey }) => Buffer.compare(publicKey, record.publicKey) === 0),
      ),
      unfinished: [...claims, ...retired],
    };
  } finally {
    await store.close();
  }
}

describe('a server that is killed between two steps of its journal', () => {
  it('dies of each of them', () => {
    const reached = topologies.flatMap(({ story }) => story.map(([, , step]) => step));
    expect([...new Set(reached)].sort()).toEqual([...journalSteps].sort());
  });

  it.concurrent.for(topologies)(
    'and is $name goes on: no leaf without its root in the bundle, no key without an owner',
    { timeout: 180_000 },
    async ({ name, story }, context) => {
      const sandbox = await testSandbox(context);
      const mortal = await MortalServer.prepare(sandbox, name);
      const { server, witness } = mortal;
      for (const [i, death] of story.entries()) {
        await mortal.die(death);
        const left = await accounts(server);
        expect({ death, ...left }).toMatchObject({ death, orphans: [], missing: [] });
        if (story[i + 1]?.[0] === 'start') continue;
        await mortal.live();
        await server.process.until('keys in order', async () => {
          expect(await accounts(server)).toEqual({ orphans: [], missing: [], unfinished: [] });
          return true;
        });
        const { bundle, overview, strays } = await server.call(async (client, signal) => ({
          bundle: await client.bundles.getOwn({ signal }),
          overview: await client.authorities.show({ signal }),
          strays: await client.authorities.pruneKeys({ dryRun: true, signal }),
        }));
        expect(strays).toEqual([]);
        expect(overview.details?.problem).toBe('');
        // What peers hold stays good until its root is revoked.
        const isRevoked = (root: string | undefined) =>
          overview.authorities.some(({ id, details }) => id === root && details!.revokedAt > 0);
        const served = new Set(bundle.certificates().map(({ fingerprint }) => fingerprint));
        const lost = witness.issued.filter(
          ({ root }) => !served.has(root.fingerprint) && !isRevoked(root.subjectKeyId),
        );
        expect({ death, lost: lost.length, problems: witness.problems }).toEqual({
          death,
          lost: 0,
          problems: [],
        });
      }
      expect(witness.issued.length).toBeGreaterThan(story.length / 2);
    },
  );
});
