/**
 * Shares the event loop among calls that compute: at most `perRound` pieces of work run between two rounds of it, in
 * the order in which they asked, however many calls have however many pieces. A piece should take less than 1 ms.
 */
export class Turns {
  readonly #perRound: number;
  readonly #waiting: (() => void)[] = [];
  #left: number;
  #isRoundPlanned = false;

  constructor(perRound: number) {
    this.#perRound = perRound;
    this.#left = perRound;
  }

  /** Resolves when one piece may run; what it does before it waits again counts as that piece. */
  next(): Promise<void> {
    this.#planRound();
    if (this.#left > 0) {
      this.#left -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #planRound(): void {
    if (this.#isRoundPlanned) return;
    this.#isRoundPlanned = true;
    setImmediate(() => {
      this.#isRoundPlanned = false;
      const due = this.#waiting.splice(0, this.#perRound);
      this.#left = this.#perRound - due.length;
      if (this.#waiting.length > 0) this.#planRound();
      for (const run of due) run();
    });
  }
}
