import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { canonicalSelectors, type Selector, selectorText } from '../spiffe/selector.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import type { KeyType } from '../x509/signature.ts';
import { EntryMatcher } from './entry-matcher.ts';
import { type DueSvid, dueSvids, type SvidState } from './rotation-policy.ts';
import { SvidVariants, type Wishes } from './svid-variants.ts';
import {
  areSameEntries,
  emptyView,
  type HeldSvid,
  identitiesOf,
  isSameView,
  type MissingBundle,
  type WantedKeyType,
  type WorkloadView,
} from './workload-view.ts';

/** The view of all workloads that have the same selectors. */
interface SharedView {
  readonly selectors: ReadonlySet<string>;
  readonly view: Observable<WorkloadView>;
  /** Of those watchers that have any. */
  readonly wishes: Set<Wishes>;
  entries: readonly RegistrationEntry[];
  watchers: number;
}

/** A workload's hold on its view. */
export interface Watch {
  readonly view: Observable<WorkloadView>;
  /**
   * Replaces what other kinds of keys this workload wants. They come into the view as they are signed, and are renewed
   * as long as they are wanted. What is not in the view is not signed, whatever the wish.
   */
  wantKeyTypes(wanted: readonly WantedKeyType[]): void;
  /** May be called more than once. */
  release(): void;
}

const noBundles: readonly Bundle[] = [];
const noMissing: ReadonlyMap<string, MissingBundle> = new Map();

/**
 * What the agent knows and holds, and who may see which part of it. The sync loop puts entries, SVIDs and bundles
 * in; connections watch the view of their selectors. A view is set only when something in it has really changed, and
 * expired SVIDs are in no view.
 */
export class SvidCache {
  readonly #clock: Clock;
  readonly #keyType: KeyType;
  readonly #variants: SvidVariants;
  #entries: ReadonlyMap<string, RegistrationEntry> = new Map();
  #matcher = new EntryMatcher([]);
  #isSynced = false;
  #bundle: Bundle | undefined;
  #federated: ReadonlyMap<string, Bundle> = new Map();
  /** By name, the trust domains whose bundles the server has been asked for in vain. */
  #missing: ReadonlyMap<string, MissingBundle> = new Map();
  /** Names of trust domains → one list for all views that have these, so that what is made of it is shared too. */
  readonly #federatedLists = new Map<string, readonly Bundle[]>();
  readonly #held = new Map<string, HeldSvid>();
  /** By entry, the kinds of keys that the server was asked to sign in vain. The sets are never changed, only replaced. */
  readonly #unsigned = new Map<string, ReadonlySet<KeyType>>();
  readonly #views = new Map<string, SharedView>();
  readonly #viewsOfEntry = new Map<string, Set<SharedView>>();
  readonly #demand = new Observable(0);
  /** Entries whose SVID has been asked for already and has not come yet. */
  readonly #demanded = new Set<string>();

  /** `keyType` is the kind of key that all SVIDs have; others are made when somebody wants them. */
  constructor(deps: { readonly clock: Clock; readonly keyType: KeyType }) {
    this.#clock = deps.clock;
    this.#keyType = deps.keyType;
    this.#variants = new SvidVariants({ clock: deps.clock, usual: deps.keyType });
  }

  /**
   * Set when a workload wants an SVID that it is entitled to and that is not there. Once per SVID: callers who connect over
   * and over again cannot make the agent ask its server as often.
   */
  get demand(): Observable<number> {
    return this.#demand;
  }

  /** By id; as last set. */
  get entries(): ReadonlyMap<string, RegistrationEntry> {
    return this.#entries;
  }

  get bundle(): Bundle | undefined {
    return this.#bundle;
  }

