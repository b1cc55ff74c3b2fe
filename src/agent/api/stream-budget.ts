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
  readonly #spent = new Map<number, { streams: number; nameBytes: number }>();

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
    const spent = this.#spent.get(uid) ?? { streams: 0, nameBytes: 0 };
    if (streams > 0 && spent.streams >= streams) {
      throw new AppError(
        'resource-exhausted',
        `uid ${uid} has ${spent.streams} streams open; at most ${streams} are allowed (limits.streamsPerUid)`,
      );
    }
    spent.streams += 1;
    this.#spent.set(uid, spent);
    let held = 0;
    let isOpen = true;
    return {
      holdNames: (bytes) => {
        if (!isOpen) return;
        this.#checkNames(uid, spent.nameBytes - held + bytes, bytes > held);
        spent.nameBytes += bytes - held;
        held = bytes;
      },
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        spent.streams -= 1;
        spent.nameBytes -= held;
        if (spent.streams === 0) this.#spent.delete(uid);
      },
    };
  }

  #checkNames(uid: number, total: number, isMore: boolean): void {
    const { nameBytes } = this.#limits;
    if (!isMore || total <= nameBytes) return;
    throw new AppError(
      'resource-exhausted',
      `the streams of uid ${uid} name secrets of ${total} bytes; at most ${nameBytes} are allowed`,
    );
  }
}
