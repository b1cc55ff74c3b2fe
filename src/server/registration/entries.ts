import { randomUUID } from 'node:crypto';
import type { EntryChange, EntryCreation, EntryStore } from '../../plugin-api/data-store.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import { SerialQueue } from '../../runtime/serial-queue.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { canonicalSelectors } from '../../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { attemptEach, forAccepted } from './batch.ts';
import type { EntryIndex } from './entry-index.ts';
import { checkEntry } from './entry-rules.ts';

/** One transaction must not hold up the others for long. */
const pruneBatch = 500;

/**
 * The registry: every change is checked, stored, and then taken over by the index, in this order, one batch after
 * the other. `store` is the truth; the index answers all reads. Of a batch each item has its own result, an
 * AppError where it failed.
 */
export class Entries {
  readonly #deps: {
    readonly trustDomain: TrustDomain;
    readonly store: EntryStore;
    readonly index: EntryIndex;
  };
  readonly #changes = new SerialQueue();

  constructor(deps: {
    readonly trustDomain: TrustDomain;
    readonly store: EntryStore;
    readonly index: EntryIndex;
  }) {
    this.#deps = deps;
  }

  /** Reads all stored entries into the index. */
  async load(): Promise<void> {
    const { store, index } = this.#deps;
    for (const entry of await store.list()) {
      index.put({ ...entry, parentId: index.sharedParent(entry.parentId) });
    }
  }

  /** Stores new entries, with a random id where there is none; for an equal one the stored one is the result. */
  async create(entries: readonly NewEntry[]): Promise<readonly (EntryCreation | AppError)[]> {
    const wanted = attemptEach(entries, (entry) =>
      this.#checked({ ...entry, id: entry.id === '' ? randomUUID() : entry.id }),
    );
    return this.#inTurn(async () => {
      const results = await forAccepted(wanted, (accepted) => this.#deps.store.create(accepted));
      for (const result of results) {
        if (!isAppError(result) && result.created) this.#deps.index.put(result.entry);
      }
      return results;
    });
  }

  /** Replaces entries with what `change` makes of them; `not-found` where there is none. */
  update(changes: readonly EntryChange[]): Promise<readonly (RegistrationEntry | AppError)[]> {
    return this.#inTurn(async () => {
      const results = await this.#deps.store.update(
        changes.map(({ id, change }) => ({ id, change: (current) => this.#checked(change(current)) })),
      );
      for (const result of results) if (!isAppError(result)) this.#deps.index.put(result);
      return results;
    });
  }

  /** Returns what was deleted; `not-found` where there was nothing. */
  delete(ids: readonly string[]): Promise<readonly (RegistrationEntry | AppError)[]> {
    return this.#inTurn(async () => (await this.#delete(ids)).map((deleted) => deleted ?? notFound()));
  }

  /** Deletes the entries that have expired, as SPIRE's server does; `now` in Unix seconds. Returns them. */
  async prune(now: number): Promise<readonly RegistrationEntry[]> {
    const pruned: RegistrationEntry[] = [];
    for (;;) {
      // Chosen in turn: an entry whose end was just put off must not go.
      const batch = await this.#inTurn(() => this.#delete(this.#deps.index.expiredIds(now, pruneBatch)));
      if (batch.length === 0) return pruned;
      for (const entry of batch) if (entry !== undefined) pruned.push(entry);
    }
  }

  /** Takes over what another room's transaction may have stored below this parent, such as a join token's alias. */
  adoptBelow(parentId: SpiffeId): Promise<void> {
    return this.#inTurn(async () => {
      for (const entry of await this.#deps.store.list({ parentId })) this.#deps.index.put(entry);
    });
  }

  /** Runs another room's transaction that also changes entries, such as the deletion of a bundle, and takes over what it did. */
  changeWith<
    T extends { readonly changed: readonly RegistrationEntry[]; readonly deletedIds: readonly string[] },
  >(transaction: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      const outcome = await transaction();
      for (const entry of outcome.changed) this.#deps.index.put(entry);
      for (const id of outcome.deletedIds) this.#deps.index.remove(id);
      return outcome;
    });
  }

  /** Throws `not-found`. */
  get(id: string): RegistrationEntry {
    const entry = this.#deps.index.find(id);
    if (entry === undefined) throw notFound();
    return entry;
  }

  async #delete(ids: readonly string[]): Promise<readonly (RegistrationEntry | undefined)[]> {
    if (ids.length === 0) return [];
    const results = await this.#deps.store.delete(ids);
    for (const id of ids) this.#deps.index.remove(id);
    return results;
  }

  /** Throws `invalid-argument`. */
  #checked(entry: NewEntry): NewEntry {
    const wanted = {
      ...entry,
      parentId: this.#deps.index.sharedParent(entry.parentId),
      selectors: canonicalSelectors(entry.selectors),
    };
    checkEntry(wanted, this.#deps.trustDomain);
    return wanted;
  }

  /** Else the index could take over two changes in another order than the store, and keep a deleted entry. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    return this.#changes.run(change);
  }
}

function notFound(): AppError {
  return new AppError('not-found', 'entry not found');
}
