import type { SdsSession } from './sds-session.ts';
import type { Reception } from './sotw-requests.ts';

/** The parts of a DeltaDiscoveryRequest that steer a stream. */
export interface DeltaRequest {
  readonly subscribe: readonly string[];
  readonly unsubscribe: readonly string[];
  readonly nonce: string;
  /** The text of `error_detail`: the one mark of a NACK. */
  readonly error: string | undefined;
}

/**
 * Delta: each request carries what is asked for from now on and what no more (envoy-sds.md §1.5). What the client says
 * it has (`initial_resource_versions`) is not looked at: it may be a version that it refused first, and a provider that
 * is new to it waits for an answer all the same (envoy#47309).
 */
export class DeltaRequests {
  readonly #session: SdsSession;
  #isStarted = false;

  constructor(session: SdsSession) {
    this.#session = session;
  }

  /** Every name that is subscribed is answered, be it the second time. Throws as `SotwRequests.receive`. */
  receive({ subscribe, unsubscribe, nonce: text, error }: DeltaRequest): Reception {
    const isFirst = !this.#isStarted;
    const isForAll = isFirst && subscribe.length + unsubscribe.length === 0;
    this.#session.unsubscribe(unsubscribe);
    this.#session.subscribe(subscribe);
    if (isForAll) this.#session.followAll();
    this.#isStarted = true;
    const nonce = isFirst ? undefined : this.#session.sentNonce(text);
    const answer = nonce === undefined ? undefined : this.#session.settle(nonce, error);
    return { answer, isSubscriptionChanged: isForAll || subscribe.length + unsubscribe.length > 0 };
  }
}
