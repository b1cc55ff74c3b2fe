import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { AppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { Caller, Connection } from './caller.ts';

/** At most one line in this time, whoever knocks however often. */
const refusalLogEveryMs = 10_000;

/** Logs refused connections, a few of many: anybody could fill the disk with them. */
export class RefusalLog {
  readonly #deps: { readonly clock: Clock; readonly log: Logger };
  #refused = 0;
  #loggedAt = Number.NEGATIVE_INFINITY;

  constructor(deps: { readonly clock: Clock; readonly log: Logger }) {
    this.#deps = deps;
  }

  /** `why` is the fixed text of the line. */
  note(fields: object, why: string): void {
    this.#refused += 1;
    const now = this.#deps.clock.monotonic();
    if (now - this.#loggedAt < refusalLogEveryMs) return;
    this.#loggedAt = now;
    this.#deps.log.warn({ ...fields, refused: this.#refused }, `connection refused: ${why}`);
    this.#refused = 0;
  }
}

interface Entry {
  readonly socket: Socket;
  readonly caller: Caller;
  /** Connections with the same group are counted together. */
  readonly group: number | undefined;
}

/**
 * The open connections of a listener. grpc-js gives a call no way back to its connection but the remote address;
 * so each connection gets a token in its place that nobody can guess, and the call is found by it.
 */
export class ConnectionTable {
  readonly #refusals: RefusalLog;
  readonly #limits: { readonly total: number; readonly perGroup: number };
  readonly #byToken = new Map<string, Entry>();
  readonly #inGroup = new Map<number, number>();
  #onEmpty: () => void = () => undefined;

  /** Limits of 0 do not limit. */
  constructor(refusals: RefusalLog, limits: { readonly total: number; readonly perGroup: number }) {
    this.#refusals = refusals;
    this.#limits = limits;
  }

  get size(): number {
    return this.#byToken.size;
  }

  /** Whether one more fits; when not, it is counted and logged now and then. */
  admits(group?: number): boolean {
    const { total, perGroup } = this.#limits;
    const isFull = total > 0 && this.#byToken.size >= total;
    const inGroup = group === undefined ? 0 : (this.#inGroup.get(group) ?? 0);
    if (!isFull && (perGroup === 0 || inGroup < perGroup)) return true;
    this.#refusals.note(
      isFull ? { limit: total } : { limit: perGroup, uid: group },
      'too many connections are open',
    );
    return false;
  }

  /** Puts the connection into the table until it closes; `onClose` is called then. */
  add(
    socket: Socket,
    options: {
      readonly callerOf: (connection: Connection) => Caller;
      readonly group?: number;
      readonly onClose?: () => void;
    },
  ): void {
    const closed = new AbortController();
    const token = randomUUID();
    const { group } = options;
    const caller = options.callerOf({ closed: closed.signal });
    Object.defineProperties(socket, { remoteAddress: { value: token }, remotePort: { value: undefined } });
    this.#byToken.set(token, { socket, caller, group });
    if (group !== undefined) this.#inGroup.set(group, (this.#inGroup.get(group) ?? 0) + 1);
    socket.once('close', () => {
      this.#remove(token);
      closed.abort();
      options.onClose?.();
    });
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

  #remove(token: string): void {
    const group = this.#byToken.get(token)?.group;
    this.#byToken.delete(token);
    if (group !== undefined) {
      const left = (this.#inGroup.get(group) ?? 0) - 1;
      if (left > 0) this.#inGroup.set(group, left);
      else this.#inGroup.delete(group);
    }
    if (this.#byToken.size === 0) this.#onEmpty();
  }
}
