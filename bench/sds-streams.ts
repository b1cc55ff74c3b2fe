// What streams of secrets cost the agent, and how fast they are served: streams that ask for "default" and "ALL", on a
// real server and agent. The clients are processes of their own that speak HTTP/2 by hand; what they cost is printed
// too.
//
//   make bench BENCH=sds-streams
//   [CLIENTS=10] node bench/sds-streams.ts [sotw|delta|ads-sotw|ads-delta] [runs] [folder for profiles of the agent]
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetAgent, SignetServer } from '../e2e/support/signet.ts';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { unixChannel } from '../src/rpc/grpc-client.ts';
import { type NewEntry, newEntry } from '../src/spiffe/registration-entry.ts';
import { SpiffeId } from '../src/spiffe/spiffe-id.ts';
import { Inspector, inspectable } from './sds/inspector.ts';
import { type NodeSize, parseVariant } from './sds/protocol.ts';
import type { Commands } from './sds/proxies.ts';
import { busySeconds, cpuSeconds, Figures, machine, percentile, rssMiB } from './support.ts';

const variant = parseVariant(process.argv[2] ?? 'sotw');
const runs = Number(process.argv[3] ?? 3);
const profiles = process.argv[4];

/** As many Envoys; the agent keeps its books by process. One shares two cores with the agent without getting in its way. */
const clients = Number(process.env['CLIENTS'] ?? 10);
const connections = 5 * clients;
const many = 2_000;
const few = 200;
const burst = 5_000;
const perSecond = 400;
const rotations = 3;
const deadlineMs = 60_000;
/** For acknowledgements to be taken in, and garbage to be collected. */
const settleMs = 500;

/** One process that has streams open. */
class Client {
  readonly #child: ChildProcess = fork(fileURLToPath(new URL('./sds/proxies.ts', import.meta.url)));

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async do<Name extends keyof Commands>(
    name: Name,
    request: Commands[Name]['request'],
  ): Promise<Commands[Name]['answer']> {
    const gone = new AbortController();
    const answered = once(this.#child, 'message', { signal: gone.signal });
    const onExit = () => gone.abort(new Error('a client process has ended'));
    this.#child.once('exit', onExit);
    this.#child.send({ name, request });
    const [{ answer }] = await answered;
    this.#child.off('exit', onExit);
    return answer;
  }

  async stop(): Promise<void> {
    this.#child.disconnect();
    this.#child.kill();
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
  }
}

interface OpenedByAll {
  /** Streams. */
  readonly answered: number;
  readonly tookMs: number;
  readonly firstMs: readonly number[];
  readonly allMs: readonly number[];
  readonly cpuSeconds: number;
}

/** All clients together; streams and connections are shared out among them. */
class Proxies {
  readonly #clients = Array.from({ length: clients }, () => new Client());

  get pids(): readonly number[] {
    return this.#clients.map(({ pid }) => pid);
  }

  async connect(socket: string, node: NodeSize): Promise<void> {
    const request = { socket, connections: connections / clients, variant, node };
    await Promise.all(this.#clients.map((client) => client.do('connect', request)));
  }

  /** All at once when none is to be opened each second. */
  async open(streams: number, perSecond = 0): Promise<OpenedByAll> {
    const gapMs = perSecond === 0 ? 0 : 1000 / perSecond;
    const sharing = streams < clients ? this.#clients.slice(0, streams) : this.#clients;
    const share = { streams: streams / sharing.length, everyMs: gapMs * sharing.length, deadlineMs };
    const opened = await Promise.all(
      sharing.map((client, i) => client.do('open', { ...share, delayMs: i * gapMs })),
    );
    const allMs = opened.flatMap((each) => each.allMs);
    const last = Math.max(...opened.map(({ lastAtMs }) => lastAtMs));
    return {
      answered: allMs.length,
      tookMs: last - Math.min(...opened.map(({ startedAtMs }) => startedAtMs)),
      firstMs: opened.flatMap(({ firstMs }) => firstMs),
      allMs,
      cpuSeconds: opened.reduce((sum, { clientCpuSeconds }) => sum + clientCpuSeconds, 0),
    };
  }

  async mark(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.do('mark', undefined)));
  }

  async pushed(): Promise<{ reached: number; firstToLastMs: number; cpuSeconds: number }> {
    const pushed = await Promise.all(this.#clients.map((client) => client.do('pushed', { deadlineMs })));
    const times = pushed.flatMap(({ atMs }) => atMs).sort((a, b) => a - b);
    return {
      reached: times.length,
      firstToLastMs: (times.at(-1) ?? Number.NaN) - (times[0] ?? Number.NaN),
      cpuSeconds: pushed.reduce((sum, { clientCpuSeconds }) => sum + clientCpuSeconds, 0),
    };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.stop()));
  }
}

