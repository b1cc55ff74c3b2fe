import { ProxySecret } from './proxy-secret.ts';

/** Names of one proxy in all, and of those the ones kept that it was sent and asks for no more. */
const defaultBounds = { names: 10_000, unused: 1_000 };

/**
 * The names of one proxy. Bounded: those beyond get no secret, and unused ones are forgotten, oldest first. It keeps
 * account of how they stand, since each depends on all others and there may be thousands.
 */
export class SecretLedger {
  readonly #bounds: typeof defaultBounds;
  readonly #onForgotten: (secret: ProxySecret) => void;
  readonly #secrets = new Map<string, ProxySecret>();
  /** Of these, the ones that no stream has to do with, in the order in which that came to be. */
  readonly #unused = new Set<ProxySecret>();
  readonly #busy = new Set<ProxySecret>();
  readonly #openTrust = new Set<ProxySecret>();
  readonly #outOfOrder = new Set<ProxySecret>();

  constructor(onForgotten: (secret: ProxySecret) => void, bounds = defaultBounds) {
    this.#onForgotten = onForgotten;
    this.#bounds = bounds;
  }

  find(name: string): ProxySecret | undefined {
    return this.#secrets.get(name);
  }

  all(): IterableIterator<ProxySecret> {
    return this.#secrets.values();
  }

  /** Something else is due to the proxy or not answered, on streams that answer at all. */
  isBusyBut(secret?: ProxySecret): boolean {
    return isAnyBut(secret, this.#busy);
  }

  /** Another trust secret is due to the proxy, or not acknowledged. */
  isTrustOpenBut(secret?: ProxySecret): boolean {
    return isAnyBut(secret, this.#openTrust);
  }

  /** Envoy may have something bad stored under another name. */
  isOutOfOrderBut(secret: ProxySecret): boolean {
    return isAnyBut(secret, this.#outOfOrder);
  }

  /** The trust secrets that are due to the proxy, or not acknowledged. */
  openTrust(): Iterable<ProxySecret> {
    return this.#openTrust;
  }

  /** For a stream that asks for it now; undefined when there are too many. */
  take(name: string): ProxySecret | undefined {
    const known = this.#secrets.get(name);
    if (known !== undefined) {
      this.#unused.delete(known);
      return known;
    }
    if (this.#secrets.size >= this.#bounds.names) return undefined;
    const secret: ProxySecret = new ProxySecret(name, () => this.#note(secret));
    this.#secrets.set(name, secret);
    return secret;
  }

  /** To be called when a stream has no more to do with it. */
  release(secret: ProxySecret): void {
    if (secret.askers.size > 0) return;
    this.#unused.delete(secret);
    this.#unused.add(secret);
    if (!secret.wasSent) this.#forget(secret);
    const [oldest] = this.#unused;
    if (this.#unused.size > this.#bounds.unused && oldest !== undefined) this.#forget(oldest);
  }

  #note(secret: ProxySecret): void {
    const { askers, isInOrder, kind } = secret;
    keepIf(askers.awaited > 0, secret, this.#busy);
    keepIf(kind === 'trust' && askers.open > 0, secret, this.#openTrust);
    keepIf(!isInOrder, secret, this.#outOfOrder);
  }

  #forget(secret: ProxySecret): void {
    for (const set of [this.#unused, this.#busy, this.#openTrust, this.#outOfOrder]) set.delete(secret);
    this.#secrets.delete(secret.name);
    this.#onForgotten(secret);
  }
}

function isAnyBut<T>(one: T | undefined, set: ReadonlySet<T>): boolean {
  return set.size > (one !== undefined && set.has(one) ? 1 : 0);
}

function keepIf<T>(isIn: boolean, one: T, set: Set<T>): void {
  if (isIn) set.add(one);
  else set.delete(one);
}
