// A client of `sds-streams`, a process of its own as an Envoy is: many streams on a few connections, which acknowledge
// what comes and note when it came. Does one command at a time.
import { setTimeout as sleep } from 'node:timers/promises';
import { Http2Client, nowMs } from './http2-client.ts';
import { acknowledgement, firstRequest, methodOf, type NodeSize, names, type Variant } from './protocol.ts';

/** What the parent may ask for, and what each of it answers. */
export interface Commands {
  /** Opens connections, in place of those that were there. */
  connect: {
    request: { socket: string; connections: number; variant: Variant; node: NodeSize };
    answer: undefined;
  };
  /** Opens streams, one every so often or all at once, and waits until all have all their secrets, or the deadline. */
  open: {
    request: { streams: number; everyMs: number; delayMs: number; deadlineMs: number };
    answer: Opened;
  };
  /** Forgets what has come so far. */
  mark: { request: undefined; answer: undefined };
  /** Waits until every stream has one response since the mark. */
  pushed: { request: { deadlineMs: number }; answer: Pushed };
}

/** Times of day are of a clock that all processes of the machine share. */
export interface Opened {
  readonly startedAtMs: number;
  readonly lastAtMs: number;
  /** From opening a stream to its first secret, of each stream. */
  readonly firstMs: readonly number[];
  /** To the last secret that it asked for. */
  readonly allMs: readonly number[];
  readonly clientCpuSeconds: number;
}

export interface Pushed {
  /** When the first response since the mark came on each stream that had one. */
  readonly atMs: readonly number[];
  readonly clientCpuSeconds: number;
}

/** One stream. */
interface Proxy {
  readonly openedAtMs: number;
  firstAtMs: number;
  allAtMs: number;
  responses: number;
  markedAtMs: number;
  isOpen: boolean;
}

let clients: readonly Http2Client[] = [];
let variant: Variant = 'sotw';
let first: Buffer = Buffer.alloc(0);
let proxies: Proxy[] = [];
let onProgress: () => void = () => undefined;

function openStream(client: Http2Client): void {
  const openedAtMs = nowMs();
  const proxy = { openedAtMs, firstAtMs: 0, allAtMs: 0, responses: 0, markedAtMs: 0, isOpen: true };
  proxies.push(proxy);
  const stream = client.open({
    message: (bytes, atMs) => {
      client.send(stream, acknowledgement(variant, bytes));
      note(proxy, atMs);
    },
    end: () => {
      proxy.isOpen = false;
      onProgress();
    },
  });
  client.send(stream, first);
}

function note(proxy: Proxy, atMs: number): void {
  proxy.responses += 1;
  if (proxy.responses === 1) proxy.firstAtMs = atMs;
  if (proxy.responses === names.length) proxy.allAtMs = atMs;
  if (proxy.markedAtMs === 0) proxy.markedAtMs = atMs;
  onProgress();
}

/** Resolves when `count` streams that are open are `done`, or at the deadline. */
async function until(count: number, done: (proxy: Proxy) => boolean, deadlineMs: number): Promise<void> {
  const isReached = () => proxies.filter((proxy) => !proxy.isOpen || done(proxy)).length >= count;
  const late = new AbortController();
  await Promise.race([
    new Promise<void>((resolve) => {
      // Looked at once a turn, and only when something came: it goes through all streams.
      let isScheduled = false;
      onProgress = () => {
        if (isScheduled) return;
        isScheduled = true;
        setTimeout(() => {
          isScheduled = false;
          if (isReached()) resolve();
        }, 5);
      };
      onProgress();
    }),
    sleep(deadlineMs, undefined, { signal: late.signal }).catch(() => undefined),
  ]);
  late.abort();
  onProgress = () => undefined;
}

const actions: {
  [Name in keyof Commands]: (request: Commands[Name]['request']) => Promise<Commands[Name]['answer']>;
} = {
  async connect(request) {
    for (const client of clients) client.close();
    proxies = [];
    variant = request.variant;
    first = firstRequest(variant, request.node);
    const connecting = Array.from({ length: request.connections }, () =>
      Http2Client.connect(request.socket, methodOf(variant)),
    );
    clients = await Promise.all(connecting);
    return undefined;
  },

  async open({ streams, everyMs, delayMs, deadlineMs }) {
    const cpu = process.cpuUsage();
    const before = proxies.length;
    await sleep(delayMs);
    const startedAtMs = nowMs();
    for (let opened = 0; opened < streams; opened += 1) {
      const earlyMs = startedAtMs + opened * everyMs - nowMs();
      if (earlyMs > 0) await sleep(earlyMs);
      const client = clients[opened % clients.length];
      if (client !== undefined) openStream(client);
    }
    await until(proxies.length, ({ allAtMs }) => allAtMs > 0, deadlineMs);
    const answered = proxies.slice(before).filter(({ allAtMs }) => allAtMs > 0);
    return {
      startedAtMs,
      lastAtMs: answered.reduce((last, { allAtMs }) => Math.max(last, allAtMs), 0),
      firstMs: answered.map(({ firstAtMs, openedAtMs }) => firstAtMs - openedAtMs),
      allMs: answered.map(({ allAtMs, openedAtMs }) => allAtMs - openedAtMs),
      clientCpuSeconds: secondsOf(process.cpuUsage(cpu)),
    };
  },

  mark() {
    for (const proxy of proxies) proxy.markedAtMs = 0;
    cpuAtMark = process.cpuUsage();
    return Promise.resolve(undefined);
  },

  async pushed({ deadlineMs }) {
    await until(proxies.length, ({ markedAtMs }) => markedAtMs > 0, deadlineMs);
    return {
      atMs: proxies.map(({ markedAtMs }) => markedAtMs).filter((atMs) => atMs > 0),
      clientCpuSeconds: secondsOf(process.cpuUsage(cpuAtMark)),
    };
  },
};

let cpuAtMark = process.cpuUsage();

function secondsOf({ user, system }: NodeJS.CpuUsage): number {
  return (user + system) / 1e6;
}

process.on('message', async ({ name, request }: { name: keyof Commands; request: never }) => {
  const answer = await actions[name](request);
  process.send?.({ answer });
});
// An answer that is not sent would be waited for without end.
process.on('unhandledRejection', (error) => {
  throw error;
});
