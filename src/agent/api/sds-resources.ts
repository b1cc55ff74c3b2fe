import type { Secret } from '../../gen/envoy/extensions/transport_sockets/tls/v3/secret.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSelfSigned } from '../../spiffe/bundle-remarks.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { HeldSvid, WorkloadView } from '../workload-view.ts';
import { checkSdsNames, parseSecretName, type SdsNames, type ValidatorFlavour } from './sds-names.ts';
import {
  certificateSecret,
  type EncodedSecret,
  encodeSecret,
  spiffeTrustSecret,
  type TrustAnchors,
  x509TrustSecret,
} from './secrets.ts';

/** Why a name is not served right now. */
export type HeldReason =
  | 'unknown name'
  | 'agent is starting'
  | 'no registration entry'
  | 'not entitled'
  | 'not signed yet'
  | 'no bundle yet'
  | 'bundle has no usable root'
  | 'several trust domains need the SPIFFE validator';

/** The secrets made of one object of a view; a reason is kept too, so that it is found out only once. */
type Cache<K extends object> = WeakMap<K, Map<string, EncodedSecret | HeldReason>>;

/**
 * Turns names into secrets of a workload's view. Pure but for its caches: each secret is encoded once per version,
 * whoever asks. Envoy takes an empty validation context and then authenticates nobody (envoy-sds.md §1.15), so
 * nothing empty can be made here: what is incomplete is held, with a reason.
 */
export class SdsResources {
  readonly names: SdsNames;
  readonly #validator: ValidatorFlavour;
  readonly #identifier: string;
  readonly #ofSvid: Cache<HeldSvid> = new WeakMap();
  readonly #ofBundle: Cache<Bundle> = new WeakMap();
  /** By the list of federated bundles, which views share, for the own bundle it was made with. */
  readonly #ofAll = new WeakMap<
    readonly Bundle[],
    { readonly own: Bundle; readonly secret: EncodedSecret | HeldReason }
  >();

  /** `identifier` is what Envoy shows as its control plane. Throws `invalid-argument` for ambiguous names. */
  constructor(options: {
    readonly names: SdsNames;
    readonly validator: ValidatorFlavour;
    readonly identifier: string;
  }) {
    this.names = checkSdsNames(options.names);
    this.#validator = options.validator;
    this.#identifier = options.identifier;
  }

  /** The secret of this name for this workload, or undefined while it is held. `validator` is the proxy's own wish. */
  find(name: string, view: WorkloadView, validator?: ValidatorFlavour): EncodedSecret | undefined {
    const found = this.#resolve(name, view, validator ?? this.#validator);
    return typeof found === 'string' ? undefined : found;
  }

  /** Why `find` returns nothing; undefined when it returns something. */
  whyHeld(name: string, view: WorkloadView, validator?: ValidatorFlavour): HeldReason | undefined {
    const found = this.#resolve(name, view, validator ?? this.#validator);
    return typeof found === 'string' ? found : undefined;
  }

  /** Everything in the view once, as SPIRE names it: bundles first, since a leaf without its bundle is of no use. */
  allNames(view: WorkloadView): readonly string[] {
    const own = view.bundle === undefined ? [] : [view.bundle];
    const bundles = [...own, ...view.federatedBundles].map((bundle) => bundle.trustDomain.id);
    return [...bundles, ...new Set(view.identities.map(({ entry }) => entry.spiffeId.toString()))];
  }

