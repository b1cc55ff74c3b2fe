import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { KeyType } from '../../x509/signature.ts';
import {
  chosenIdentities,
  findHeldSvid,
  type HeldSvid,
  type Identity,
  type WorkloadView,
} from '../workload-view.ts';
import type { FileRoots } from './file-roots.ts';
import { foreignText } from './foreign-text.ts';
import { Preflight } from './preflight.ts';
import type { CertificateResource, HeldReason, Resource, ServedResource } from './resource.ts';
import {
  type CertificateName,
  isCertificateName,
  parseSecretName,
  type SdsNames,
  type SecretName,
  type ValidatorFlavour,
} from './sds-names.ts';
import { secretProblem } from './secret-check.ts';
import { type EncodedSecret, encodedSecret, secretBytes } from './secrets.ts';
import { type AllowedAnchors, TrustResources } from './trust-resources.ts';

type TrustName = Exclude<SecretName, CertificateName>;

const unknownName = held('unknown name', { isAbsent: true });
const starting = held('agent is starting');
const noEntry = held('no registration entry', { isAbsent: true });
const notEntitled = held('not entitled', { isAbsent: true });
const notSigned = held('not signed yet');
const signingFailed = held('signing failed');
const noBundle = held('no bundle yet');
const bundleGone = held('bundle gone', { isAbsent: true });
const notRead = held('file not read yet');

/**
 * Turns names into what they stand for in a workload's view, and that into secrets. Pure but for its caches and the
 * time: everything is checked and encoded once per content, whoever asks. Nothing that Envoy would take for trust in
 * everybody can be made here: what is incomplete is held, what is wrong is unfit, each with its reason.
 */
export class SdsResources {
  readonly names: SdsNames;
  readonly preflight: Preflight;
  readonly #validator: ValidatorFlavour;
  readonly #identifier: string;
  readonly #fileRoots: FileRoots;
  readonly #trust: TrustResources;
  readonly #ofSvid = new WeakMap<HeldSvid, CertificateResource>();
  readonly #encoded = new WeakMap<ServedResource, Map<string, EncodedSecret>>();

  /** `identifier` is what Envoy shows as its control plane; `validator` is for proxies without a wish of their own. */
  constructor(options: {
    readonly names: SdsNames;
    readonly validator: ValidatorFlavour;
    readonly identifier: string;
    readonly fileRoots: FileRoots;
    readonly clock: Clock;
    readonly log: Logger;
  }) {
    this.names = options.names;
    this.#validator = options.validator;
    this.#identifier = options.identifier;
    this.#fileRoots = options.fileRoots;
    this.preflight = new Preflight(options);
    this.#trust = new TrustResources(this.preflight);
  }

  /** Set when `resolve` may answer otherwise for the same view: a file of roots has been read. */
  get changes(): Observable<number> {
    return this.#fileRoots.changes;
  }

  /** What the name stands for in this view now. `flavour` is the proxy's own wish. */
  resolve(name: string, view: WorkloadView, flavour: ValidatorFlavour = this.#validator): Resource {
    const wanted = parseSecretName(name, this.names);
    if (wanted === undefined) return unknownName;
    if (!view.isSynced) return starting;
    if (view.identities.length === 0) return noEntry;
    return isCertificateName(wanted)
      ? this.#certificate(wanted, view, flavour)
      : this.#trusted(wanted, view, flavour);
  }

  /** Why there is nothing to send for this name; undefined when there is. */
  whyHeld(name: string, view: WorkloadView, flavour?: ValidatorFlavour): string | undefined {
    const found = this.resolve(name, view, flavour);
    if (found.kind === 'held') return found.reason;
    return found.kind === 'unfit' ? found.problem : undefined;
  }

