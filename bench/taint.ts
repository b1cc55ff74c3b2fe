// How long it takes until no SVID of a tainted authority is in use: a real server, and real agents that hold 10,000
// SVIDs together, all with the settings they are shipped with but for what a scenario says. Prepare, activate, taint of
// the old authority; the server is asked ten times a second how many SVIDs of it are still in use. Ten SVIDs of the
// first agent are watched by a workload, and when a fifth of all is replaced another one is registered for it.
//
//   make bench BENCH=taint
//   node bench/taint.ts [runs] [SVIDs] [folder for profiles of the first agent and the server]
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetAgent, SignetServer } from '../e2e/support/signet.ts';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { unixChannel } from '../src/rpc/grpc-client.ts';
import { newEntry } from '../src/spiffe/registration-entry.ts';
import { SpiffeId } from '../src/spiffe/spiffe-id.ts';
import { Inspector, inspectable } from './sds/inspector.ts';
import { busySeconds, cpuSeconds, Figures, machine } from './support.ts';

const runs = Number(process.argv[2] ?? 3);
const svids = Number(process.argv[3] ?? 10_000);
const profiles = process.argv[4];

const scenarios = [
  { agents: 1, totalPerSecond: 0 },
  { agents: 10, totalPerSecond: 0 },
  { agents: 10, totalPerSecond: 500 },
];
const watched = 10;
const pollMs = 100;
const patienceMs = 180_000;
const signal = () => AbortSignal.timeout(10_000);

/** What a workload was given last, and when each of its SVIDs came. */
class Workload {
  readonly #client: WorkloadClient;
  readonly #stop = new AbortController();
  readonly #reading: Promise<void>;
  /** By SPIFFE ID: which certificate, since when. */
  readonly held = new Map<string, { readonly print: string; readonly atMs: number }>();

