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

/** What a session needs for a name it holds, besides the name itself: a generous guess. */
const bytesPerName = 256;

/**
 * The parts of a DiscoveryRequest that steer a stream. `version_info` is none of them: it survives reconnects and
 * may be anything on a first request, and a NACK carries the previous one.
 */
export interface SdsRequest {
  readonly names: readonly string[];
  readonly nonce: string;
  /** The text of `error_detail`: the one mark of a NACK. */
  readonly error: string | undefined;
}

/** What the stream's caller may have right now. Both must be cheap: they are asked again at each change. */
export interface SdsWorld {
  lookup(name: string): { readonly version: string } | undefined;
  /** False for a name that nobody will ever be served. Follows from the name alone. */
  canBeServed(name: string): boolean;
  /** Every secret once, under one name, in the order to send them; for a stream that names nothing. */
  allNames(): readonly string[];
}

/** The client's word on one response. */
export interface SdsAnswer {
  readonly kind: 'ack' | 'nack';
  readonly name: string;
  readonly version: string;
  /** Envoy's text; empty for an ACK. */
  readonly error: string;
}

/** A response to write now, with this one secret. */
export interface SdsSend {
  readonly name: string;
  readonly version: string;
  readonly nonce: string;
}

/** How many responses per allowed name may wait for their answer before the oldest is no longer accounted for. */
const unansweredPerName = 4;

/**
 * One State-of-the-World stream of secrets, as a state machine without I/O or clock. Requests and changes of the
 * world go in (`receive`, `worldChanged`); responses are pulled out with `next` whenever the transport can take
 * one. Nothing is queued: a name is either due or not, and its version is read at the moment it is sent, so that a
 * slow reader holds at most one pending version of each name.
 *
 * Names that do not exist are held: they are sent when they appear, and are never an error. Names that never can are
 * not kept, since anybody may ask for as many as they like.
 */
export class SdsSession {
  readonly #world: SdsWorld;
  readonly #limits: SdsLimits;
  #isStarted = false;
  /** True until the stream names something: an empty list then means everything, later it means nothing. */
  #isWildcard = true;
  /** The subscription: name → version last sent for it since it was subscribed. */
  readonly #subscribed = new Map<string, string | undefined>();
  /** Subscribed names that may be due; looked at, in this order, when there is room to send. */
  readonly #toVisit = new Set<string>();
  /** Nonce → what was sent with it, oldest first. */
  readonly #unanswered = new Map<number, { readonly name: string; readonly version: string }>();
  /** Name and version of what the client refused, oldest first. Outlives subscriptions. */
  readonly #refused = new Set<string>();
  #lastNonce = 0;
  #lastForgottenNonce = 0;
  /** A client that repeats it, or one before it, once more gets nothing: it might do so without end. */
  #lastRepeatedNonce = 0;

  constructor(world: SdsWorld, limits: SdsLimits = defaultSdsLimits) {
    this.#world = world;
    this.#limits = limits;
  }

