import type { SdsAnswer, SdsSession } from './sds-session.ts';

/**
 * The parts of a DiscoveryRequest that steer a stream. `version_info` is none of them: it survives reconnects and
 * may be anything on a first request, and a NACK carries the previous one.
 */
export interface SotwRequest {
  readonly names: readonly string[];
  readonly nonce: string;
  /** The text of `error_detail`: the one mark of a NACK. */
  readonly error: string | undefined;
}

/** What a request has changed. */
export interface Reception {
  /** The client's word on a response, if it is the first one. */
  readonly answer: SdsAnswer | undefined;
  readonly isSubscriptionChanged: boolean;
}

const nothing: Reception = { answer: undefined, isSubscriptionChanged: false };

/** State-of-the-World: each request carries the whole list of names (envoy-sds.md §1.4). */
export class SotwRequests {
  readonly #session: SdsSession;
  #isStarted = false;
  /** Until the stream names something an empty list means everything, later it means nothing. */
  #hasNamed = false;
  /** A client that repeats it, or one before it, once more gets nothing: it might do so without end. */
  #lastRepeatedNonce = 0;

  constructor(session: SdsSession) {
    this.#session = session;
  }

  /**
   * Takes a request in: the subscription becomes its list of names. Throws AppError `resource-exhausted` or
   * `invalid-argument` beyond the limits. A later request with a nonce that this stream never sent is ignored; what
   * the first one has in it is left from an earlier stream.
   */
  receive({ names, nonce: text, error }: SotwRequest): Reception {
    const isFirst = !this.#isStarted;
    const nonce = isFirst || text === '' ? 0 : this.#session.sentNonce(text);
    if (nonce === undefined) return nothing;
    this.#hasNamed ||= names.some((name) => name !== '');
    const isSubscriptionChanged = this.#hasNamed
      ? this.#session.subscribeOnly(names)
      : this.#session.followAll();
    this.#isStarted = true;
    const answer = this.#session.settle(nonce, error);
    if (answer === undefined && error === undefined && !isSubscriptionChanged) this.#repeat(nonce);
    return { answer, isSubscriptionChanged };
  }

  /**
   * A nonce that was answered before, with the same names, asks for all of them again: Envoy has made another provider
   * for them and waits for an answer (envoy#47309).
   */
  #repeat(nonce: number): void {
    if (nonce <= Math.max(this.#session.lastForgottenNonce, this.#lastRepeatedNonce)) return;
    this.#lastRepeatedNonce = nonce;
    this.#session.askAgain();
  }
}
