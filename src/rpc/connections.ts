import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { AppError } from '../runtime/error.ts';
import type { LogLimiter } from '../runtime/log-limiter.ts';
import type { Clock } from '../runtime/time.ts';
import type { Caller, Connection } from './caller.ts';
import { keepaliveMs } from './session-server.ts';

/** Two sweeps in a row without a byte make two and a half keepalive periods: a live peer has answered by then. */
const sweepEveryMs = 1.25 * keepaliveMs;
const silentSweeps = 2;

/** Connections that are counted together. */
export interface ConnectionGroup {
  readonly name: string;
  /** 0 = no limit. */
  readonly limit: number;
  /**
   * At the group's limit its oldest makes room for the newcomer, which otherwise is refused; at that of all groups
   * together the oldest of the largest, if that is larger than the newcomer's: one who opens many keeps nobody out.
   */
  readonly dropsOldest?: boolean;
}

interface Entry {
  readonly socket: Socket;
  readonly caller: Caller;
  readonly group: ConnectionGroup | undefined;
  bytesRead: number;
  silentSweeps: number;
}

/**
 * The open connections of a listener. grpc-js gives a call no way back to its connection but the remote address;
 * so each connection gets a token in its place that nobody can guess, and the call is found by it.
 */
export class ConnectionTable {
  readonly #refusals: LogLimiter;
  readonly #limit: number;
  readonly #byToken = new Map<string, Entry>();
  /** Tokens, the oldest first. */
  readonly #inGroup = new Map<string, Set<string>>();
  #onEmpty: () => void = () => undefined;

  /** A limit of 0 does not limit. */
  constructor(refusals: LogLimiter, limit: number) {
    this.#refusals = refusals;
    this.#limit = limit;
  }

  get size(): number {
    return this.#byToken.size;
  }

  /** Whether one more fits, if need be in the place of the oldest of its group; when not, it is logged. */
  admits(group?: ConnectionGroup): boolean {
    if (group !== undefined && !this.#hasRoom(group)) {
      const { name, limit, dropsOldest = false } = group;
      const what = dropsOldest ? 'connection closed to make room' : 'connection refused';
      this.#refusals.write('warn', { limit, group: name }, `${what}: too many connections are open`);
      if (!dropsOldest) return false;
      this.#dropOldest(name);
    }
    if (this.#limit === 0 || this.#byToken.size < this.#limit) return true;
    const largest = group?.dropsOldest === true ? this.#largerGroupThan(group.name) : undefined;
    const what = largest === undefined ? 'connection refused' : 'connection closed to make room';
    const fields = { limit: this.#limit, ...(largest === undefined ? {} : { group: largest }) };
    this.#refusals.write('warn', fields, `${what}: too many connections are open`);
    if (largest === undefined) return false;
    this.#dropOldest(largest);
    return true;
  }

  /** Puts the connection into the table until it closes; `onClose` is called then. Returns who is at the other end. */
  add(
    socket: Socket,
    options: {
      readonly callerOf: (connection: Connection) => Caller;
      readonly group?: ConnectionGroup;
      readonly onClose?: () => void;
    },
  ): Caller {
    const closed = new AbortController();
    const token = randomUUID();
    const { group } = options;
    const caller = options.callerOf({ closed: closed.signal });
    Object.defineProperties(socket, { remoteAddress: { value: token }, remotePort: { value: undefined } });
    this.#byToken.set(token, { socket, caller, group, bytesRead: 0, silentSweeps: 0 });
    if (group !== undefined) {
      const members = this.#inGroup.get(group.name) ?? new Set();
      this.#inGroup.set(group.name, members.add(token));
    }
    socket.once('close', () => {
      this.#remove(token);
      closed.abort();
      options.onClose?.();
    });
    return caller;
  }

  /** Who is at the other end; throws `cancelled` when the connection is gone, `permission-denied` when the process is. */
  callerOf(token: string): Caller {
    const caller = this.#byToken.get(token)?.caller;
    if (caller === undefined) throw new AppError('cancelled', 'the connection is gone');
    // Another process may have inherited the descriptor, but it is not the one that was identified.
    if (caller.kind === 'process' && !caller.peer.isAlive()) {
      throw new AppError('permission-denied', 'the process that opened this connection has exited');
    }
    return caller;
  }

  /** Resolves when no connection is open. */
  async empty(): Promise<void> {
    while (this.#byToken.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    }
  }

  destroyAll(): void {
    for (const { socket } of [...this.#byToken.values()]) socket.destroy();
  }

  /**
   * Until `signal` aborts: destroys connections on which nothing has come for two and a half keepalive periods. When
   * a TLS connection breaks off at the wrong moment, Node's http2 waits for ever for a write that never ends, and
   * keeps the socket. (Sweeps are counted, not time: after a pause of the whole process all would look silent.)
   */
  async sweep(clock: Clock, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await clock.sleep(sweepEveryMs, signal);
      if (signal.aborted) return;
      for (const entry of [...this.#byToken.values()]) {
        const { bytesRead } = entry.socket;
        entry.silentSweeps = bytesRead === entry.bytesRead ? entry.silentSweeps + 1 : 0;
        entry.bytesRead = bytesRead;
        if (entry.silentSweeps >= silentSweeps) entry.socket.destroy();
      }
    }
  }

  #hasRoom({ name, limit }: ConnectionGroup): boolean {
    return limit === 0 || (this.#inGroup.get(name)?.size ?? 0) < limit;
  }

  /** The largest group; undefined when none has two connections, or more than this one. */
  #largerGroupThan(name: string): string | undefined {
    let size = Math.max(1, this.#inGroup.get(name)?.size ?? 0);
    let largest: string | undefined;
    for (const [other, members] of this.#inGroup) {
      if (members.size <= size) continue;
      size = members.size;
      largest = other;
    }
    return largest;
  }

  #dropOldest(group: string): void {
    const [token] = this.#inGroup.get(group) ?? [];
    if (token === undefined) return;
    const socket = this.#byToken.get(token)?.socket;
    // Its close comes later, and until then it would be the oldest still.
    this.#remove(token);
    socket?.destroy();
  }

  #remove(token: string): void {
    const entry = this.#byToken.get(token);
    if (entry === undefined) return;
    this.#byToken.delete(token);
    if (entry.group !== undefined) {
      const members = this.#inGroup.get(entry.group.name);
      members?.delete(token);
      if (members?.size === 0) this.#inGroup.delete(entry.group.name);
    }
    if (this.#byToken.size === 0) this.#onEmpty();
  }
}
