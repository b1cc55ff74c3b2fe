import { AppError } from '../../runtime/error.ts';

/** What all streams of one user may take together, on however many connections. */
export interface StreamBudgetLimits {
  /** 0 = no limit. */
  readonly streams: number;
  /** Of secret names that streams hold, in bytes. */
  readonly nameBytes: number;
}

export const defaultStreamBudget: StreamBudgetLimits = { streams: 10_000, nameBytes: 32 * 1024 * 1024 };

/** One stream's share; given back by `close`. */
export interface StreamLease {
  /** Replaces what the stream holds. Throws `resource-exhausted`, and keeps the share, when it is too much. */
  holdNames(bytes: number): void;
  /** A second call does nothing. */
  close(): void;
}

/**
 * Keeps one user's processes from filling the agent's memory, which all others need: a stream costs its process
 * little and the agent some, and Envoy may name thousands of secrets on each.
 */
export class StreamBudget {
  readonly #limits: StreamBudgetLimits;
  readonly #spent = new Map<number, Spent>();

  constructor(limits: StreamBudgetLimits) {
    this.#limits = limits;
  }

  /** How many users have streams open. */
  get users(): number {
    return this.#spent.size;
  }

  /** Throws `resource-exhausted` when the user has too many streams open. */
  open(uid: number): StreamLease {
    const { streams } = this.#limits;
    const spent = this.#spent.get(uid) ?? this.#newSpent(uid);
    if (streams > 0 && spent.streams >= streams) {
      throw new AppError(
        'resource-exhausted',
        `uid ${uid} has ${spent.streams} streams open; at most ${streams} are allowed (limits.streamsPerUid)`,
      );
    }
    spent.streams += 1;
    this.#spent.set(uid, spent);
    return new Lease(spent);
  }

  #newSpent(uid: number): Spent {
    const maxNameBytes = this.#limits.nameBytes;
    return { uid, maxNameBytes, streams: 0, nameBytes: 0, forget: () => this.#spent.delete(uid) };
  }
}

/** What one user's streams take together. */
interface Spent {
  readonly uid: number;
  readonly maxNameBytes: number;
  streams: number;
  nameBytes: number;
  readonly forget: () => void;
}

/** A class, not closures: there may be thousands. */
class Lease implements StreamLease {
  readonly #spent: Spent;
  #held = 0;
  #isOpen = true;

  constructor(spent: Spent) {
    this.#spent = spent;
  }

  holdNames(bytes: number): void {
    if (!this.#isOpen) return;
    const { uid, nameBytes, maxNameBytes } = this.#spent;
    const total = nameBytes - this.#held + bytes;
    if (bytes > this.#held && total > maxNameBytes) {
      throw new AppError(
        'resource-exhausted',
        `the streams of uid ${uid} name secrets of ${total} bytes; at most ${maxNameBytes} are allowed`,
      );
    }
    this.#spent.nameBytes = total;
    this.#held = bytes;
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#spent.streams -= 1;
    this.#spent.nameBytes -= this.#held;
    if (this.#spent.streams === 0) this.#spent.forget();
  }
}
