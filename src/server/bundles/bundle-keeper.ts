import type { BundleStore } from '../../plugin-api/data-store.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';

/** An agent counts as connected while its last call is no older than this. */
const recentMs = 60_000;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly store: BundleStore;
  readonly log: Logger;
}

/**
 * Our own trust bundle in memory, and what the server knows of who has it: an agent that fetches the bundle tells
 * by that which sequence it holds. A new root signs only when all connected agents hold it.
 */
export class BundleKeeper {
  readonly #deps: Deps;
  readonly #own: Observable<Bundle>;
  readonly #agents = new Map<string, { sequence: number; seenAtMs: number }>();

  private constructor(deps: Deps, own: Bundle) {
    this.#deps = deps;
    this.#own = new Observable(own);
  }

  /** Reads the stored bundle; a new server starts with an empty one. */
  static async load(deps: Deps): Promise<BundleKeeper> {
    const stored = await deps.store.find(deps.trustDomain);
    return new BundleKeeper(deps, stored ?? emptyBundle(deps.trustDomain));
  }

  /** Our bundle as stored. */
  get own(): Observable<Bundle> {
    return this.#own;
  }

  /** Takes over what a transaction has just stored. */
  adopt(bundle: Bundle): void {
    this.#own.set(bundle);
  }

  /** Puts a root into the bundle unless it is there: a transaction may have stored it and its answer been lost. */
  async ensure(root: Certificate): Promise<void> {
    const own = this.#own.value;
    if (own.certificates().some((known) => known.fingerprint === root.fingerprint)) return;
    const { store, trustDomain, log } = this.#deps;
    const stored = await store.update(trustDomain, (current) => (current ?? own).withAuthority(root));
    this.#own.set(stored);
    log.warn(
      { subject: root.subjectText, sequence: stored.sequence },
      'a root was missing from the trust bundle',
    );
  }

  /** Drops the roots that expired before `nowMs`: by then no certificate that they signed is valid any more. */
  async prune(nowMs: number): Promise<void> {
    const isGone = (bundle: Bundle) =>
      bundle.x509Authorities
        .filter((a) => a.certificate.notAfterMs < nowMs)
        .map((a) => a.certificate.fingerprint);
    const gone = isGone(this.#own.value);
    if (gone.length === 0) return;
    const kept = await this.#deps.store.update(this.#deps.trustDomain, (current) =>
      (current ?? this.#own.value).withoutAuthorities(isGone(current ?? this.#own.value)),
    );
    this.#own.set(kept);
    this.#deps.log.info(
      { removed: gone.length, sequence: kept.sequence },
      'expired roots left the trust bundle',
    );
  }

  /** Notes that an agent called; with `sequence` when it was given the bundle. */
  noteAgent(id: SpiffeId, nowMs: number, sequence?: number): void {
    const key = id.toString();
    const known = this.#agents.get(key);
    this.#agents.set(key, { sequence: sequence ?? known?.sequence ?? -1, seenAtMs: nowMs });
  }

  /** How many agents called lately without having fetched our current bundle. Forgets those long silent. */
  agentsBehind(nowMs: number): number {
    let behind = 0;
    for (const [id, agent] of this.#agents) {
      if (nowMs - agent.seenAtMs > recentMs) this.#agents.delete(id);
      else if (agent.sequence < this.#own.value.sequence) behind += 1;
    }
    return behind;
  }
}

function emptyBundle(trustDomain: TrustDomain): Bundle {
  return new Bundle({ trustDomain, x509Authorities: [], sequence: 0, refreshHintSeconds: 0 });
}
