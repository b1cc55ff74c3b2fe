import type { BundleDeleteMode, BundleDeletion, BundleStore } from '../../plugin-api/data-store.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import { SerialQueue } from '../../runtime/serial-queue.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly store: BundleStore;
  readonly log: Logger;
}

/**
 * The stored bundles of other trust domains in memory. Each change is stored and then taken over, one after the
 * other; `store` is the truth, memory answers agents.
 */
export class FederatedBundles {
  readonly #deps: Deps;
  readonly #byName: Observable<ReadonlyMap<string, Bundle>>;
  readonly #changes = new SerialQueue();

  private constructor(deps: Deps, bundles: readonly Bundle[]) {
    this.#deps = deps;
    this.#byName = new Observable(new Map(bundles.map((bundle) => [bundle.trustDomain.name, bundle])));
  }

  /** Reads the stored bundles. */
  static async load(deps: Deps): Promise<FederatedBundles> {
    const all = await deps.store.list();
    return new FederatedBundles(
      deps,
      all.filter((bundle) => !bundle.trustDomain.equals(deps.trustDomain)),
    );
  }

  /** By name of trust domain, as stored; never our own. */
  get byName(): Observable<ReadonlyMap<string, Bundle>> {
    return this.#byName;
  }

  /** Throws `not-found`. */
  get(trustDomain: TrustDomain): Bundle {
    const found = this.#byName.value.get(trustDomain.name);
    if (found === undefined) throw notFound();
    return found;
  }

  /** In order of name: those after `afterName`, at most `limit` of them. */
  list(page: { readonly afterName?: string | undefined; readonly limit: number }): readonly Bundle[] {
    const { afterName = '', limit } = page;
    const names = [...this.#byName.value.keys()].filter((name) => name > afterName).sort();
    const bundles = names.slice(0, limit).map((name) => this.#byName.value.get(name));
    return bundles.filter((bundle) => bundle !== undefined);
  }

  /** Throws `already-exists`. */
  create(bundle: Bundle): Promise<Bundle> {
    return this.#store(bundle.trustDomain, (current) => {
      if (current !== undefined) throw new AppError('already-exists', 'bundle already exists');
      return bundle;
    });
  }

  /** Stores the bundle, whether there was one before or not. */
  set(bundle: Bundle): Promise<Bundle> {
    return this.#store(bundle.trustDomain, () => bundle);
  }

  /** Throws `not-found`. */
  update(trustDomain: TrustDomain, change: (current: Bundle) => Bundle): Promise<Bundle> {
    return this.#store(trustDomain, (current) => {
      if (current === undefined) throw notFound();
      return change(current);
    });
  }

  /**
   * Deletes the bundle; returns what that did to entries. Throws `not-found`, and `failed-precondition` when entries
   * are in its way.
   */
  delete(trustDomain: TrustDomain, mode: BundleDeleteMode): Promise<BundleDeletion> {
    const { store, log } = this.#deps;
    return this.#inTurn(trustDomain, async () => {
      const deletion = await store.delete(trustDomain, mode);
      const others = new Map(this.#byName.value);
      others.delete(trustDomain.name);
      this.#byName.set(others);
      const { changed, deletedIds } = deletion;
      log.info(
        { trustDomain, mode, entriesChanged: changed.length, entriesDeleted: deletedIds.length },
        'federated bundle deleted',
      );
      return deletion;
    });
  }

  #store(trustDomain: TrustDomain, change: (current: Bundle | undefined) => Bundle): Promise<Bundle> {
    return this.#inTurn(trustDomain, async () => {
      const stored = await this.#deps.store.update(trustDomain, change);
      this.#byName.set(new Map(this.#byName.value).set(trustDomain.name, stored));
      const { sequence, x509Authorities, jwtAuthorities } = stored;
      this.#deps.log.info(
        { trustDomain, sequence, x509: x509Authorities.length, jwt: jwtAuthorities.length },
        'federated bundle stored',
      );
      return stored;
    });
  }

  /** Else memory could take over two changes in another order than the store. */
  async #inTurn<T>(trustDomain: TrustDomain, change: () => Promise<T>): Promise<T> {
    if (trustDomain.equals(this.#deps.trustDomain)) {
      throw new AppError('invalid-argument', `"${trustDomain}" is this server's own trust domain`);
    }
    return this.#changes.run(change);
  }
}

function notFound(): AppError {
  return new AppError('not-found', 'bundle not found');
}
