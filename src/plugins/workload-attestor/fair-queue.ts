import { AppError } from '../../runtime/error.ts';

/** How many may work and wait, in all and of one user. */
export interface FairQueueLimits {
  readonly running: number;
  readonly runningPerUid: number;
  readonly waiting: number;
  readonly waitingPerUid: number;
}

interface Line {
  running: number;
  readonly waiting: (() => void)[];
}

/** Gives places to work, to users in turn: however much one wants done, another waits for a turn of each at most. */
export class FairQueue {
  readonly #limits: FairQueueLimits;
  /** In the order of their turns. */
  readonly #lines = new Map<number, Line>();
  #running = 0;
  #waiting = 0;

  constructor(limits: FairQueueLimits) {
    this.#limits = limits;
  }

  /**
   * Resolves when it is the user's turn, to a function that gives the place back, to be called once. Throws
   * `resource-exhausted` when too many wait.
   */
  async enter(uid: number): Promise<() => void> {
    const line = this.#lines.get(uid) ?? { running: 0, waiting: [] };
    // A free place is given away at once, so nobody waits whom this could overtake.
    const isFree = this.#hasPlaceFor(line);
    if (!isFree) this.#checkRoom(uid, line);
    this.#lines.set(uid, line);
    if (isFree) this.#take(line);
    else await this.#turn(line);
    return () => this.#leave(uid, line);
  }

  #checkRoom(uid: number, line: Line): void {
    const { waiting, waitingPerUid } = this.#limits;
    if (line.waiting.length < waitingPerUid && this.#waiting < waiting) return;
    throw new AppError('resource-exhausted', `too many programs of uid ${uid} wait to be hashed; try again`);
  }

  #turn(line: Line): Promise<void> {
    this.#waiting += 1;
    return new Promise((resolve) => line.waiting.push(resolve));
  }

  #hasPlaceFor(line: Line): boolean {
    return this.#running < this.#limits.running && line.running < this.#limits.runningPerUid;
  }

  #take(line: Line): void {
    this.#running += 1;
    line.running += 1;
  }

  #leave(uid: number, line: Line): void {
    this.#running -= 1;
    line.running -= 1;
    // The user's next turn comes after those of all others.
    this.#lines.delete(uid);
    if (line.running > 0 || line.waiting.length > 0) this.#lines.set(uid, line);
    const next = [...this.#lines.values()].find((l) => l.waiting.length > 0 && this.#hasPlaceFor(l));
    if (next === undefined) return;
    this.#waiting -= 1;
    this.#take(next);
    next.waiting.shift()?.();
  }
}
