import type { BundleStore } from '../../plugin-api/data-store.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import { Bundle } from '../../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { isForgotten } from '../authority/authority-states.ts';
import type { KeptBundle, RootName } from '../authority/kept-bundle.ts';

/** An agent counts as connected while its last call is no older than this. */
const recentMs = 60_000;
/** Agents that come and go, such as autoscaled nodes, are forgotten when there are this many. */
const forgetAbove = 10_000;
const dayMs = 86_400_000;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly store: BundleStore;
  readonly log: Logger;
}

/**
 * Our own trust bundle in memory, and what the server knows of who has it: an agent that was given a bundle and then
 * calls again holds it. A new root signs only when all connected agents do.
 */
export class BundleKeeper implements KeptBundle {
  readonly #deps: Deps;
  readonly #own: Observable<Bundle>;
  readonly #agents = new Map<string, { held: bigint; offered: bigint; seenAtMs: number }>();

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

  holds(root: RootName, { untainted = false } = {}): boolean {
    return this.#own.value.x509Authorities.some(
      ({ certificate, tainted }) => isRoot(certificate, root) && !(untainted && tainted),
    );
  }

  async reload(): Promise<void> {
    const stored = await this.#deps.store.find(this.#deps.trustDomain);
    if (stored !== undefined) this.adopt(stored);
  }

  /** Takes over what a transaction has just stored, unless a later one was faster. */
  adopt(bundle: Bundle): void {
    if (bundle.sequence >= this.#own.value.sequence) this.#own.set(bundle);
  }

  /** Adds authorities that are not ours to sign with; throws `invalid-argument` when a key id is taken. */
  async append(more: Parameters<Bundle['withAuthorities']>[0]): Promise<Bundle> {
    const own = this.#own.value;
    const { store, trustDomain, log } = this.#deps;
    const stored = await store.update(trustDomain, (current) => (current ?? own).withAuthorities(more));
    this.adopt(stored);
    const { sequence } = stored;
    log.info({ x509: more.x509.length, jwt: more.jwt.length, sequence }, 'authorities were appended');
    return stored;
  }

  /** Puts a root into the bundle unless it is there: a transaction may have stored it and its answer been lost. */
  async ensure(root: Certificate): Promise<void> {
    const own = this.#own.value;
    if (own.certificates().some((known) => known.fingerprint === root.fingerprint)) return;
    const { store, trustDomain, log } = this.#deps;
    const stored = await store.update(trustDomain, (current) => (current ?? own).withAuthority(root));
    this.adopt(stored);
    log.warn(
      { subject: root.subjectText, sequence: stored.sequence },
      'a root was missing from the trust bundle',
    );
  }

  /** Drops what expired long before `nowMs`: nothing that it signed has been valid since. */
  async prune(nowMs: number): Promise<void> {
    const own = this.#own.value;
    if (withoutForgotten(own, nowMs) === own) return;
    const { store, trustDomain, log } = this.#deps;
    const kept = await store.update(trustDomain, (current) => withoutForgotten(current ?? own, nowMs));
    this.adopt(kept);
    log.info({ sequence: kept.sequence }, 'expired authorities left the trust bundle');
  }

  /**
   * Notes that an agent calls: by that it has what an earlier answer gave it. `offered` is the sequence that this
   * call's answer is about to give.
   */
  noteAgent(id: SpiffeId, nowMs: number, offered?: bigint): void {
    const key = id.toString();
    const known = this.#agents.get(key);
    if (known === undefined && this.#agents.size >= forgetAbove) this.#forgetSilent(nowMs);
    const held = known?.offered ?? -1n;
    this.#agents.set(key, { held, offered: offered ?? held, seenAtMs: nowMs });
  }

  /** How many agents called lately without having fetched our current bundle. Forgets those long silent. */
  agentsBehind(nowMs: number): number {
    this.#forgetSilent(nowMs);
    return [...this.#agents.values()].filter((agent) => agent.held < this.#own.value.sequence).length;
  }

  #forgetSilent(nowMs: number): void {
    for (const [id, agent] of this.#agents) {
      if (nowMs - agent.seenAtMs > recentMs) this.#agents.delete(id);
    }
  }
}

function isRoot({ fingerprint, subjectKeyId }: Certificate, root: RootName): boolean {
  return 'fingerprint' in root ? fingerprint === root.fingerprint : subjectKeyId === root.subjectKeyId;
}

function withoutForgotten(bundle: Bundle, nowMs: number): Bundle {
  const roots = bundle.certificates().filter((certificate) => isForgotten(certificate, nowMs));
  const keys = bundle.jwtAuthorities.filter(
    ({ expiresAt }) => expiresAt > 0 && expiresAt * 1000 + dayMs < nowMs,
  );
  return bundle.withoutAuthorities(
    roots.map(({ fingerprint }) => fingerprint),
    keys.map(({ keyId }) => keyId),
  );
}

function emptyBundle(trustDomain: TrustDomain): Bundle {
  return new Bundle({ trustDomain, x509Authorities: [], sequence: 0, refreshHintSeconds: 0 });
}
