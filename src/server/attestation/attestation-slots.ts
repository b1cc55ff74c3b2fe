import { AppError } from '../../runtime/error.ts';

/** An attestation takes a moment; spread, so that those who are refused do not come back together. */
const retryMs = { least: 250, spread: 750 };

/** The place of one attestation; both steps may be repeated. */
export interface AttestationSlot {
  /** Gives the place up: at the end, and while the agent is to answer, who may take its time. */
  leave(): void;
  /** Takes it again, however many there are by now: what was asked is answered. */
  reenter(): void;
}

/** Bounds how many attestations the server works on at the same time. One that waits for its agent does not count. */
export class AttestationSlots {
  readonly #limit: number;
  #taken = 0;

  /** 0 = no limit. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Throws `resource-exhausted` with the time after which to try again. */
  enter(): AttestationSlot {
    if (this.#limit > 0 && this.#taken >= this.#limit) {
      const retryAfterMs = Math.ceil(retryMs.least + Math.random() * retryMs.spread);
      throw new AppError(
        'resource-exhausted',
        `${this.#limit} agents are being attested now, as many as may be (limits.attestation.concurrent); try again in ${(retryAfterMs / 1000).toFixed(1)} s`,
        { retryAfterMs },
      );
    }
    let isIn = false;
    const move = (isGoingIn: boolean) => () => {
      if (isIn === isGoingIn) return;
      isIn = isGoingIn;
      this.#taken += isGoingIn ? 1 : -1;
    };
    const slot = { leave: move(false), reenter: move(true) };
    slot.reenter();
    return slot;
  }
}