  /**
   * The secret of a resource under this name, the same object each time. `salt` (0 to 100) makes other bytes of the
   * same meaning. Throws AppError `internal` for what must never leave the process, such as a certificate under the
   * name of a validation context.
   */
  encode(name: string, resource: ServedResource, salt = 0): EncodedSecret {
    const known = this.#encoded.get(resource);
    const key = `${salt} ${name}`;
    const encoded = known?.get(key) ?? this.#encode(name, resource, salt);
    if (known === undefined) this.#encoded.set(resource, new Map([[key, encoded]]));
    else known.set(key, encoded);
    return encoded;
  }

  /**
   * What of something that this name stood for earlier is allowed now, so that a last good version never brings back
   * what has been withdrawn: the same object when all of it is; of a certificate undefined when it is not; of trust
   * what is left, which may be trust in nobody.
   */
  cut(
    name: string,
    lastGood: ServedResource,
    view: WorkloadView,
    flavour: ValidatorFlavour = this.#validator,
  ): ServedResource | undefined {
    const wanted = parseSecretName(name, this.names);
    if (wanted === undefined) return undefined;
    if (lastGood.kind === 'trust') {
      if (isCertificateName(wanted)) return undefined;
      return this.#trust.cut(lastGood, this.#allowed(wanted, view));
    }
    return isCertificateName(wanted) && this.#isStillGood(wanted, lastGood, view, flavour)
      ? lastGood
      : undefined;
  }

  /** What a name is for ever; undefined for one that nobody is ever served. */
  kindOf(name: string): ServedResource['kind'] | undefined {
    const wanted = parseSecretName(name, this.names);
    if (wanted === undefined) return undefined;
    return isCertificateName(wanted) ? 'certificate' : 'trust';
  }

  /** Everything in the view once, as SPIRE names it: bundles first, since a leaf without its bundle is of no use. */
  allNames(view: WorkloadView): readonly string[] {
    const bundles = bundlesOf(view).map((bundle) => bundle.trustDomain.id);
    return [...bundles, ...new Set(view.identities.map(({ entry }) => entry.spiffeId.toString()))];
  }