  /**
   * Takes a request in: the subscription becomes its list of names. Returns the answer it carries, if it is the
   * first one to a response of this stream. Throws AppError `resource-exhausted` or `invalid-argument` beyond the
   * limits. A later request with a nonce that this stream never sent is ignored.
   */
  receive(request: SdsRequest): SdsAnswer | undefined {
    const nonce = this.#isStarted ? this.#sentNonce(request.nonce) : 0;
    if (nonce === undefined) return undefined;
    this.#isStarted = true;
    const names = distinctNames(request.names, this.#limits);
    const answer = this.#settle(nonce, request.error);
    const isRepeated = answer === undefined && request.error === undefined;
    const askedBefore = Math.max(this.#lastForgottenNonce, this.#lastRepeatedNonce);
    this.#subscribe(names, isRepeated && nonce > askedBefore ? nonce : undefined);
    return answer;
  }

  /** To be called after any change of what `lookup` or `allNames` return. */
  worldChanged(): void {
    if (!this.#isStarted) return;
    if (this.#isWildcard) this.#followEverything();
    for (const name of this.#subscribed.keys()) this.#toVisit.add(name);
  }

  /** What `next` would send now, without sending it. */
  peek(): { readonly name: string; readonly version: string } | undefined {
    for (const name of this.#toVisit) {
      const version = this.#versionDue(name);
      if (version !== undefined) return { name, version };
      this.#toVisit.delete(name);
    }
    return undefined;
  }

  /** The next response to write, counted as sent; undefined when the client has all it asked for. */
  next(): SdsSend | undefined {
    const due = this.peek();
    if (due === undefined) return undefined;
    this.#lastNonce += 1;
    this.#toVisit.delete(due.name);
    this.#subscribed.set(due.name, due.version);
    this.#unanswered.set(this.#lastNonce, due);
    const oldest = oldestBeyond(this.#unanswered, this.#limits.maxNames * unansweredPerName);
    if (oldest !== undefined) {
      this.#unanswered.delete(oldest);
      this.#lastForgottenNonce = oldest;
    }
    return { ...due, nonce: String(this.#lastNonce) };
  }

  /** The names asked for that are held, because the world does not have them now. */
  held(): readonly string[] {
    return [...this.#subscribed.keys()].filter((name) => this.#world.lookup(name) === undefined);
  }

  /** What it takes to hold the names that the client has asked for, in bytes; 0 when it named none. */
  namedBytes(): number {
    if (this.#isWildcard) return 0;
    const names = [...this.#subscribed.keys()];
    return names.reduce((sum, name) => sum + Buffer.byteLength(name) + bytesPerName, 0);
  }

  /** The nonce as a number, 0 for none, undefined when this stream never sent it. */
  #sentNonce(text: string): number | undefined {
    if (text === '') return 0;
    if (!/^[1-9][0-9]{0,14}$/.test(text)) return undefined;
    const nonce = Number(text);
    return nonce <= this.#lastNonce ? nonce : undefined;
  }

  #settle(nonce: number, error: string | undefined): SdsAnswer | undefined {
    const sent = this.#unanswered.get(nonce);
    if (sent === undefined) return undefined;
    this.#unanswered.delete(nonce);
    if (error === undefined) return { kind: 'ack', ...sent, error: '' };
    this.#refused.add(refusalKey(sent.name, sent.version));
    const oldest = oldestBeyond(this.#refused, this.#limits.maxNames);
    if (oldest !== undefined) this.#refused.delete(oldest);
    return { kind: 'nack', ...sent, error };
  }

  /**
   * `repeated` is a nonce that was answered before: with the same names it asks for all of them again, because Envoy
   * has made another provider for them and waits for an answer (envoy#47309).
   */
  #subscribe(names: ReadonlySet<string>, repeated: number | undefined): void {
    if (this.#isWildcard && names.size > 0) {
      this.#isWildcard = false;
      this.#subscribed.clear();
      this.#toVisit.clear();
    }
    const servable = [...names].filter((name) => this.#world.canBeServed(name));
    const changed = this.#isWildcard ? this.#followEverything() : this.#followOnly(new Set(servable));
    if (changed || repeated === undefined) return;
    this.#lastRepeatedNonce = repeated;
    for (const name of this.#subscribed.keys()) this.#subscribeAnew(name);
  }

  /** Makes the subscription exactly `names`; returns whether it was another one before. */
  #followOnly(names: ReadonlySet<string>): boolean {
    const before = this.#subscribed.size;
    for (const name of this.#subscribed.keys()) {
      if (names.has(name)) continue;
      this.#subscribed.delete(name);
      this.#toVisit.delete(name);
    }
    const kept = this.#subscribed.size;
    for (const name of names) {
      if (!this.#subscribed.has(name)) this.#subscribeAnew(name);
    }
    return kept !== before || this.#subscribed.size !== kept;
  }

  /** Adds what the world has now. What vanished stays noted, so that it is not sent again when it comes back. */
  #followEverything(): boolean {
    const names = this.#world.allNames();
    if (this.#subscribed.size > this.#limits.maxNames) this.#followOnly(new Set(names));
    const before = this.#subscribed.size;
    for (const name of names) {
      if (!this.#subscribed.has(name)) this.#subscribeAnew(name);
    }
    return this.#subscribed.size !== before;
  }

  #subscribeAnew(name: string): void {
    this.#subscribed.set(name, undefined);
    this.#toVisit.add(name);
  }

  #versionDue(name: string): string | undefined {
    if (!this.#subscribed.has(name)) return undefined;
    const version = this.#world.lookup(name)?.version;
    if (version === undefined || version === this.#subscribed.get(name)) return undefined;
    // Envoy ACKs the very bytes it has just refused and uses nothing of them (envoy-sds.md §1.7).
    return this.#refused.has(refusalKey(name, version)) ? undefined : version;
  }
}

/** The names without repetition; empty ones do not count, as in SPIRE. */
function distinctNames(names: readonly string[], limits: SdsLimits): ReadonlySet<string> {
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

/** Unambiguous because a version has no space. */
function refusalKey(name: string, version: string): string {
  return `${version} ${name}`;
}

/** The first key of a collection that has more than `limit`. */
function oldestBeyond<K>(
  collection: { readonly size: number; keys(): Iterator<K> },
  limit: number,
): K | undefined {
  return collection.size > limit ? collection.keys().next().value : undefined;
}
