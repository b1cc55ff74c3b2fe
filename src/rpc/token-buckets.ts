import type { Clock } from '../runtime/time.ts';

/** Keys that are remembered; the one that has been quiet for longest is forgotten first, and starts with a full bucket. */
const maxKeys = 20_000;
/** Tokens are fractions: who waits as long as told must not find a billionth missing. */
const roundingError = 1e-6;

interface Bucket {
  tokens: number;
  atMs: number;
}

/**
 * Token buckets by key: each holds `burst` tokens and gets `perSecond` new ones; a rate of 0 does not limit. What
 * costs more than a whole bucket passes when the bucket is full, and leaves a debt that later calls wait for: else it
 * could never pass.
 */
export class TokenBuckets {
  readonly #clock: Clock;
  readonly #rate: { readonly perSecond: number; readonly burst: number };
  /** In order of use, the most recent last. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(clock: Clock, rate: { readonly perSecond: number; readonly burst: number }) {
    this.#clock = clock;
    this.#rate = rate;
  }

  /** How many keys are remembered. */
  get size(): number {
    return this.#buckets.size;
  }

  /** Takes `cost` tokens and returns 0; or takes nothing and returns after how many ms they will be there. */
  take(key: string, cost = 1): number {
    if (this.#rate.perSecond === 0) return 0;
    const waitMs = this.waitMs(key, cost);
    if (waitMs === 0) this.spend(key, cost);
    return waitMs;
  }

  /** Takes the tokens, whether or not they are there; a debt ends at the size of the bucket. */
  spend(key: string, cost = 1): void {
    const { perSecond, burst } = this.#rate;
    if (perSecond === 0) return;
    const bucket = this.#bucketOf(key);
    bucket.tokens = Math.max(bucket.tokens - cost, -Math.max(burst, cost));
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size <= maxKeys) return;
    for (const oldest of this.#buckets.keys()) {
      this.#buckets.delete(oldest);
      return;
    }
  }

  /** After how many ms `cost` tokens will be there; 0 = now. */
  waitMs(key: string, cost = 1): number {
    const { perSecond, burst } = this.#rate;
    if (perSecond === 0) return 0;
    const missing = Math.min(cost, burst) - this.#bucketOf(key).tokens;
    return missing <= roundingError ? 0 : Math.ceil((missing / perSecond) * 1000 - roundingError);
  }

  /** As it is now. */
  #bucketOf(key: string): Bucket {
    const { perSecond, burst } = this.#rate;
    const nowMs = this.#clock.monotonic();
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return { tokens: burst, atMs: nowMs };
    const earned = ((nowMs - bucket.atMs) / 1000) * perSecond;
    return { tokens: Math.min(burst, bucket.tokens + earned), atMs: nowMs };
  }
}