/** One server, one agent and their clients, for one run. */
interface Setup {
  readonly agent: SignetAgent;
  readonly proxies: Proxies;
  readonly inspector: Inspector | undefined;
  /** Has the agent get another certificate for the workload. */
  readonly rotate: () => Promise<void>;
}

async function setUp(sandbox: Sandbox): Promise<Setup & { readonly pids: readonly number[] }> {
  const server = await SignetServer.start(sandbox);
  // How often it asks for changes by default: the tests have it ask more often, which costs.
  const agent = await SignetAgent.prepare(sandbox, { server, config: { syncInterval: '5s' } });
  await agent.launch(profiles === undefined ? {} : inspectable);
  await agent.waitUntilHealthy();
  const admin = new AdminClient(unixChannel(server.adminSocket));
  const signal = () => AbortSignal.timeout(10_000);
  let entry: NewEntry = newEntry({
    id: 'bench',
    spiffeId: SpiffeId.parse('spiffe://example.org/bench'),
    parentId: SpiffeId.parse(agent.alias),
    selectors: [{ type: 'unix', value: `uid:${process.getuid?.() ?? 0}` }],
  });
  await admin.entries.create([entry], { signal: signal() });
  let rotation = 0;
  const rotate = async () => {
    rotation += 1;
    entry = { ...entry, dnsNames: [`rotation-${rotation}.bench.internal`] };
    await admin.entries.update(entry, { signal: signal() });
  };
  const proxies = new Proxies();
  sandbox.onDispose(() => proxies.stop());
  const inspector = profiles === undefined ? undefined : await Inspector.attach(agent.process, profiles);
  sandbox.onDispose(() => inspector?.close());
  const pids = [server.process.pid, agent.process.pid, process.pid, ...proxies.pids];
  return { agent, proxies, inspector, rotate, pids };
}

/** Seconds of CPU that the agent uses for `work` and shortly after, but for what it uses while idle. */
async function agentCpu<T>({ agent }: Setup, work: () => Promise<T>): Promise<[T, number]> {
  const { pid } = agent.process;
  const idleStart = [cpuSeconds(pid), performance.now()] as const;
  await sleep(2 * settleMs);
  const perMs = (cpuSeconds(pid) - idleStart[0]) / (performance.now() - idleStart[1]);
  const start = [cpuSeconds(pid), performance.now()] as const;
  const result = await work();
  await sleep(settleMs);
  return [result, cpuSeconds(pid) - start[0] - perMs * (performance.now() - start[1])];
}

async function recorded<T>({ inspector }: Setup, name: string, work: () => Promise<T>): Promise<T> {
  return inspector === undefined ? await work() : await inspector.profile(name, work);
}

async function connect({ agent, proxies }: Setup, node: NodeSize = 'small') {
  await proxies.connect(agent.socket, node);
  // Until the agent has cleaned up after the connections that were there before.
  await sleep(2 * settleMs);
}

function checkAnswered(what: string, { answered }: OpenedByAll, streams: number): void {
  if (answered !== streams) console.log(`${what}: only ${answered} of ${streams} streams were answered`);
}

async function measurePush(setup: Setup, figures: Figures, streams: number, goal: string): Promise<void> {
  const { proxies, rotate } = setup;
  const times: number[] = [];
  const agent: number[] = [];
  const clientsCpu: number[] = [];
  for (let i = 0; i < rotations; i += 1) {
    await proxies.mark();
    const [pushed, cpu] = await agentCpu(setup, async () => {
      await rotate();
      return await proxies.pushed();
    });
    if (pushed.reached !== streams) console.log(`push: reached ${pushed.reached} of ${streams} streams`);
    times.push(pushed.firstToLastMs);
    agent.push(cpu);
    clientsCpu.push(pushed.cpuSeconds);
  }
  const name = `push to ${streams} streams`;
  figures.add(`${name}: first to last`, percentile(times, 0.5), { goal });
  figures.add(`${name}: agent CPU, signing and ACKs included`, percentile(agent, 0.5), { unit: 's' });
  figures.add(`${name}: CPU of the clients`, percentile(clientsCpu, 0.5), { unit: 's' });
}

/**
 * On an agent that has served nothing but one stream, so that what earlier streams left in its heap hides nothing;
 * the code that it loads and compiles on the way counts too.
 */