  #certificate(wanted: CertificateName, view: WorkloadView, flavour: ValidatorFlavour): Resource {
    const entitled = chosenIdentities(view.identities, wanted);
    if (entitled.length === 0) return notEntitled;
    let problem: string | undefined;
    for (const identity of entitled) {
      const svid = findHeldSvid(identity, wanted.keyType);
      if (svid === undefined || !svid.svid.id.equals(identity.entry.spiffeId)) continue;
      if (view.bundle === undefined) return noBundle;
      const resource = this.#resourceOf(svid);
      const found = this.#certificateProblem(resource, view.bundle, flavour);
      if (found === undefined) return resource;
      problem ??= found;
    }
    if (problem !== undefined) return { kind: 'unfit', problem };
    return entitled.some((identity) => isUnsigned(identity, wanted.keyType)) ? signingFailed : notSigned;
  }

  #trusted(wanted: TrustName, view: WorkloadView, flavour: ValidatorFlavour): Resource {
    switch (wanted.kind) {
      case 'own-bundle':
        return view.bundle === undefined ? noBundle : this.#trust.ofBundle(view.bundle, flavour);
      case 'all-bundles':
        // Without some of them it would take trust away that a proxy may still have from before this agent's start.
        if (view.bundle === undefined || isAwaited(view)) return noBundle;
        return this.#trust.ofAll(view.bundle, view.federatedBundles, flavour);
      case 'bundle': {
        const [bundle] = bundlesNamed(wanted, view);
        if (bundle !== undefined) return this.#trust.ofBundle(bundle, flavour);
        return absenceOf(wanted.trustDomain, view);
      }
      case 'file-root': {
        const file = this.#fileRoots.find(wanted.path);
        if (file.kind === 'reading') return notRead;
        return file.kind === 'read' ? this.#trust.ofFile(wanted.path, file.certificates) : file;
      }
    }
  }

  #certificateProblem(
    resource: CertificateResource,
    bundle: Bundle,
    flavour: ValidatorFlavour,
  ): string | undefined {
    const own = this.#trust.ofBundle(bundle, flavour);
    return own.kind === 'unfit' ? own.problem : this.preflight.certificateProblem(resource, own);
  }

  #isStillGood(
    wanted: CertificateName,
    lastGood: CertificateResource,
    view: WorkloadView,
    flavour: ValidatorFlavour,
  ): boolean {
    const { svid, keyType } = lastGood.held;
    const isEntitled = chosenIdentities(view.identities, wanted).some(({ entry }) =>
      entry.spiffeId.equals(svid.id),
    );
    if (!isEntitled || view.bundle === undefined) return false;
    if (wanted.keyType !== undefined && wanted.keyType !== keyType) return false;
    return this.#certificateProblem(lastGood, view.bundle, flavour) === undefined;
  }

  /** What may be trusted under this name now, in any form. */
  #allowed(wanted: TrustName, view: WorkloadView): AllowedAnchors {
    if (view.identities.length === 0) return new Map();
    if (wanted.kind !== 'file-root') {
      const bundles = bundlesNamed(wanted, view);
      return new Map(
        bundles.map((bundle) => [
          bundle.trustDomain.name,
          new Set(bundle.certificates().map(({ fingerprint }) => fingerprint)),
        ]),
      );
    }
    const file = this.#fileRoots.find(wanted.path);
    if (file.kind !== 'read') return new Map();
    return new Map([[wanted.path, new Set(file.certificates.map(({ fingerprint }) => fingerprint))]]);
  }

  #encode(name: string, resource: ServedResource, salt: number): EncodedSecret {
    const refused = (problem: string) =>
      new AppError('internal', `secret "${foreignText(name)}" is not sent: ${problem}`);
    const wanted = parseSecretName(name, this.names);
    if (wanted === undefined) throw refused('nobody is served this name');
    if (isCertificateName(wanted) !== (resource.kind === 'certificate')) {
      throw refused(`the name is not one of a ${resource.kind} secret`);
    }
    const value = secretBytes(name, resource, salt);
    const problem = secretProblem(value, name, resource);
    if (problem !== undefined) throw refused(problem);
    return encodedSecret({ name, kind: resource.kind }, value, this.#identifier);
  }

  #resourceOf(svid: HeldSvid): CertificateResource {
    const known = this.#ofSvid.get(svid);
    if (known !== undefined) return known;
    const resource: CertificateResource = { kind: 'certificate', held: svid };
    this.#ofSvid.set(svid, resource);
    return resource;
  }
}

function held(reason: HeldReason, { isAbsent = false } = {}): Resource {
  return { kind: 'held', reason, isAbsent };
}

/** The server was asked for the one that is missing, and did not sign it. */
function isUnsigned({ svid, unsigned }: Identity, keyType: KeyType | undefined): boolean {
  if (unsigned === undefined) return false;
  return keyType === undefined ? svid === undefined : unsigned.has(keyType);
}

function bundlesOf({ bundle, federatedBundles }: WorkloadView): readonly Bundle[] {
  return bundle === undefined ? federatedBundles : [bundle, ...federatedBundles];
}

function bundlesNamed(
  wanted: Exclude<TrustName, { kind: 'file-root' }>,
  view: WorkloadView,
): readonly Bundle[] {
  switch (wanted.kind) {
    case 'own-bundle':
      return view.bundle === undefined ? [] : [view.bundle];
    case 'all-bundles':
      return bundlesOf(view);
    case 'bundle':
      return bundlesOf(view).filter(({ trustDomain }) => trustDomain.equals(wanted.trustDomain));
  }
}

function isAwaited({ missingBundles }: WorkloadView): boolean {
  return [...missingBundles.values()].includes('awaited');
}

/** Why there is no bundle of this trust domain in the view. */
function absenceOf(trustDomain: TrustDomain, { identities, missingBundles }: WorkloadView): Resource {
  const missing = missingBundles.get(trustDomain.name);
  if (missing !== undefined) return missing === 'gone' ? bundleGone : noBundle;
  const isOwn = identities.some(({ entry }) => entry.spiffeId.isMemberOf(trustDomain));
  return isOwn ? noBundle : notEntitled;
}
