import type { AgentRecord } from '../../plugin-api/data-store.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { isSubset, selectorText } from '../../spiffe/selector.ts';
import { type SpiffeId, serverIdOf, type TrustDomain } from '../../spiffe/spiffe-id.ts';

/**
 * All registration entries in memory, indexed for the one question that every agent asks every few seconds: which
 * entries may it have? Those below its own ID, below any node alias that its selectors match (an entry whose
 * parent is the server), and below the SPIFFE IDs of entries found so far, transitively.
 */
export class EntryIndex {
  readonly #aliasParent: string;
  readonly #byId = new Map<string, RegistrationEntry>();
  readonly #byParent = new Map<string, Map<string, RegistrationEntry>>();
  readonly #bySpiffeId = new Map<string, Map<string, RegistrationEntry>>();

  constructor(trustDomain: TrustDomain) {
    this.#aliasParent = serverIdOf(trustDomain).toString();
  }

  get size(): number {
    return this.#byId.size;
  }

  find(id: string): RegistrationEntry | undefined {
    return this.#byId.get(id);
  }

  /** Adds the entry, or replaces the one with its id. */
  put(entry: RegistrationEntry): void {
    this.remove(entry.id);
    this.#byId.set(entry.id, entry);
    addTo(this.#byParent, entry.parentId.toString(), entry);
    addTo(this.#bySpiffeId, entry.spiffeId.toString(), entry);
  }

  remove(id: string): void {
    const entry = this.#byId.get(id);
    if (entry === undefined) return;
    this.#byId.delete(id);
    removeFrom(this.#byParent, entry.parentId.toString(), id);
    removeFrom(this.#bySpiffeId, entry.spiffeId.toString(), id);
  }

  /** The entries that this agent may have and that have not expired, in order of id. `now` in Unix seconds. */
  authorizedFor(agent: Pick<AgentRecord, 'id' | 'selectors'>, now: number): readonly RegistrationEntry[] {
    const found = new Map<string, RegistrationEntry>();
    const visited = new Set<string>();
    const parents = [agent.id.toString(), ...this.#aliasesOf(agent, now)];
    for (let parent = parents.pop(); parent !== undefined; parent = parents.pop()) {
      if (visited.has(parent)) continue;
      visited.add(parent);
      for (const entry of this.#byParent.get(parent)?.values() ?? []) {
        if (hasExpired(entry, now)) continue;
        found.set(entry.id, entry);
        parents.push(entry.spiffeId.toString());
      }
    }
    return [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** Whether the agent may have this entry now. */
  isAuthorized(agent: Pick<AgentRecord, 'id' | 'selectors'>, entryId: string, now: number): boolean {
    const entry = this.#byId.get(entryId);
    if (entry === undefined || hasExpired(entry, now)) return false;
    // Climbing from one entry visits its few ancestors; walking down from the agent would visit all entries.
    const goals = new Set([agent.id.toString(), ...this.#aliasesOf(agent, now)]);
    const visited = new Set<string>();
    const pending = [entry];
    for (let current = pending.pop(); current !== undefined; current = pending.pop()) {
      const parent = current.parentId.toString();
      if (goals.has(parent)) return true;
      if (visited.has(parent)) continue;
      visited.add(parent);
      for (const above of this.#bySpiffeId.get(parent)?.values() ?? []) {
        // A node alias leads no further: its parent is the server, which is nobody's goal.
        if (!hasExpired(above, now)) pending.push(above);
      }
    }
    return false;
  }

  /** Whether an unexpired entry gives this SPIFFE ID administrator rights. */
  isAdmin(id: SpiffeId, now: number): boolean {
    return [...(this.#bySpiffeId.get(id.toString())?.values() ?? [])].some(
      (e) => e.admin && !hasExpired(e, now),
    );
  }

  #aliasesOf(agent: Pick<AgentRecord, 'selectors'>, now: number): string[] {
    const have = new Set(agent.selectors.map(selectorText));
    return [...(this.#byParent.get(this.#aliasParent)?.values() ?? [])]
      .filter((alias) => !hasExpired(alias, now) && isSubset(alias.selectors, have))
      .map((alias) => alias.spiffeId.toString());
  }
}

function hasExpired(entry: RegistrationEntry, now: number): boolean {
  return entry.expiresAt !== 0 && entry.expiresAt <= now;
}

function addTo(
  map: Map<string, Map<string, RegistrationEntry>>,
  key: string,
  entry: RegistrationEntry,
): void {
  const group = map.get(key);
  if (group === undefined) map.set(key, new Map([[entry.id, entry]]));
  else group.set(entry.id, entry);
}

function removeFrom(map: Map<string, Map<string, RegistrationEntry>>, key: string, id: string): void {
  const group = map.get(key);
  group?.delete(id);
  if (group?.size === 0) map.delete(key);
}
