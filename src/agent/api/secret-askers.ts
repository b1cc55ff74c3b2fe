import type { DeliveryStream } from './delivery-stream.ts';
import type { Offer } from './offer.ts';

/** A stream that asks for the name, or did so when it was sent what it has not answered. */
interface Asker {
  isSubscribed: boolean;
  /** The version that it was sent last, once it has acknowledged that. */
  acknowledged: string | undefined;
  /** Oldest first. */
  readonly unanswered: Offer[];
  /** Versions sent before these, whose answers may still come and mean nothing any more. Oldest first. */
  forgotten: readonly string[];
  waitingSinceMs: number;
  isStalled: boolean;
}

/** A client that answers none gets no further than this with one name. */
const maxUnanswered = 4;
const maxForgotten = 16;
const none: readonly string[] = [];

/** The streams of a proxy that ask for one name: what each was sent and has not answered. Counts are kept, so that they cost nothing. */
export class SecretAskers {
  readonly #askers = new Map<DeliveryStream, Asker>();
  readonly #changed: () => void;
  /** The version that all who ask for it are to have. */
  #due: string | undefined;
  #subscribed = 0;
  #unanswered = 0;
  #open = 0;
  #awaited = 0;
  #stalled = 0;

  /** `changed` is called when one of the counts may be another. */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get size(): number {
    return this.#askers.size;
  }

  /** How many ask for it. */
  get subscribed(): number {
    return this.#subscribed;
  }

  /** How many have not answered something. */
  get unanswered(): number {
    return this.#unanswered;
  }

  /** How many have not acknowledged what is due to them, or not answered something. */
  get open(): number {
    return this.#open;
  }

  /** The same, without those that have stopped answering. */
  get awaited(): number {
    return this.#awaited;
  }

  get stalled(): number {
    return this.#stalled;
  }

  /** Those who ask for it. */
  *streams(): Generator<DeliveryStream> {
    for (const [stream, { isSubscribed }] of this.#askers) if (isSubscribed) yield stream;
  }

  /** True when it is open on one of these connections. */
  isOpenOn(connections: ReadonlySet<DeliveryStream['connection']>): boolean {
    if (this.#open === 0) return false;
    for (const [stream, asker] of this.#askers) {
      if (connections.has(stream.connection) && this.#isOpenFor(asker)) return true;
    }
    return false;
  }

  /** From now on this version is due. */
  setDue(version: string | undefined): void {
    if (version === this.#due) return;
    this.#due = version;
    [this.#subscribed, this.#unanswered, this.#open, this.#awaited, this.#stalled] = [0, 0, 0, 0, 0];
    for (const asker of this.#askers.values()) this.#tally(asker, 1);
    this.#changed();
  }

  subscribe(stream: DeliveryStream): void {
    const asker = this.#askers.get(stream);
    if (asker !== undefined) {
      this.#change(asker, () => {
        asker.isSubscribed = true;
      });
      return;
    }
    const state = { acknowledged: undefined, unanswered: [], forgotten: none, waitingSinceMs: 0 };
    const added: Asker = { isSubscribed: true, isStalled: false, ...state };
    this.#askers.set(stream, added);
    this.#tally(added, 1);
    this.#changed();
  }

  unsubscribe(stream: DeliveryStream): void {
    const asker = this.#askers.get(stream);
    if (asker === undefined) return;
    this.#change(asker, () => {
      asker.isSubscribed = false;
    });
    if (asker.unanswered.length === 0) this.#askers.delete(stream);
  }

  /** Returns the oldest that it was sent without an answer, if its answer would not be known any more. */
  sent(stream: DeliveryStream, offer: Offer, monotonicMs: number): Offer | undefined {
    const asker = this.#askers.get(stream);
    if (asker === undefined) return undefined;
    this.#change(asker, () => {
      if (asker.unanswered.length === 0) asker.waitingSinceMs = monotonicMs;
      asker.unanswered.push(offer);
      asker.acknowledged = undefined;
    });
    const oldest = asker.unanswered.length > maxUnanswered ? asker.unanswered.shift() : undefined;
    if (oldest !== undefined) {
      asker.forgotten = [...asker.forgotten, oldest.secret.version].slice(-maxForgotten);
    }
    return oldest;
  }

