import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';

/**
 * Entries by id, and in order of id (in code units). Changes only note what they touch; the order is mended when it
 * is next asked for, so that thousands of changes in a row cost no more each than the first.
 */
export class SortedEntries {
  readonly #byId = new Map<string, RegistrationEntry>();
  #sorted: readonly RegistrationEntry[] = [];
  readonly #changed = new Set<string>();

  get size(): number {
    return this.#byId.size;
  }

  find(id: string): RegistrationEntry | undefined {
    return this.#byId.get(id);
  }

  /** Adds the entry, or replaces the one with its id. */
  put(entry: RegistrationEntry): void {
    this.#byId.set(entry.id, entry);
    this.#changed.add(entry.id);
  }

  remove(id: string): void {
    if (this.#byId.delete(id)) this.#changed.add(id);
  }

  /** In order of id. What is returned does not change any more. */
  values(): readonly RegistrationEntry[] {
    if (this.#changed.size > 0) {
      this.#sorted = this.#merged();
      this.#changed.clear();
    }
    return this.#sorted;
  }

  /** Those behind `id`, which need not be there itself; without an id all. In order. */
  *after(id: string | undefined): Generator<RegistrationEntry> {
    const entries = this.values();
    let at = id === undefined ? 0 : position(entries, id);
    if (id !== undefined && entries[at]?.id === id) at += 1;
    for (; at < entries.length; at += 1) {
      const entry = entries[at];
      if (entry !== undefined) yield entry;
    }
  }

  #merged(): readonly RegistrationEntry[] {
    const merged: RegistrationEntry[] = [];
    const changed = [...this.#changed].sort().values();
    let next = changed.next();
    for (const before of this.#sorted) {
      for (; !next.done && next.value < before.id; next = changed.next()) this.#take(next.value, merged);
      if (next.done || next.value !== before.id) merged.push(before);
    }
    for (; !next.done; next = changed.next()) this.#take(next.value, merged);
    return merged;
  }

  #take(id: string, into: RegistrationEntry[]): void {
    const entry = this.#byId.get(id);
    if (entry !== undefined) into.push(entry);
  }
}

/** Where `id` is, or would be. */
function position(entries: readonly RegistrationEntry[], id: string): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((entries[middle]?.id ?? '') < id) low = middle + 1;
    else high = middle;
  }
  return low;
}