  #resolve(name: string, view: WorkloadView, flavour: ValidatorFlavour): EncodedSecret | HeldReason {
    const wanted = parseSecretName(name, this.names);
    if (wanted === undefined) return 'unknown name';
    if (!view.isSynced) return 'agent is starting';
    if (view.identities.length === 0) return 'no registration entry';
    switch (wanted.kind) {
      case 'default-svid':
        // Only ever the first: falling back to another would change the workload's identity under it.
        return this.#certificate(name, view.identities[0]?.svid);
      case 'svid': {
        const entitled = view.identities.filter(({ entry }) => entry.spiffeId.toString() === wanted.id);
        if (entitled.length === 0) return 'not entitled';
        return this.#certificate(name, entitled.find(({ svid }) => svid !== undefined)?.svid);
      }
      case 'own-bundle':
        return view.bundle === undefined ? 'no bundle yet' : this.#trust(name, view.bundle, flavour);
      case 'bundle': {
        const isWanted = (bundle: Bundle) => bundle.trustDomain.equals(wanted.trustDomain);
        const bundle = [view.bundle, ...view.federatedBundles].find((b) => b !== undefined && isWanted(b));
        return bundle === undefined ? 'not entitled' : this.#trust(name, bundle, flavour);
      }
      case 'all-bundles':
        return this.#allTrust(name, view, flavour);
    }
  }

  #certificate(name: string, held: HeldSvid | undefined): EncodedSecret | HeldReason {
    if (held === undefined) return 'not signed yet';
    return madeOnce(this.#ofSvid, held, name, () => this.#encode(certificateSecret(name, held)));
  }

  #trust(name: string, bundle: Bundle, flavour: ValidatorFlavour): EncodedSecret | HeldReason {
    return madeOnce(this.#ofBundle, bundle, `${flavour} ${name}`, () => {
      const anchors = flavour === 'spiffe' ? selfSignedAnchors(bundle) : allAnchors(bundle);
      if (anchors === undefined) return 'bundle has no usable root';
      return this.#encode(
        flavour === 'spiffe' ? spiffeTrustSecret(name, [anchors]) : x509TrustSecret(name, anchors),
      );
    });
  }

  #allTrust(name: string, view: WorkloadView, flavour: ValidatorFlavour): EncodedSecret | HeldReason {
    const { bundle: own, federatedBundles: federated } = view;
    if (own === undefined) return 'no bundle yet';
    if (federated.length === 0) return this.#trust(name, own, flavour);
    if (flavour === 'x509') return 'several trust domains need the SPIFFE validator';
    const known = this.#ofAll.get(federated);
    if (known?.own === own) return known.secret;
    const secret = this.#encodeAll(name, own, federated);
    this.#ofAll.set(federated, { own, secret });
    return secret;
  }

  /** A federated bundle that cannot be used is left out; without the own one there is nothing to serve. */
  #encodeAll(name: string, own: Bundle, federated: readonly Bundle[]): EncodedSecret | HeldReason {
    const ownAnchors = selfSignedAnchors(own);
    if (ownAnchors === undefined) return 'bundle has no usable root';
    const others = federated.map(selfSignedAnchors).filter((anchors) => anchors !== undefined);
    const byName = (a: TrustAnchors, b: TrustAnchors) => (a.trustDomain < b.trustDomain ? -1 : 1);
    const [first = ownAnchors, ...rest] = [ownAnchors, ...others].sort(byName);
    return this.#encode(spiffeTrustSecret(name, [first, ...rest]));
  }

  #encode(secret: Secret): EncodedSecret {
    return encodeSecret(secret, this.#identifier);
  }
}

function madeOnce<K extends object>(
  cache: Cache<K>,
  owner: K,
  key: string,
  make: () => EncodedSecret | HeldReason,
): EncodedSecret | HeldReason {
  const ofOwner = cache.get(owner) ?? new Map<string, EncodedSecret | HeldReason>();
  cache.set(owner, ofOwner);
  const known = ofOwner.get(key);
  if (known !== undefined) return known;
  const made = make();
  ofOwner.set(key, made);
  return made;
}

/** What Envoy's SPIFFE validator can use of a bundle: it finds no path to an anchor that is not self-signed. */
function selfSignedAnchors(bundle: Bundle): TrustAnchors | undefined {
  return anchorsOf(bundle, bundle.certificates().filter(isSelfSigned));
}

function allAnchors(bundle: Bundle): TrustAnchors | undefined {
  return anchorsOf(bundle, bundle.certificates());
}

function anchorsOf(
  { trustDomain }: Bundle,
  [first, ...rest]: readonly Certificate[],
): TrustAnchors | undefined {
  return first === undefined ? undefined : { trustDomain: trustDomain.name, certificates: [first, ...rest] };
}