  constructor(socket: string) {
    this.#client = WorkloadClient.connect(`unix://${socket}`);
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    for await (const { svids: granted } of this.#client.watchX509Svids(this.#stop.signal)) {
      for (const { svid } of granted) {
        const [id, print] = [svid.id.toString(), svid.leaf.fingerprint];
        if (this.held.get(id)?.print !== print) this.held.set(id, { print, atMs: performance.now() });
      }
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#reading;
    this.#client.close();
  }
}

interface Setup {
  readonly admin: AdminClient;
  readonly server: SignetServer;
  readonly agents: readonly SignetAgent[];
  readonly workload: Workload;
  readonly inspectors: readonly { readonly name: string; readonly inspector: Inspector }[];
}

/** Of the uid of this process when it is to be watched, else of a uid that nobody has. */
const entryOf = (agent: SignetAgent, name: string, isWatched: boolean) =>
  newEntry({
    spiffeId: SpiffeId.parse(`spiffe://example.org/bench/${name}`),
    parentId: SpiffeId.parse(agent.alias),
    selectors: [{ type: 'unix', value: `uid:${isWatched ? (process.getuid?.() ?? 0) : 4_000_000}` }],
  });

async function setUp(sandbox: Sandbox, { agents: count, totalPerSecond }: (typeof scenarios)[number]) {
  const config = totalPerSecond === 0 ? {} : { limits: { signing: { totalPerSecond } } };
  const server = await SignetServer.start(sandbox, { config });
  const agents: SignetAgent[] = [];
  for (let i = 0; i < count; i += 1) {
    const options = { server, name: `agent-${i}`, config: { syncInterval: '5s' } };
    const agent = await SignetAgent.prepare(sandbox, options);
    await agent.launch(profiles === undefined || i > 0 ? {} : inspectable);
    await agent.waitUntilHealthy();
    agents.push(agent);
  }
  const channel = unixChannel(server.adminSocket);
  sandbox.onDispose(() => channel.close());
  const admin = new AdminClient(channel);
  const entries = agents.flatMap((agent, a) =>
    Array.from({ length: svids / count }, (_, i) => entryOf(agent, `${a}-${i}`, a === 0 && i < watched)),
  );
  await admin.entries.create(entries, { signal: AbortSignal.timeout(60_000) });
  const [first] = agents;
  if (first === undefined) throw new Error('there is no agent');
  const workload = new Workload(first.socket);
  sandbox.onDispose(() => workload.close());
  const inspectors =
    profiles === undefined
      ? []
      : [{ name: `agent-of-${count}`, inspector: await Inspector.attach(first.process, profiles) }];
  for (const { inspector } of inspectors) sandbox.onDispose(() => inspector.close());
  return { admin, server, agents, workload, inspectors };
}

async function until<T>(what: string, find: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + patienceMs;
  while (performance.now() < end) {
    const found = await find();
    if (found !== undefined) return found;
    await sleep(pollMs);
  }
  throw new Error(`${what}: not in ${patienceMs / 1000} s`);
}

async function inUseOf(admin: AdminClient, id: string): Promise<number> {
  const { authorities } = await admin.authorities.show({ signal: signal() });
  return authorities.find((authority) => authority.id === id)?.details?.svidsInUse ?? Number.NaN;
}

/** Once all SVIDs, the agents' own included, are of the active authority; returns its ID. */
async function settled({ admin, agents }: Setup): Promise<string> {
  const { authorities } = await admin.authorities.show({ signal: signal() });
  const active = authorities.find(({ state }) => state === 'active');
  if (active === undefined) throw new Error('no authority is active');
  await until('signed', async () => (await inUseOf(admin, active.id)) >= svids + agents.length || undefined);
  return active.id;
}

/** Prepares and activates another authority, once all agents hold its root. */
async function supersede({ admin }: Setup): Promise<void> {
  const { id } = await admin.authorities.prepare({ newRoot: false, signal: signal() });
  await until('held by all agents', async () => {
    const { details } = await admin.authorities.show({ signal: signal() });
    return details?.agentsBehind === 0 || undefined;
  });
  await admin.authorities.activate(id, { signal: signal() });
}

interface Sample {
  readonly atMs: number;
  readonly replaced: number;
}

/** How many SVIDs are replaced, until all are. */
async function replacement({ admin }: Setup, id: string, startMs: number): Promise<readonly Sample[]> {
  const total = await inUseOf(admin, id);
  const samples: Sample[] = [];
  await until('replaced', async () => {
    const inUse = await inUseOf(admin, id);
    samples.push({ atMs: performance.now() - startMs, replaced: total - inUse });
    return inUse === 0 || undefined;
  });
  return samples;
}

/** The most that were replaced within a second. */
function peakOf(samples: readonly Sample[]): number {
  const since = (sample: Sample) => samples.find(({ atMs }) => sample.atMs - atMs <= 1_000 + pollMs / 2);
  return Math.max(...samples.map((sample) => sample.replaced - (since(sample)?.replaced ?? 0)));
}

/** Registers one more workload in the middle of it, and returns after how long it has its identity. */
async function newcomer(
  { admin, agents: [first], workload }: Setup,
  { id: tainted, name }: { readonly id: string; readonly name: string },
): Promise<number> {
  await until('under way', async () => (await inUseOf(admin, tainted)) < 0.8 * svids || undefined);
  if (first === undefined) throw new Error('there is no agent');
  const entry = entryOf(first, name, true);
  const start = performance.now();
  await admin.entries.create([entry], { signal: signal() });
  const id = entry.spiffeId.toString();
  const { atMs } = await until('granted', async () => workload.held.get(id));
  return atMs - start;
}

async function profiled<T>(setup: Setup, work: () => Promise<T>): Promise<T> {
  return setup.inspectors.reduce(
    (inner, { name, inspector }) =>
      () =>
        inspector.profile(name, inner),
    work,
  )();
}

async function measure(setup: Setup, figures: Figures, name: string): Promise<void> {
  const { admin, server, agents, workload } = setup;
  const id = await settled(setup);
  await supersede(setup);
  const before = new Map(workload.held);
  const cpuOfAgents = () => agents.reduce((sum, { process: { pid } }) => sum + cpuSeconds(pid), 0);
  const cpu = { server: cpuSeconds(server.process.pid), agents: cpuOfAgents(), all: busySeconds() };
  const start = performance.now();
  await admin.authorities.taint(id, { isUpstream: false, signal: signal() });
  const [samples, newcomerMs] = await profiled(setup, () =>
    Promise.all([replacement(setup, id, start), newcomer(setup, { id, name })]),
  );
  const seconds = (samples.at(-1)?.atMs ?? Number.NaN) / 1000;
  const at = (share: number) => samples.find(({ replaced }) => replaced >= share * svids)?.atMs ?? Number.NaN;
  const watchedMs = [...before].map(([spiffeId, { print }]) => {
    const now = workload.held.get(spiffeId);
    return now === undefined || now.print === print ? Number.NaN : now.atMs - start;
  });
  const used = {
    server: cpuSeconds(server.process.pid) - cpu.server,
    agents: cpuOfAgents() - cpu.agents,
  };
  const others = busySeconds() - cpu.all - used.server - used.agents;
  figures.add('those that a workload uses, all of them', Math.max(...watchedMs) / 1000, { unit: 's' });
  figures.add('the first of all', at(1 / svids) / 1000, { unit: 's' });
  figures.add('half', at(0.5) / 1000, { unit: 's' });
  figures.add('all, agents included', seconds, { unit: 's', goal: '< 30' });
  figures.add('peak within a second', peakOf(samples), { unit: 'SVIDs' });
  figures.add('a new workload meanwhile has its identity after', newcomerMs / 1000, { unit: 's' });
  figures.add('CPU of the server', used.server, { unit: 's' });
  figures.add('CPU of the agents', used.agents, { unit: 's' });
  figures.add('what others used of the machine meanwhile', others / seconds, { unit: 'cores' });
}

async function run(scenario: (typeof scenarios)[number]): Promise<void> {
  const { agents, totalPerSecond } = scenario;
  const sandbox = await Sandbox.create();
  try {
    const setup = await setUp(sandbox, scenario);
    const figures = new Figures();
    for (let i = 0; i < runs; i += 1) await measure(setup, figures, `new-${i}`);
    const limit = totalPerSecond === 0 ? '' : `, limits.signing.totalPerSecond ${totalPerSecond}`;
    console.log(`\n${svids} SVIDs held by ${agents} agents${limit}`);
    figures.print();
  } finally {
    await sandbox.dispose();
  }
}

console.log(`${machine()}\nseconds since the taint, median of ${runs}`);
for (const scenario of scenarios) await run(scenario);
