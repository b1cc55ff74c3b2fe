import { ProxySecret } from './proxy-secret.ts';

/** Names of one proxy in all, and of those the ones kept that it was sent and asks for no more. */
const defaultBounds = { names: 10_000, unused: 1_000 };

/** The names of one proxy. Bounded: those beyond get no secret, and unused ones are forgotten, oldest first. */
export class SecretLedger {
  readonly #bounds: typeof defaultBounds;
  readonly #onForgotten: (secret: ProxySecret) => void;
  readonly #secrets = new Map<string, ProxySecret>();
  /** Of these, the ones that no stream has to do with, in the order in which that came to be. */
  readonly #unused = new Set<ProxySecret>();

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

  /** For a stream that asks for it now; undefined when there are too many. */
  take(name: string): ProxySecret | undefined {
    const known = this.#secrets.get(name);
    if (known !== undefined) {
      this.#unused.delete(known);
      return known;
    }
    if (this.#secrets.size >= this.#bounds.names) return undefined;
    const secret = new ProxySecret(name);
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

  #forget(secret: ProxySecret): void {
    this.#unused.delete(secret);
    this.#secrets.delete(secret.name);
    this.#onForgotten(secret);
  }
}