  /** The trust domains, other than `own`, that any entry federates with. */
  federatedTrustDomains(): readonly TrustDomain[] {
    const all = [...this.#entries.values()].flatMap((entry) => entry.federatesWith);
    const foreign = all.filter((domain) => domain.name !== this.#bundle?.trustDomain.name);
    return [...new Map(foreign.map((domain) => [domain.name, domain])).values()];
  }

  /** The SVIDs to sign now, most urgent first. */
  due(): readonly DueSvid[] {
    const states: SvidState[] = [...this.#entries.values()].map((entry) => ({
      entry,
      keyType: this.#keyType,
      isVariant: false,
      held: this.#held.get(entry.id),
      isWatched: this.#viewsOfEntry.has(entry.id),
      users: this.#usersOf(entry.id),
    }));
    states.push(...this.#variants.states(this.#entries, (id) => this.#usersOf(id)));
    return dueSvids(states, this.#clock.now(), this.#bundle);
  }

  #usersOf(entryId: string): number {
    let users = 0;
    for (const { watchers } of this.#viewsOfEntry.get(entryId) ?? []) users += watchers;
    return users;
  }

  /** With the usual kind of key. */
  findSvid(entryId: string): HeldSvid | undefined {
    return this.#held.get(entryId);
  }

  /** Makes these the only entries. SVIDs of entries that are gone, or now name another identity, are dropped. */
  setEntries(entries: readonly RegistrationEntry[]): void {
    const isFirst = !this.#isSynced;
    this.#isSynced = true;
    const next = new Map(entries.map((entry) => [entry.id, unchangedOr(this.#entries.get(entry.id), entry)]));
    const isSame =
      next.size === this.#entries.size && [...next].every(([id, e]) => this.#entries.get(id) === e);
    if (isSame && !isFirst) return;
    this.#entries = next;
    for (const [id, held] of this.#held) {
      if (!mayHold(next.get(id), held)) this.#held.delete(id);
    }
    this.#variants.retain((held) => mayHold(next.get(held.entry.id), held));
    for (const known of [this.#demanded, this.#unsigned]) {
      for (const id of known.keys()) if (!next.has(id)) known.delete(id);
    }
    this.#matcher = new EntryMatcher(next.values());
    this.#viewsOfEntry.clear();
    for (const shared of this.#views.values()) {
      this.#match(shared);
      this.#update(shared);
      for (const wishes of shared.wishes) wishes.resolve(shared.view.value.identities);
    }
    this.#forgetUnusedLists();
  }

  /** Takes newly signed SVIDs in. Those of entries that are gone, or now name another identity, are ignored. */
  putSvids(svids: readonly HeldSvid[]): void {
    const accepted = svids.filter((held) => mayHold(this.#entries.get(held.entry.id), held));
    for (const held of accepted) {
      this.#setUnsigned(held, false);
      if (held.keyType !== this.#keyType) {
        this.#variants.put(held);
        continue;
      }
      this.#held.set(held.entry.id, held);
      this.#demanded.delete(held.entry.id);
    }
    this.#updateViewsOf(accepted);
  }

  /** Notes what the server did not sign, for those who wait for it; until it is signed. */
  noteUnsigned(failed: readonly Pick<DueSvid, 'entry' | 'keyType'>[]): void {
    const known = failed.filter(({ entry }) => this.#entries.has(entry.id));
    for (const one of known) this.#setUnsigned(one, true);
    this.#updateViewsOf(known);
  }

  /** Takes SVIDs out that have expired by now, and returns them. To be called often: views do not watch the time. */
  expire(nowMs: number): readonly HeldSvid[] {
    const expired = [...this.#held.values()].filter((held) => held.svid.notAfterMs <= nowMs);
    for (const held of expired) this.#held.delete(held.entry.id);
    const variants = this.#variants.expire(nowMs);
    this.#updateViewsOf([...expired, ...variants]);
    return [...expired, ...variants.filter((held) => held.svid.notAfterMs <= nowMs)];
  }

  setBundle(bundle: Bundle): void {
    if (this.#bundle?.equals(bundle)) return;
    this.#bundle = bundle;
    for (const shared of this.#views.values()) this.#update(shared);
  }

  /** Makes these the only federated bundles; `missing` says of which others it is known why they are not there. */
  setFederatedBundles(
    bundles: readonly Bundle[],
    missing: ReadonlyMap<string, MissingBundle> = new Map(),
  ): void {
    const next = new Map<string, Bundle>();
    for (const bundle of bundles) {
      const known = this.#federated.get(bundle.trustDomain.name);
      next.set(bundle.trustDomain.name, known?.equals(bundle) ? known : bundle);
    }
    const isSame =
      next.size === this.#federated.size && [...next].every(([n, b]) => this.#federated.get(n) === b);
    if (isSame && areSameEntries(missing, this.#missing)) return;
    this.#federated = next;
    this.#missing = new Map(missing);
    for (const shared of this.#views.values()) this.#update(shared);
  }

  /** The view of workloads with these selectors, shared among them and kept up to date until all have released it. */
  watch(selectors: readonly Selector[]): Watch {
    const texts = canonicalSelectors(selectors).map(selectorText);
    // As JSON, because a selector may contain any character, such as a path with a line break.
    const key = JSON.stringify(texts);
    const shared = this.#views.get(key) ?? this.#newView(key, texts);
    shared.watchers += 1;
    this.#noteDemand(shared.view.value);
    const wishes = this.#variants.newWishes();
    let isReleased = false;
    return {
      view: shared.view,
      wantKeyTypes: (wanted) => {
        if (!isReleased) this.#want(shared, wishes, wanted);
      },
      release: () => {
        if (isReleased) return;
        this.#want(shared, wishes, []);
        this.#release(key, shared);
        isReleased = true;
      },
    };
  }

  #want(shared: SharedView, wishes: Wishes, wanted: readonly WantedKeyType[]): void {
    if (wanted.length === 0 && !shared.wishes.has(wishes)) return;
    if (wanted.length === 0) shared.wishes.delete(wishes);
    else shared.wishes.add(wishes);
    const isNew = wishes.replace(wanted, shared.view.value.identities);
    if (isNew) this.#demand.set(this.#demand.value + 1);
  }

  #noteDemand(view: WorkloadView): void {
    const before = this.#demanded.size;
    for (const { entry, svid } of view.identities) if (svid === undefined) this.#demanded.add(entry.id);
    if (this.#demanded.size > before) this.#demand.set(this.#demand.value + 1);
  }

  #newView(key: string, texts: readonly string[]): SharedView {
    const view = new Observable(emptyView);
    const shared = { selectors: new Set(texts), view, wishes: new Set<Wishes>(), entries: [], watchers: 0 };
    this.#views.set(key, shared);
    this.#match(shared);
    this.#update(shared);
    return shared;
  }

  #release(key: string, shared: SharedView): void {
    shared.watchers -= 1;
    if (shared.watchers > 0) return;
    this.#views.delete(key);
    for (const { id } of shared.entries) {
      const views = this.#viewsOfEntry.get(id);
      views?.delete(shared);
      if (views?.size === 0) this.#viewsOfEntry.delete(id);
    }
  }

  #match(shared: SharedView): void {
    shared.entries = this.#matcher.match(shared.selectors);
    for (const { id } of shared.entries) {
      const views = this.#viewsOfEntry.get(id);
      if (views === undefined) this.#viewsOfEntry.set(id, new Set([shared]));
      else views.add(shared);
    }
  }

  #setUnsigned({ entry, keyType }: Pick<DueSvid, 'entry' | 'keyType'>, isUnsigned: boolean): void {
    const known = this.#unsigned.get(entry.id) ?? new Set();
    if (known.has(keyType) === isUnsigned) return;
    const next = isUnsigned ? known.union(new Set([keyType])) : known.difference(new Set([keyType]));
    if (next.size === 0) this.#unsigned.delete(entry.id);
    else this.#unsigned.set(entry.id, next);
  }

  #updateViewsOf(changed: readonly Pick<HeldSvid, 'entry'>[]): void {
    const affected = new Set(changed.flatMap(({ entry }) => [...(this.#viewsOfEntry.get(entry.id) ?? [])]));
    for (const shared of affected) this.#update(shared);
  }

  #update(shared: SharedView): void {
    const held = { svids: this.#held, variants: this.#variants, unsigned: this.#unsigned };
    const identities = identitiesOf(shared.entries, held, this.#clock.now());
    const isNobody = identities.length === 0;
    const next: WorkloadView = {
      isSynced: this.#isSynced,
      identities,
      bundle: isNobody ? undefined : this.#bundle,
      federatedBundles: isNobody ? noBundles : this.#federatedList(shared.entries),
      missingBundles: isNobody ? noMissing : this.#missingOf(shared.entries),
    };
    if (!isSameView(shared.view.value, next)) shared.view.set(next);
  }

  #missingOf(entries: readonly RegistrationEntry[]): ReadonlyMap<string, MissingBundle> {
    const own = this.#bundle?.trustDomain.name;
    const names = new Set(entries.flatMap(({ federatesWith }) => federatesWith.map(({ name }) => name)));
    const missing = [...names].filter((name) => name !== own && !this.#federated.has(name));
    return new Map(missing.map((name) => [name, this.#missing.get(name) ?? 'awaited']));
  }

  #federatedList(entries: readonly RegistrationEntry[]): readonly Bundle[] {
    const names = new Set(entries.flatMap((entry) => entry.federatesWith.map((domain) => domain.name)));
    if (this.#bundle !== undefined) names.delete(this.#bundle.trustDomain.name);
    if (names.size === 0) return noBundles;
    const sorted = [...names].sort();
    const key = sorted.join(' ');
    const known = this.#federatedLists.get(key);
    const list = sorted.map((name) => this.#federated.get(name)).filter((bundle) => bundle !== undefined);
    if (known?.length === list.length && known.every((bundle, index) => bundle === list[index])) return known;
    this.#federatedLists.set(key, list);
    return list;
  }

  #forgetUnusedLists(): void {
    const used = new Set([...this.#views.values()].map((shared) => shared.view.value.federatedBundles));
    for (const [key, list] of this.#federatedLists) if (!used.has(list)) this.#federatedLists.delete(key);
  }
}

/** The server counts an entry's revision up with each change; an entry made anew under the id has another age. */
function unchangedOr(known: RegistrationEntry | undefined, entry: RegistrationEntry): RegistrationEntry {
  const isSame = known?.revision === entry.revision && known.createdAt === entry.createdAt;
  return isSame ? known : entry;
}

function mayHold(entry: RegistrationEntry | undefined, held: HeldSvid): boolean {
  return entry?.spiffeId.equals(held.svid.id) === true && !entry.storeSvid;
}
