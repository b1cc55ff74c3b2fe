import { AppError } from '../../runtime/error.ts';

/** What one stream may ask for; a request beyond it ends the stream with the reason. */
export interface SdsLimits {
  readonly maxNames: number;
  /** UTF-8 bytes of one name: a SPIFFE ID has up to 2,048, and a suffix such as `?key=ec-p384` may follow. */
  readonly maxNameBytes: number;
  /** UTF-8 bytes of all names together. */
  readonly maxBytesOfNames: number;
}

export const defaultSdsLimits: SdsLimits = {
  maxNames: 1_024,
  maxNameBytes: 2_304,
  maxBytesOfNames: 128 * 1024,
};

/** What session and books need for a name, besides the name itself: a generous guess. */
export const bytesPerName = 1_024;

/** What the stream's proxy is to have right now. All must be cheap: they are asked again at each change. */
export interface SdsWorld {
  /** Undefined while there is nothing to send: the name is held. */
  lookup(name: string): { readonly version: string } | undefined;
  /** True when it is certain that the caller may not have it now. Never a guess: Delta clients drop what is removed. */
  isAbsent(name: string): boolean;
  /** False for a name that nobody will ever be served. Follows from the name alone. */
  canBeServed(name: string): boolean;
  /** Every secret once, under one name, in the order to send them; for a stream that names nothing. */
  allNames(): readonly string[];
}

/** The client's word on one response. */
export interface SdsAnswer {
  readonly kind: 'ack' | 'nack';
  readonly name: string;
  /** Undefined when the response said that there is no such secret. */
  readonly version: string | undefined;
  /** Envoy's text; empty for an ACK. */
  readonly error: string;
}

/** What is due under a name: this version of the secret, or the news that it does not exist (version undefined). */
export interface SdsDue {
  readonly name: string;
  readonly version: string | undefined;
}

/** A response to write now, about this one secret. */
export interface SdsSend extends SdsDue {
  readonly nonce: string;
}

/** How many responses per allowed name may wait for their answer before the oldest is no longer accounted for. */
const unansweredPerName = 4;
/** Stands for a version where the client was told that there is none; no version is empty. */
const absent = '';

/**
 * One stream of secrets as a state machine without I/O or clock, the same for all variants of the protocol:
 * `SotwRequests` and `DeltaRequests` turn their requests into its subscription. Changes of the world go in by
 * `worldChanged`; responses are pulled out with `next` whenever the transport can take one. Nothing is queued: a name
 * is either due or not, and its version is read at the moment it is sent, so that a slow reader holds at most one
 * pending version of each name.
 *
 * Names that do not exist are held: they are sent when they appear, and are never an error. Names that never can are
 * not kept, since anybody may ask for as many as they like.
 */
export class SdsSession {
  readonly #world: SdsWorld;
  readonly #limits: SdsLimits;
  readonly #tellsAbsence: boolean;
  #followsAll = false;
  /** The subscription: name → version last sent for it since it was subscribed. */
  readonly #subscribed = new Map<string, string | undefined>();
  /** Subscribed names that may be due; looked at, in this order, when there is room to send. */
  readonly #toVisit = new Set<string>();
  /** Names that nobody is ever served, to be answered once. */
  readonly #toDeny = new Set<string>();
  /** Nonce → what was sent with it, oldest first. */
  readonly #unanswered = new Map<number, SdsDue>();
  #lastNonce = 0;
  #lastForgottenNonce = 0;

  /** `tellsAbsence`: the protocol can say that a secret does not exist (Delta's `removed_resources`). */
  constructor(
    world: SdsWorld,
    options: { readonly limits?: SdsLimits; readonly tellsAbsence?: boolean } = {},
  ) {
    this.#world = world;
    this.#limits = options.limits ?? defaultSdsLimits;
    this.#tellsAbsence = options.tellsAbsence ?? false;
  }

  /** True while everything is subscribed that the caller may have. */
  get followsAll(): boolean {
    return this.#followsAll;
  }

  /** The oldest nonce whose answer would still be known is the next one. */
  get lastForgottenNonce(): number {
    return this.#lastForgottenNonce;
  }

  /** How many responses the client has not answered yet. */
  get unanswered(): number {
    return this.#unanswered.size;
  }