async function measureMemory(setup: Setup, figures: Figures): Promise<void> {
  const { agent, proxies, inspector } = setup;
  await connect(setup);
  checkAnswered('the first stream', await proxies.open(1), 1);
  await sleep(4 * settleMs);
  await inspector?.heap('before');
  const before = rssMiB(agent.process.pid);
  await connect(setup);
  checkAnswered('memory', await proxies.open(many, perSecond), many);
  await sleep(4 * settleMs);
  const growth = ((rssMiB(agent.process.pid) - before) * 1024) / many;
  figures.add(`${many} streams: growth of the agent's RSS, each`, growth, { unit: 'KiB', goal: '<= 32' });
  await inspector?.heap('after');
  await recorded(setup, `push-${many}`, () => measurePush(setup, figures, many, '< 130'));
}

/** 200 streams at once, several times. */
async function measureFew(setup: Setup, figures: Figures): Promise<void> {
  const all: number[] = [];
  for (let i = 0; i < rotations; i += 1) {
    await connect(setup);
    const opened = await setup.proxies.open(few);
    checkAnswered(`${few} at once`, opened, few);
    all.push(percentile(opened.allMs, 0.99));
  }
  figures.add(`${few} opened at once: both secrets, p99`, percentile(all, 0.5), { goal: '< 70' });
  await recorded(setup, `push-${few}`, () => measurePush(setup, figures, few, '< 15'));
}

async function measureFirstAnswer(setup: Setup, figures: Figures): Promise<void> {
  await connect(setup);
  const [opened, cpu] = await agentCpu(setup, () =>
    recorded(setup, 'open', () => setup.proxies.open(many, perSecond)),
  );
  const what = `${many} opened at ${perSecond}/s`;
  checkAnswered(what, opened, many);
  figures.add(`${what}: first secret, p50`, percentile(opened.firstMs, 0.5), { goal: '< 1' });
  figures.add(`${what}: first secret, p99`, percentile(opened.firstMs, 0.99), { goal: '< 5' });
  figures.add(`${what}: both secrets, p50`, percentile(opened.allMs, 0.5));
  figures.add(`${what}: both secrets, p99`, percentile(opened.allMs, 0.99));
  figures.add(`${what}: agent CPU, each`, (cpu / many) * 1e6, { unit: 'µs' });
  figures.add(`${what}: CPU of the clients, each`, (opened.cpuSeconds / many) * 1e6, { unit: 'µs' });
}

async function measureBurst(setup: Setup, figures: Figures): Promise<void> {
  for (const node of ['small', 'envoy'] as const) {
    await connect(setup, node);
    const what = `burst of ${burst}${node === 'envoy' ? ' with nodes of 61 KB' : ''}`;
    const [opened, cpu] = await agentCpu(setup, () =>
      recorded(setup, `burst-${node}`, () => setup.proxies.open(burst)),
    );
    figures.add(`${what}: answered`, opened.answered, { unit: '', goal: 'all' });
    figures.add(`${what}: until all have both secrets`, opened.tookMs);
    figures.add(`${what}: agent CPU`, cpu, { unit: 's' });
    figures.add(`${what}: agent RSS`, rssMiB(setup.agent.process.pid), { unit: 'MiB' });
    const late = await setup.proxies.open(1);
    figures.add(`${what}: one more stream after it`, late.allMs[0] ?? Number.NaN);
  }
}

/** What the agent had to complain about belongs to the figures. */
function printWarnings({ agent }: Setup): void {
  const warnings = agent.process.lines.filter((line) => /"level":"(warn|error)"/.test(line));
  const texts = warnings.map((line) => String(JSON.parse(line).message));
  for (const [text, lines] of Map.groupBy(texts, (each) => each)) {
    console.log(`the agent logged ${lines.length} times: ${text}`);
  }
}

async function run(figures: Figures): Promise<void> {
  const sandbox = await Sandbox.create();
  try {
    const setup = await setUp(sandbox);
    const ours = () => setup.pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
    const start = { busy: busySeconds(), ours: ours(), ms: performance.now() };
    await measureMemory(setup, figures);
    await measureFirstAnswer(setup, figures);
    await measureFew(setup, figures);
    await measureBurst(setup, figures);
    printWarnings(setup);
    const others = busySeconds() - start.busy - (ours() - start.ours);
    const cores = (others * 1000) / (performance.now() - start.ms);
    figures.add('what others used of the machine meanwhile', cores, { unit: 'cores' });
  } finally {
    await sandbox.dispose();
  }
}

console.log(
  `${machine()}\n${variant}, ${clients} processes with ${connections} connections, median of ${runs}\n`,
);
const figures = new Figures();
for (let i = 0; i < runs; i += 1) await run(figures);
figures.print();
