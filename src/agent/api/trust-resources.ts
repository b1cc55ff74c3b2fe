import { hash } from 'node:crypto';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSelfSigned } from '../../spiffe/bundle-remarks.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { Interned } from './interned.ts';
import type { Preflight } from './preflight.ts';
import type { Resource, TrustAnchors, TrustResource } from './resource.ts';
import type { ValidatorFlavour } from './sds-names.ts';

/** Trust that may be sent, or why it may not. */
type Trust = TrustResource | Extract<Resource, { kind: 'unfit' }>;

/** By trust domain, the fingerprints of what may be trusted. */
export type AllowedAnchors = ReadonlyMap<string, ReadonlySet<string>>;

/**
 * Makes trust of bundles, checked. Found once for each bundle; and the same anchors are the same object, whatever
 * bundle they come from.
 */
export class TrustResources {
  readonly #preflight: Preflight;
  readonly #interned = new Interned<TrustResource>();
  readonly #ofBundle: Readonly<Record<ValidatorFlavour, WeakMap<Bundle, Trust>>> = {
    spiffe: new WeakMap(),
    x509: new WeakMap(),
  };
  /** By the list of federated bundles, which views share, for the own bundle it was made with. */
  readonly #ofAll = new WeakMap<readonly Bundle[], { readonly own: Bundle; readonly trust: Trust }>();
  readonly #ofFile = new WeakMap<readonly Certificate[], Trust>();
  readonly #tooMany: Trust = {
    kind: 'unfit',
    problem:
      'several trust domains need the SPIFFE validator: in one plain pool each could forge the others; set sds.validator to spiffe or ask for each bundle by its trust-domain ID',
  };

  constructor(preflight: Preflight) {
    this.#preflight = preflight;
  }

  /** Trust in one trust domain. */
  ofBundle(bundle: Bundle, flavour: ValidatorFlavour): Trust {
    const known = this.#ofBundle[flavour].get(bundle);
    if (known !== undefined) return known;
    const trust = this.#made(bundle, flavour);
    this.#ofBundle[flavour].set(bundle, trust);
    return trust;
  }

  /** Trust in all of them; a federated bundle that cannot be used is left out, the own one must be there. */
  ofAll(own: Bundle, federated: readonly Bundle[], flavour: ValidatorFlavour): Trust {
    if (federated.length === 0) return this.ofBundle(own, flavour);
    if (flavour === 'x509') return this.#tooMany;
    const known = this.#ofAll.get(federated);
    if (known?.own === own) return known.trust;
    const trust = this.#madeOfAll(own, federated);
    this.#ofAll.set(federated, { own, trust });
    return trust;
  }

  /** Trust in the certificates of a file, which are of no trust domain. */
  ofFile(path: string, certificates: readonly Certificate[]): Trust {
    const known = this.#ofFile.get(certificates);
    if (known !== undefined) return known;
    const trust = this.#checked(this.#trust('x509', anchors(path, certificates)));
    this.#ofFile.set(certificates, trust);
    return trust;
  }

  /** The same trust without what is not allowed any more; this very object when there is nothing of that. */
  cut(trust: TrustResource, allowed: AllowedAnchors): TrustResource {
    const domains = trust.domains.flatMap((domain) => {
      const fingerprints = allowed.get(domain.trustDomain);
      const left = domain.certificates.filter(({ fingerprint }) => fingerprints?.has(fingerprint));
      return left.length === domain.certificates.length ? [domain] : anchors(domain.trustDomain, left);
    });
    const isWhole =
      domains.length === trust.domains.length && domains.every((d, i) => d === trust.domains[i]);
    return isWhole ? trust : this.#trust(trust.flavour, domains);
  }

  #made(bundle: Bundle, flavour: ValidatorFlavour): Trust {
    const { name } = bundle.trustDomain;
    const usable = bundle
      .certificates()
      .filter((one) => one.isCa && (flavour === 'x509' || isSelfSigned(one)));
    const domains = anchors(name, usable);
    if (domains.length === 0) return this.#unfit(name, noUsableRoot(bundle, flavour));
    return this.#checked(this.#trust(flavour, domains));
  }

  #madeOfAll(own: Bundle, federated: readonly Bundle[]): Trust {
    const ofOwn = this.ofBundle(own, 'spiffe');
    if (ofOwn.kind === 'unfit') return ofOwn;
    const others = federated.map((bundle) => this.ofBundle(bundle, 'spiffe'));
    const domains = [ofOwn, ...others].flatMap((trust) => (trust.kind === 'trust' ? trust.domains : []));
    return this.#checked(this.#trust('spiffe', domains.sort(byName)));
  }

  #checked(trust: TrustResource): Trust {
    const problem = this.#preflight.trustProblem(trust);
    return problem === undefined ? trust : { kind: 'unfit', problem };
  }

  #trust(flavour: ValidatorFlavour, domains: readonly TrustAnchors[]): TrustResource {
    const contents = domains.map(({ trustDomain, certificates }) => [
      trustDomain,
      ...certificates.map(({ fingerprint }) => fingerprint),
    ]);
    const content = hash('sha256', JSON.stringify([flavour, contents]));
    return this.#interned.get(content, () => ({ kind: 'trust', flavour, domains }));
  }

  #unfit(trustDomain: string, problem: string): Trust {
    this.#preflight.note({ trustDomains: [trustDomain] }, problem);
    return { kind: 'unfit', problem };
  }
}

/** In an order that does not depend on how they came, so that their secret has one version; none for no certificates. */
function anchors(trustDomain: string, certificates: readonly Certificate[]): readonly TrustAnchors[] {
  const [first, ...rest] = [...certificates].sort((a, b) => (a.fingerprint < b.fingerprint ? -1 : 1));
  return first === undefined ? [] : [{ trustDomain, certificates: [first, ...rest] }];
}

function byName(a: TrustAnchors, b: TrustAnchors): number {
  return a.trustDomain < b.trustDomain ? -1 : 1;
}

function noUsableRoot(bundle: Bundle, flavour: ValidatorFlavour): string {
  const total = bundle.certificates().length;
  const has = `bundle of "${bundle.trustDomain.name}" has no usable root`;
  if (total === 0) return `${has}: it has no X.509 authorities at all`;
  if (flavour === 'x509') return `${has}: none of its ${total} X.509 authorities is a CA`;
  return `${has}: none of its ${total} X.509 authorities is a self-signed CA, which Envoy's SPIFFE validator needs`;
}