  /** Takes an answer, and with it those that are missing to what was sent before; undefined when it was not sent. */
  answered(
    stream: DeliveryStream,
    { version, isAcknowledged }: { readonly version: string; readonly isAcknowledged: boolean },
  ): Offer | undefined {
    const asker = this.#askers.get(stream);
    if (asker === undefined) return undefined;
    // The same version may have been sent again since: answers come in order, so that this is the one to the first.
    const passed = asker.forgotten.indexOf(version);
    if (passed !== -1) {
      asker.forgotten = asker.forgotten.slice(passed + 1);
      return undefined;
    }
    const index = asker.unanswered.findIndex(({ secret }) => secret.version === version);
    const offer = asker.unanswered[index];
    if (offer === undefined) return undefined;
    asker.forgotten = none;
    this.#change(asker, () => {
      asker.unanswered.splice(0, index + 1);
      asker.isStalled = false;
      if (isAcknowledged && asker.unanswered.length === 0) asker.acknowledged = version;
    });
    if (!asker.isSubscribed && asker.unanswered.length === 0) this.#askers.delete(stream);
    return offer;
  }

  isUnanswered(version: string): boolean {
    for (const { unanswered } of this.#askers.values()) {
      if (unanswered.some(({ secret }) => secret.version === version)) return true;
    }
    return false;
  }

  /** Forgets the stream; returns what it has not answered, and whether it still asked for it. */
  close(stream: DeliveryStream): { readonly unanswered: readonly Offer[]; readonly isSubscribed: boolean } {
    const asker = this.#askers.get(stream);
    if (asker === undefined) return { unanswered: [], isSubscribed: false };
    this.#tally(asker, -1);
    this.#askers.delete(stream);
    this.#changed();
    return asker;
  }

  /** Marks the streams that have been waited for since then, and returns those that were not marked before. */
  stalledSince(monotonicMs: number): readonly DeliveryStream[] {
    const found: DeliveryStream[] = [];
    if (this.#unanswered === 0) return found;
    for (const [stream, asker] of this.#askers) {
      if (asker.isStalled || asker.unanswered.length === 0 || asker.waitingSinceMs > monotonicMs) continue;
      this.#change(asker, () => {
        asker.isStalled = true;
      });
      found.push(stream);
    }
    return found;
  }

  /** Since when the stream has been waited for, monotonic, that was so longest and is not marked. */
  oldestUnansweredMs(): number | undefined {
    if (this.#unanswered === 0) return undefined;
    let oldest: number | undefined;
    for (const { unanswered, isStalled, waitingSinceMs } of this.#askers.values()) {
      if (unanswered.length > 0 && !isStalled) oldest = Math.min(oldest ?? waitingSinceMs, waitingSinceMs);
    }
    return oldest;
  }

  #change(asker: Asker, change: () => void): void {
    this.#tally(asker, -1);
    change();
    this.#tally(asker, 1);
    this.#changed();
  }

  #tally(asker: Asker, by: 1 | -1): void {
    const isOpen = this.#isOpenFor(asker);
    if (asker.isSubscribed) this.#subscribed += by;
    if (asker.unanswered.length > 0) this.#unanswered += by;
    if (isOpen) this.#open += by;
    if (isOpen && !asker.isStalled) this.#awaited += by;
    if (asker.isStalled) this.#stalled += by;
  }

  #isOpenFor({ unanswered, isSubscribed, acknowledged }: Asker): boolean {
    if (unanswered.length > 0) return true;
    return isSubscribed && this.#due !== undefined && this.#due !== acknowledged;
  }
}
