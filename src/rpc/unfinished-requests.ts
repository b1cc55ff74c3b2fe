import type { Socket } from 'node:net';
import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js';
import type { Clock } from '../runtime/time.ts';

const lookEveryMs = 200;
/** An honest caller sends its request at once; in a storm of large ones, on a busy machine, that takes seconds. */
const patienceMs = 10_000;
/** What a call that waits for its request costs besides the bytes that have come for it. */
const callBytes = 512;

/** How much may be held of one group: of requests that have been coming for too long, and of all. */
export interface UnfinishedLimits {
  readonly lateBytes: number;
  readonly bytes: number;
}

/** A call whose request is not complete, and what its connection had received before it began. */
interface Waiting {
  readonly sinceMs: number;
  readonly bytesBefore: number;
}

interface Source {
  readonly socket: Socket;
  readonly group: string;
  /** The oldest first. */
  readonly calls: Set<Waiting>;
  /** What the connection had received when the last time began in which some call has always been waiting. */
  bytesBefore: number;
  /** Of what came since then, requests that were completed. */
  completedBytes: number;
}

/**
 * Bounds what is held of requests that are not complete, by group, such as all connections of one user. grpc-js keeps
 * them as the frames they came in (one byte may cost it 150), for as long as their caller likes and before anybody may
 * ask who that is. When a group has too much of it, the connection that has most is dropped.
 */
export class UnfinishedRequests {
  readonly #limits: UnfinishedLimits;
  readonly #deps: { readonly clock: Clock; readonly signal: AbortSignal; readonly onDrop: () => void };
  readonly #sources = new Map<string, Source>();
  readonly #waiting = new Set<Source>();
  #isWatching = false;

  /** `onDrop` is called for each connection that was dropped; `signal` ends the watch. */
  constructor(
    limits: UnfinishedLimits,
    deps: { readonly clock: Clock; readonly signal: AbortSignal; readonly onDrop: () => void },
  ) {
    this.#limits = limits;
    this.#deps = deps;
  }

  /** Counts the connection, which its calls know by its remote address, until it closes. */
  add(socket: Socket, group: string): void {
    const source = { socket, group, calls: new Set<Waiting>(), bytesBefore: 0, completedBytes: 0 };
    const peer = socket.remoteAddress ?? '';
    this.#sources.set(peer, source);
    socket.once('close', () => {
      this.#sources.delete(peer);
      this.#waiting.delete(source);
    });
  }

  /** To be put before the handlers: sees calls begin, and their first message come. */
  readonly interceptor: ServerInterceptor = (_method, call) => {
    const end = this.begin(call.getPeer());
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMessage: (message, pass) => {
            end(bytesOnTheWire(call, message));
            pass(message);
          },
          onCancel: end,
        }),
      sendStatus: (status, pass) => {
        end();
        pass(status);
      },
    });
  };

  /**
   * A call has begun on the connection; to be told by what is returned that its request is complete, with the bytes
   * it took if they are known, or the call over. Only the first time counts.
   */
  begin(peer: string): (completedBytes?: number) => void {
    const source = this.#sources.get(peer);
    if (source === undefined) return () => undefined;
    const bytesBefore = source.socket.bytesRead;
    if (source.calls.size === 0) Object.assign(source, { bytesBefore, completedBytes: 0 });
    const call = { sinceMs: this.#deps.clock.monotonic(), bytesBefore };
    source.calls.add(call);
    this.#waiting.add(source);
    if (!this.#isWatching) void this.#watch();
    let isWaiting = true;
    return (completedBytes = 0) => {
      if (!isWaiting) return;
      isWaiting = false;
      source.completedBytes += completedBytes;
      source.calls.delete(call);
      if (source.calls.size === 0) this.#waiting.delete(source);
    };
  }

  async #watch(): Promise<void> {
    const { clock, signal } = this.#deps;
    this.#isWatching = true;
    while (this.#waiting.size > 0 && !signal.aborted) {
      await clock.sleep(lookEveryMs, signal);
      for (const sources of Map.groupBy(this.#waiting, ({ group }) => group).values()) this.#look(sources);
    }
    this.#isWatching = false;
  }

  #look(sources: readonly Source[]): void {
    const { lateBytes, bytes } = this.#limits;
    const late = this.#deps.clock.monotonic() - patienceMs;
    this.#enforce(
      sources.filter(({ calls }) => (oldestOf(calls)?.sinceMs ?? Number.POSITIVE_INFINITY) <= late),
      lateBytes,
    );
    this.#enforce(sources, bytes);
  }

  #enforce(sources: readonly Source[], maxBytes: number): void {
    const held = sources
      .filter(({ socket }) => !socket.destroyed)
      .map((source) => ({ source, bytes: bytesHeldFor(source) }));
    let together = held.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { source, bytes } of held.sort((a, b) => b.bytes - a.bytes)) {
      if (together <= maxBytes) return;
      together -= bytes;
      this.#waiting.delete(source);
      this.#deps.onDrop();
      source.socket.destroy();
    }
  }
}

function oldestOf(calls: ReadonlySet<Waiting>): Waiting | undefined {
  const [oldest] = calls;
  return oldest;
}

/**
 * At most this much: what came since the oldest of them began may be for other calls as well, and so may what came
 * since any was waiting. The second matters when a client opens many calls and then sends one request after the other.
 */
function bytesHeldFor({ socket, calls, bytesBefore, completedBytes }: Source): number {
  const { bytesRead } = socket;
  const sinceOldest = bytesRead - (oldestOf(calls)?.bytesBefore ?? bytesRead);
  return Math.min(sinceOldest, bytesRead - bytesBefore - completedBytes) + calls.size * callBytes;
}

/**
 * The length of a message that is handed over as it came; 0, which is always safe to say, for others. A compressed
 * one must not count for more than was received, and only grpc-js's own call knows whether it was.
 */
function bytesOnTheWire(call: object, message: unknown): number {
  const { incomingEncoding } = call as { readonly incomingEncoding?: unknown };
  return incomingEncoding === 'identity' && message instanceof Uint8Array ? message.length : 0;
}