  /** Makes the subscription exactly these names; returns whether it was another one. Throws beyond the limits. */
  subscribeOnly(asked: Iterable<string>): boolean {
    const names = distinctNames(asked, this.#limits);
    const wasAll = this.#followsAll;
    this.#followsAll = false;
    // What was sent before it was asked for by name is sent again.
    if (wasAll) this.#forget([...this.#subscribed.keys()]);
    const before = this.#subscribed.size;
    this.#forget([...this.#subscribed.keys()].filter((name) => !names.has(name)));
    const kept = this.#subscribed.size;
    for (const name of names) if (!this.#subscribed.has(name)) this.#subscribe(name);
    return wasAll || kept !== before || this.#subscribed.size !== kept;
  }

  /** Adds names, each to be answered even if it was subscribed and sent before. Throws beyond the limits. */
  subscribe(asked: Iterable<string>): void {
    const added = distinctNames(asked, this.#limits);
    distinctNames([...this.#subscribed.keys(), ...this.#toDeny, ...added], this.#limits);
    for (const name of added) this.#subscribe(name);
  }

  /** Forgets these names. */
  unsubscribe(names: Iterable<string>): void {
    this.#forget(names);
  }

  /** Subscribes to everything the caller may have, now and later; returns whether that is more than before. */
  followAll(): boolean {
    this.#followsAll = true;
    return this.#followEverything();
  }

  /** Makes everything subscribed due again, sent or not. */
  askAgain(): void {
    for (const name of this.#subscribed.keys()) this.#subscribe(name);
  }

  /** Makes every secret due again that was sent and answered. */
  repeat(): void {
    const unanswered = new Set([...this.#unanswered.values()].map(({ name }) => name));
    for (const [name, told] of this.#subscribed) {
      if (told !== undefined && told !== absent && !unanswered.has(name)) this.#subscribe(name);
    }
  }

  /** Takes the answer to a response in; undefined when this stream has sent none with that nonce, or it is answered. */
  settle(nonce: number, error: string | undefined): SdsAnswer | undefined {
    const sent = this.#unanswered.get(nonce);
    if (sent === undefined) return undefined;
    this.#unanswered.delete(nonce);
    return { kind: error === undefined ? 'ack' : 'nack', ...sent, error: error ?? '' };
  }

  /** To be called after any change of what the world answers. */
  worldChanged(): void {
    if (this.#followsAll) this.#followEverything();
    for (const name of this.#subscribed.keys()) this.#toVisit.add(name);
  }

  /** What `next` would send now, without sending it. */
  peek(): SdsDue | undefined {
    for (const name of this.#toDeny) return { name, version: undefined };
    for (const name of this.#toVisit) {
      const due = this.#due(name);
      if (due !== undefined) return due;
      this.#toVisit.delete(name);
    }
    return undefined;
  }

  /** The next response to write, counted as sent; undefined when the client has all it asked for. */
  next(): SdsSend | undefined {
    const due = this.peek();
    if (due === undefined) return undefined;
    this.#lastNonce += 1;
    this.#toDeny.delete(due.name);
    this.#toVisit.delete(due.name);
    if (this.#subscribed.has(due.name)) this.#subscribed.set(due.name, due.version ?? absent);
    this.#unanswered.set(this.#lastNonce, due);
    const oldest = oldestBeyond(this.#unanswered, this.#limits.maxNames * unansweredPerName);
    if (oldest !== undefined) {
      this.#unanswered.delete(oldest);
      this.#lastForgottenNonce = oldest;
    }
    return { ...due, nonce: String(this.#lastNonce) };
  }

  /** The nonce as a number; undefined for one that this stream has not sent. */
  sentNonce(text: string): number | undefined {
    if (!/^[1-9][0-9]{0,14}$/.test(text)) return undefined;
    const nonce = Number(text);
    return nonce <= this.#lastNonce ? nonce : undefined;
  }

  /** The subscribed names. */
  names(): readonly string[] {
    return [...this.#subscribed.keys()];
  }

  /** The names asked for that are held, because the world has nothing for them now. */
  held(): readonly string[] {
    return this.names().filter((name) => this.#world.lookup(name) === undefined);
  }

  /** What it takes to hold the names that the client has asked for, in bytes; 0 when it named none. */
  namedBytes(): number {
    if (this.#followsAll) return 0;
    let sum = 0;
    for (const name of this.#subscribed.keys()) sum += Buffer.byteLength(name) + bytesPerName;
    return sum;
  }

  #subscribe(name: string): void {
    if (!this.#world.canBeServed(name)) {
      if (this.#tellsAbsence) this.#toDeny.add(name);
      return;
    }
    this.#subscribed.set(name, undefined);
    this.#toVisit.add(name);
  }

  #forget(names: Iterable<string>): void {
    for (const name of names) {
      this.#subscribed.delete(name);
      this.#toVisit.delete(name);
      this.#toDeny.delete(name);
    }
  }

  /** Adds what the world has now. What vanished stays noted, so that it is not sent again when it comes back. */
  #followEverything(): boolean {
    const names = new Set(this.#world.allNames());
    if (this.#subscribed.size > this.#limits.maxNames) {
      this.#forget(this.held().filter((name) => !names.has(name)));
    }
    const before = this.#subscribed.size;
    for (const name of names) if (!this.#subscribed.has(name)) this.#subscribe(name);
    return this.#subscribed.size !== before;
  }

  #due(name: string): SdsDue | undefined {
    if (!this.#subscribed.has(name)) return undefined;
    const told = this.#subscribed.get(name);
    const version = this.#world.lookup(name)?.version;
    if (version !== undefined) return version === told ? undefined : { name, version };
    const isNews = this.#tellsAbsence && told !== absent && this.#world.isAbsent(name);
    return isNews ? { name, version: undefined } : undefined;
  }
}

/** The names without repetition; empty ones do not count, as in SPIRE. */
function distinctNames(names: Iterable<string>, limits: SdsLimits): ReadonlySet<string> {
  const distinct = new Set(names);
  distinct.delete('');
  if (distinct.size > limits.maxNames) {
    throw new AppError(
      'resource-exhausted',
      `the request names ${distinct.size} secrets; at most ${limits.maxNames} are allowed on one stream`,
    );
  }
  let total = 0;
  for (const name of distinct) {
    const bytes = Buffer.byteLength(name);
    total += bytes;
    if (bytes > limits.maxNameBytes) {
      throw new AppError(
        'invalid-argument',
        `the request has a secret name of ${bytes} bytes; at most ${limits.maxNameBytes} are allowed`,
      );
    }
  }
  if (total > limits.maxBytesOfNames) {
    throw new AppError(
      'resource-exhausted',
      `the request names secrets of ${total} bytes; at most ${limits.maxBytesOfNames} are allowed on one stream`,
    );
  }
  return distinct;
}

/** The first key of a collection that has more than `limit`. */
function oldestBeyond<K>(
  collection: { readonly size: number; keys(): Iterator<K> },
  limit: number,
): K | undefined {
  return collection.size > limit ? collection.keys().next().value : undefined;
}
