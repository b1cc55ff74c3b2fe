import { randomUUID } from 'node:crypto';
import type { EntryQuery, EntryStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { canonicalSelectors } from '../../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { EntryIndex } from './entry-index.ts';
import { checkEntry } from './entry-rules.ts';

/**
 * The registry: every change is checked, stored, and then taken over by the index, in this order, one change after
 * the other. `store` is the truth; the index answers reads of agents.
 */
export class Entries {
  readonly #deps: {
    readonly trustDomain: TrustDomain;
    readonly store: EntryStore;
    readonly index: EntryIndex;
  };
  #lastChange: Promise<unknown> = Promise.resolve();

  constructor(deps: {
    readonly trustDomain: TrustDomain;
    readonly store: EntryStore;
    readonly index: EntryIndex;
  }) {
    this.#deps = deps;
  }

  /** Reads all stored entries into the index. */
  async load(): Promise<void> {
    for (const entry of await this.#deps.store.list({})) this.#deps.index.put(entry);
  }

  /** Stores a new entry, with a random id when it has none; an equal one is returned with `created: false`. */
  async create(entry: NewEntry): Promise<{ readonly entry: RegistrationEntry; readonly created: boolean }> {
    const wanted = canonical({ ...entry, id: entry.id === '' ? randomUUID() : entry.id });
    checkEntry(wanted, this.#deps.trustDomain);
    return this.#inTurn(async () => {
      const result = await this.#deps.store.create(wanted);
      if (result.created) this.#deps.index.put(result.entry);
      return result;
    });
  }

  /** Replaces an entry with what `change` makes of it; throws `not-found`. */
  update(id: string, change: (current: RegistrationEntry) => NewEntry): Promise<RegistrationEntry> {
    return this.#inTurn(async () => {
      const updated = await this.#deps.store.update(id, (current) => {
        const wanted = canonical(change(current));
        checkEntry(wanted, this.#deps.trustDomain);
        return wanted;
      });
      this.#deps.index.put(updated);
      return updated;
    });
  }

  /** Throws `not-found`. */
  delete(id: string): Promise<RegistrationEntry> {
    return this.#inTurn(async () => {
      const deleted = await this.#deps.store.delete(id);
      if (deleted === undefined) throw new AppError('not-found', 'entry not found');
      this.#deps.index.remove(id);
      return deleted;
    });
  }

  /** Takes over what another room's transaction may have stored below this parent, such as a join token's alias. */
  adoptBelow(parentId: SpiffeId): Promise<void> {
    return this.#inTurn(async () => {
      for (const entry of await this.#deps.store.list({ parentId })) this.#deps.index.put(entry);
    });
  }

  /** Throws `not-found`. */
  get(id: string): RegistrationEntry {
    const entry = this.#deps.index.find(id);
    if (entry === undefined) throw new AppError('not-found', 'entry not found');
    return entry;
  }

  list(query: EntryQuery): Promise<readonly RegistrationEntry[]> {
    return this.#deps.store.list(query);
  }

  /** Else the index could take over two changes in another order than the store, and keep a deleted entry. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#lastChange.then(change);
    this.#lastChange = turn.catch(() => undefined);
    return turn;
  }
}

function canonical(entry: NewEntry): NewEntry {
  return { ...entry, selectors: canonicalSelectors(entry.selectors) };
}
