import type { PeerProcess } from '../plugin-api/workload-attestor.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import { type Selector, selectorText } from '../spiffe/selector.ts';
import { type Refusal, type SharedRefusal, SharedRefusals } from './shared-refusals.ts';

/** One name that a proxy asks for, and what became of it. Versions are those of the content; times are Unix ms. */
export interface SecretStatus {
  readonly name: string;
  /** Undefined for a name that nobody is ever served. */
  readonly kind: 'certificate' | 'trust' | undefined;
  /** On how many of the proxy's streams it is asked for. */
  readonly streams: number;
  readonly sent: { readonly version: string; readonly atMs: number; readonly bytes: number } | undefined;
  readonly acknowledged: { readonly version: string; readonly atMs: number } | undefined;
  /** As long as nothing newer has been acknowledged; `error` is fit to print. */
  readonly refused: { readonly version: string; readonly atMs: number; readonly error: string } | undefined;
  /** Why nothing, or nothing newer, is sent. */
  readonly held: string | undefined;
  /** True when what was sent has gone without an answer for longer than `sds.ackTimeout`. */
  readonly isStalled: boolean;
}

/** How a proxy asks: StreamSecrets, DeltaSecrets, or either over ADS. */
export type ProxyProtocol = 'sotw' | 'delta' | 'ads-sotw' | 'ads-delta';

/** A proxy with all its connections, at one moment. */
export interface ProxyStatus {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** As `type:value`. */
  readonly selectors: readonly string[];
  /** SPIFFE IDs it is entitled to now, the default one first. */
  readonly identities: readonly string[];
  /** What it says of itself, fit to print; undefined until its first request. */
  readonly node: { readonly id: string; readonly cluster: string; readonly version: string } | undefined;
  readonly connectedAtMs: number;
  /** 0 when it is gone and its book is kept for its return. */
  readonly connections: number;
  readonly streams: number;
  readonly protocols: readonly ProxyProtocol[];
  readonly secrets: readonly SecretStatus[];
}

/** A proxy as the kernel and the attestors know it. */
export interface ProxyFacts {
  readonly peer: PeerProcess;
  /** In canonical order. */
  readonly selectors: readonly Selector[];
}

/** The part of a proxy's status that changes. */
export type ProxyPresence = Omit<ProxyStatus, 'pid' | 'uid' | 'gid' | 'selectors' | 'connectedAtMs'>;

/** One proxy's page in the book. */
export interface ProxyRecord extends ProxyFacts {
  /** To be called when its first stream opens. */
  came(): void;
  /** To be called when its last stream has closed. */
  left(): void;
  /** Texts must be fit to print. */
  refused(refusal: Refusal): void;
  /** It has what it refused earlier, or something newer. */
  noLongerRefused(version: string): void;
}

/** How long, and how many, pages of proxies are kept that have gone: most come back in seconds. */
const keepMs = 5 * 60_000;
const maxKept = 1_000;

interface Page<P> {
  readonly key: string;
  readonly facts: ProxyFacts;
  readonly selectors: readonly string[];
  readonly proxy: P;
  connectedAtMs: number;
  /** While it is gone. */
  leftAtMs: number | undefined;
  /** Versions in `SharedRefusals`. */
  readonly refused: Set<string>;
}

/**
 * What the agent knows of each proxy: one process with one set of selectors, over all its connections. Its page is kept
 * for five minutes after it has gone, so that what it refused is not sent again when it reconnects. As a service it
 * forgets in time; bounded it is without that too.
 */
export class ProxyBook<P extends { status(): ProxyPresence }> implements Service {
  readonly name = 'proxy book';
  readonly #clock: Clock;
  readonly #create: (record: ProxyRecord) => P;
  readonly #refusals: SharedRefusals;
  readonly #pages = new Map<string, Page<P>>();
  /** Those of `#pages` that are gone, in the order in which they went. */
  readonly #kept = new Set<Page<P>>();

  /** `create` makes what is to be known of a proxy that is new. */
  constructor(deps: {
    readonly clock: Clock;
    readonly log: Logger;
    readonly create: (record: ProxyRecord) => P;
  }) {
    this.#clock = deps.clock;
    this.#create = deps.create;
    this.#refusals = new SharedRefusals(deps);
  }

  /** What is known of this proxy. A page without a stream counts as one of a proxy that is gone. */
  open(facts: ProxyFacts): P {
    this.#forgetOld();
    const { pid, uid, gid, instance } = facts.peer;
    const selectors = facts.selectors.map(selectorText);
    // As JSON, because a selector may contain any character.
    const key = JSON.stringify([pid, instance, uid, gid, ...selectors]);
    const known = this.#pages.get(key);
    if (known !== undefined) return known.proxy;
    const record: ProxyRecord = {
      ...facts,
      came: () => this.#came(page),
      left: () => this.#left(page),
      refused: (refusal) => {
        page.refused.add(refusal.version);
        this.#refusals.add(page, pid, refusal);
      },
      noLongerRefused: (version) => {
        page.refused.delete(version);
        this.#refusals.remove(page, version);
      },
    };
    const proxy = this.#create(record);
    const [connectedAtMs, refused] = [this.#clock.now(), new Set<string>()];
    const page: Page<P> = { key, facts, selectors, proxy, connectedAtMs, leftAtMs: undefined, refused };
    this.#pages.set(key, page);
    this.#left(page);
    return proxy;
  }

  /** All proxies that are connected, and those that were a short time ago. */
  statuses(): readonly ProxyStatus[] {
    this.#forgetOld();
    return [...this.#pages.values()].map(({ facts: { peer }, selectors, connectedAtMs, proxy }) => ({
      pid: peer.pid,
      uid: peer.uid,
      gid: peer.gid,
      selectors,
      connectedAtMs,
      ...proxy.status(),
    }));
  }

  /** The versions of secrets that more than one proxy refuses. */
  sharedRefusals(): readonly SharedRefusal[] {
    return this.#refusals.list();
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    ready();
    while (!signal.aborted) {
      await this.#clock.sleep(keepMs / 5, signal);
      this.#forgetOld();
    }
  }

  #came(page: Page<P>): void {
    this.#kept.delete(page);
    page.leftAtMs = undefined;
    page.connectedAtMs = this.#clock.now();
  }

  #left(page: Page<P>): void {
    page.leftAtMs = this.#clock.monotonic();
    this.#kept.add(page);
    this.#forgetOld();
    if (this.#kept.size > maxKept) this.#forget(this.#dispensable(page));
  }

  #forgetOld(): void {
    const limit = this.#clock.monotonic() - keepMs;
    for (const page of this.#kept) {
      if (page.leftAtMs === undefined || page.leftAtMs > limit) return;
      this.#forget(page);
    }
  }

  /** The oldest one of the user that has most: nobody can wipe out the memory of others' proxies with many of its own. */
  #dispensable(newest: Page<P>): Page<P> {
    const oldestByUid = new Map<number, { readonly page: Page<P>; count: number }>();
    for (const page of this.#kept) {
      const { uid } = page.facts.peer;
      const ofUid = oldestByUid.get(uid);
      if (ofUid === undefined) oldestByUid.set(uid, { page, count: 1 });
      else ofUid.count += 1;
    }
    let most = { page: newest, count: 0 };
    for (const ofUid of oldestByUid.values()) if (ofUid.count > most.count) most = ofUid;
    return most.page;
  }

  #forget(page: Page<P>): void {
    this.#kept.delete(page);
    this.#pages.delete(page.key);
    for (const version of page.refused) this.#refusals.remove(page, version);
  }
}
