import type { ServerClient } from '../clients/server-client.ts';
import { errorText, isAppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import type { SvidCache } from './svid-cache.ts';
import type { MissingBundle } from './workload-view.ts';

/** Bundles that are fetched at the same time, as SPIRE agents do. */
const maxFetches = 10;

interface Deps {
  readonly client: () => ServerClient;
  readonly cache: SvidCache;
  readonly log: Logger;
}

/** How it stands with the bundles that entries federate with. */
export interface FederationStatus {
  readonly wanted: number;
  readonly held: number;
  /** By name of trust domain; what is held stays in use. */
  readonly problems: ReadonlyMap<string, string>;
}

/**
 * Keeps the bundles of the trust domains that entries federate with like the server's. Each is fetched on its own,
 * beside the rounds of sync: one that does not come delays nothing else. What no entry needs any more, and what the
 * server does not have any more, is dropped.
 */
export class FederationSync {
  readonly #deps: Deps;
  readonly #held = new Map<string, Bundle>();
  readonly #problems = new Map<string, string>();
  /** What of the wanted is not held, once it has been asked for. */
  readonly #missing = new Map<string, MissingBundle>();
  /** In the order in which they are to be fetched: who waits already keeps its place. */
  readonly #waiting = new Map<string, TrustDomain>();
  readonly #running = new Map<string, Promise<void>>();

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  get status(): FederationStatus {
    const wanted = this.#deps.cache.federatedTrustDomains().length;
    return { wanted, held: this.#held.size, problems: this.#problems };
  }

  /** Drops the federated bundles that no entry needs, and starts to fetch the others; does not wait for them. */
  start(signal: AbortSignal): void {
    const wanted = new Map(this.#deps.cache.federatedTrustDomains().map((domain) => [domain.name, domain]));
    for (const known of [this.#held, this.#missing, this.#problems, this.#waiting]) {
      for (const name of known.keys()) if (!wanted.has(name)) known.delete(name);
    }
    this.#publish();
    for (const [name, domain] of wanted) if (!this.#running.has(name)) this.#waiting.set(name, domain);
    this.#fetchNext(signal);
  }

  /** Resolves when nothing is on its way any more. */
  async settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running.values());
  }

  #fetchNext(signal: AbortSignal): void {
    for (const [name, domain] of this.#waiting) {
      if (this.#running.size >= maxFetches || signal.aborted) return;
      this.#waiting.delete(name);
      const fetching = this.#fetch(domain, signal).finally(() => {
        this.#running.delete(name);
        this.#fetchNext(signal);
      });
      this.#running.set(name, fetching);
    }
  }

  async #fetch(domain: TrustDomain, signal: AbortSignal): Promise<void> {
    const { client, cache } = this.#deps;
    const outcome = await client()
      .getFederatedBundle(domain, { signal })
      .catch((error: unknown) => error);
    // Nobody may need it any more, or the agent stops.
    if (signal.aborted || !cache.federatedTrustDomains().some((other) => other.equals(domain))) return;
    if (isBundle(outcome)) this.#held.set(domain.name, outcome);
    // Gone at the server is as good as distrusted; any other failure proves nothing.
    else if (isAppError(outcome, 'not-found')) this.#held.delete(domain.name);
    if (this.#held.has(domain.name)) this.#missing.delete(domain.name);
    else this.#missing.set(domain.name, isAppError(outcome, 'not-found') ? 'gone' : 'failed');
    this.#note(domain, isBundle(outcome) ? undefined : errorText(outcome));
    this.#publish();
  }

  #publish(): void {
    this.#deps.cache.setFederatedBundles([...this.#held.values()], this.#missing);
  }

  /** Each problem once, and its end. */
  #note({ name }: TrustDomain, problem: string | undefined): void {
    const { log } = this.#deps;
    const before = this.#problems.get(name);
    if (problem === before) return;
    if (problem === undefined) {
      this.#problems.delete(name);
      log.info({ trustDomain: name }, 'federated bundle is there again');
    } else {
      this.#problems.set(name, problem);
      const isHeld = this.#held.has(name);
      log.warn({ trustDomain: name, problem, isHeld }, 'federated bundle could not be fetched');
    }
  }
}

function isBundle(outcome: unknown): outcome is Bundle {
  return !(outcome instanceof Error);
}
