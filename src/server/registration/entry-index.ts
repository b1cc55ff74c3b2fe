import type { AgentRecord } from '../../plugin-api/data-store.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { isSubset, selectorText } from '../../spiffe/selector.ts';
import { type SpiffeId, serverIdOf, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type EntryFilter, entryMatcher } from './entry-filter.ts';
import { SortedEntries } from './sorted-entries.ts';

type Agent = Pick<AgentRecord, 'id' | 'selectors'>;

/**
 * All registration entries in memory, indexed for the one question that every agent asks every few seconds: which
 * entries may it have? Those below its own ID, below any node alias that its selectors match (an entry whose
 * parent is the server), and below the SPIFFE IDs of entries found so far, transitively. Administrators' questions
 * are answered from here as well. Times are Unix seconds.
 */
export class EntryIndex {
  readonly #aliasParent: string;
  readonly #all = new SortedEntries();
  readonly #byParent = new Map<string, Map<string, RegistrationEntry>>();
  /** Arrays that are replaced: nearly all have one element, and there are as many as entries. */
  readonly #bySpiffeId = new Map<string, readonly RegistrationEntry[]>();

  constructor(trustDomain: TrustDomain) {
    this.#aliasParent = serverIdOf(trustDomain).toString();
  }

  get size(): number {
    return this.#all.size;
  }

  find(id: string): RegistrationEntry | undefined {
    return this.#all.find(id);
  }

  /** Adds the entry, or replaces the one with its id. */
  put(entry: RegistrationEntry): void {
    this.remove(entry.id);
    this.#all.put(entry);
    const parent = entry.parentId.toString();
    const below = this.#byParent.get(parent);
    if (below === undefined) this.#byParent.set(parent, new Map([[entry.id, entry]]));
    else below.set(entry.id, entry);
    const spiffeId = entry.spiffeId.toString();
    this.#bySpiffeId.set(spiffeId, [...this.#named(spiffeId), entry]);
  }

  remove(id: string): void {
    const entry = this.#all.find(id);
    if (entry === undefined) return;
    this.#all.remove(id);
    const parent = entry.parentId.toString();
    const below = this.#byParent.get(parent);
    below?.delete(id);
    if (below?.size === 0) this.#byParent.delete(parent);
    const spiffeId = entry.spiffeId.toString();
    const others = this.#named(spiffeId).filter((other) => other !== entry);
    if (others.length === 0) this.#bySpiffeId.delete(spiffeId);
    else this.#bySpiffeId.set(spiffeId, others);
  }

  /** An equal ID that entries below it have already, so that thousands of them share one object. */
  sharedParent(parentId: SpiffeId): SpiffeId {
    const [sibling] = this.#byParent.get(parentId.toString())?.values() ?? [];
    return sibling?.parentId ?? parentId;
  }

  /** The entries that the filter means, in order of id, `limit` at most and beginning behind `afterId`. */
  list(
    filter: EntryFilter,
    page: { readonly afterId?: string | undefined; readonly limit?: number | undefined } = {},
  ): readonly RegistrationEntry[] {
    const { afterId, limit = Number.POSITIVE_INFINITY } = page;
    const matches = entryMatcher(filter);
    const found: RegistrationEntry[] = [];
    for (const entry of this.#all.after(afterId)) {
      if (found.length >= limit) break;
      if (matches(entry)) found.push(entry);
    }
    return found;
  }

  /** How many entries the filter means. */
  count(filter: EntryFilter): number {
    const matches = entryMatcher(filter);
    return this.#all.values().reduce((sum, entry) => sum + (matches(entry) ? 1 : 0), 0);
  }

  /** The ids of entries that have expired, `limit` at most. */
  expiredIds(now: number, limit: number): readonly string[] {
    const found: string[] = [];
    for (const entry of this.#all.values()) {
      if (found.length >= limit) break;
      if (hasExpired(entry, now)) found.push(entry.id);
    }
    return found;
  }

  /** The entries that this agent may have and that have not expired; the same for the same state, in any order. */
  authorizedFor(agent: Agent, now: number): readonly RegistrationEntry[] {
    const found: RegistrationEntry[] = [];
    const visited = new Set<string>();
    const parents = [agent.id.toString(), ...this.#aliasesOf(agent, now)];
    for (let parent = parents.pop(); parent !== undefined; parent = parents.pop()) {
      // An entry has one parent: where each parent is visited once, so is each entry.
      if (visited.has(parent)) continue;
      visited.add(parent);
      for (const entry of this.#byParent.get(parent)?.values() ?? []) {
        if (hasExpired(entry, now)) continue;
        found.push(entry);
        const spiffeId = entry.spiffeId.toString();
        if (this.#byParent.has(spiffeId)) parents.push(spiffeId);
      }
    }
    return found;
  }

  /** Whether the agent may have this entry now. */
  isAuthorized(agent: Agent, entryId: string, now: number): boolean {
    const entry = this.#all.find(entryId);
    if (entry === undefined || hasExpired(entry, now)) return false;
    // Climbing from one entry visits its few ancestors; walking down from the agent, or from all node aliases, would
    // cost each certificate of a batch a walk through the registry.
    const have = new Set(agent.selectors.map(selectorText));
    const visited = new Set<string>();
    const pending = [entry];
    for (let current = pending.pop(); current !== undefined; current = pending.pop()) {
      const parent = current.parentId.toString();
      if (parent === agent.id.toString()) return true;
      if (visited.has(parent)) continue;
      visited.add(parent);
      for (const above of this.#named(parent)) {
        if (hasExpired(above, now)) continue;
        const isAlias = above.parentId.toString() === this.#aliasParent;
        if (isAlias && isSubset(above.selectors, have)) return true;
        pending.push(above);
      }
    }
    return false;
  }

  /** Whether an unexpired entry gives this SPIFFE ID administrator rights. */
  isAdmin(id: SpiffeId, now: number): boolean {
    return this.#named(id.toString()).some((e) => e.admin && !hasExpired(e, now));
  }

  /** Whether an unexpired entry makes the holder of this SPIFFE ID a downstream server. */
  isDownstream(id: SpiffeId, now: number): boolean {
    return this.#named(id.toString()).some((e) => e.downstream && !hasExpired(e, now));
  }

  #aliasesOf(agent: Pick<AgentRecord, 'selectors'>, now: number): string[] {
    const have = new Set(agent.selectors.map(selectorText));
    return [...(this.#byParent.get(this.#aliasParent)?.values() ?? [])]
      .filter((alias) => !hasExpired(alias, now) && isSubset(alias.selectors, have))
      .map((alias) => alias.spiffeId.toString());
  }

  #named(spiffeId: string): readonly RegistrationEntry[] {
    return this.#bySpiffeId.get(spiffeId) ?? [];
  }
}

function hasExpired(entry: RegistrationEntry, now: number): boolean {
  return entry.expiresAt !== 0 && entry.expiresAt <= now;
}
