import type { SecretSource } from '../agent/api/delivery-choice.ts';
import type { CertificateResource, Resource, ServedResource, TrustResource } from '../agent/api/resource.ts';
import type { EncodedSecret } from '../agent/api/secrets.ts';
import type { WorkloadView } from '../agent/workload-view.ts';
import { emptyView } from '../agent/workload-view.ts';
import { Observable } from '../runtime/observable.ts';

/** Trust that may be cut: in `anchors`. Certificates are cut when their identity is another one. */
export interface FakeTrust extends TrustResource {
  readonly anchors: readonly string[];
  readonly label: string;
}

/** A certificate that needs no keys. */
export interface FakeCertificate extends CertificateResource {
  readonly identity: string;
  readonly label: string;
}

/** One for each use: resources are told apart by their identity. */
export function fakeTrust(label: string, anchors: readonly string[] = ['root']): FakeTrust {
  const certificates = anchors.map((anchor) => ({ trustDomain: anchor, certificates: [] }));
  const domains = certificates as unknown as TrustResource['domains'];
  return { kind: 'trust', flavour: 'spiffe', domains, anchors, label };
}

/** Valid for an hour from `notBeforeMs`. */
export function fakeCertificate(label: string, notBeforeMs = 0, identity = 'web'): FakeCertificate {
  const svid = { notBeforeMs, notAfterMs: notBeforeMs + 3_600_000 };
  return { kind: 'certificate', held: { svid } as CertificateResource['held'], identity, label };
}

/** What the agent says of a name that the workload may not have. */
export const absentResource: Resource = { kind: 'held', reason: 'not entitled', isAbsent: true };

/**
 * Resources of names without bundles and certificates: a small world that tests change at will. Their bytes are told
 * apart by their version only: `name label` or, of other bytes of the same, `name label+1`.
 */
export class FakeSecretSource implements SecretSource {
  readonly view = new Observable<WorkloadView>({ ...emptyView, isSynced: true });
  readonly changes = new Observable(0);
  readonly #worlds = new WeakMap<WorkloadView, ReadonlyMap<string, Resource>>();
  readonly #encoded = new Map<string, EncodedSecret>();
  readonly #cuts = new Map<string, FakeTrust>();
  /** How often it was asked what a name stands for. */
  resolved = 0;

  /** Another view, in which these names stand for something else. */
  set(changes: Readonly<Record<string, Resource>>): void {
    const world = new Map([...this.#worldOf(this.view.value), ...Object.entries(changes)]);
    const next = { ...this.view.value };
    this.#worlds.set(next, world);
    this.view.set(next);
  }

  /** The same view, in which a name stands for something else from now on. */
  setWithin(name: string, resource: Resource): void {
    this.#worlds.set(this.view.value, new Map([...this.#worldOf(this.view.value), [name, resource]]));
    this.changes.set(this.changes.value + 1);
  }

  resolve(name: string, view: WorkloadView): Resource {
    this.resolved += 1;
    return this.#worldOf(view).get(name) ?? absentResource;
  }

  /** Names of trust are written in capitals. */
  kindOf(name: string): ServedResource['kind'] {
    return name === name.toUpperCase() ? 'trust' : 'certificate';
  }

  encode(name: string, resource: ServedResource, salt = 0): EncodedSecret {
    const label = 'label' in resource ? String(resource.label) : 'nobody';
    const version = `${name} ${label}${salt === 0 ? '' : `+${salt}`}`;
    const known = this.#encoded.get(version);
    if (known !== undefined) return known;
    const response = Buffer.from(version);
    const { kind } = resource;
    const secret: EncodedSecret = { version, name, kind, bytes: 3_000, response: () => response };
    this.#encoded.set(version, secret);
    return secret;
  }

  cut(name: string, lastGood: ServedResource, view: WorkloadView): ServedResource | undefined {
    const now = this.#worldOf(view).get(name);
    if (lastGood.kind === 'certificate') {
      const { identity } = lastGood as FakeCertificate;
      const isSame = now?.kind !== 'certificate' || (now as FakeCertificate).identity === identity;
      return isSame && now !== undefined ? lastGood : undefined;
    }
    if (!('anchors' in lastGood) || now?.kind !== 'trust' || !('anchors' in now)) return lastGood;
    const { anchors, label } = lastGood as FakeTrust;
    const left = anchors.filter((anchor) => (now as FakeTrust).anchors.includes(anchor));
    if (left.length === anchors.length) return lastGood;
    const cutLabel = `${label}/${left.join()}`;
    const cut = this.#cuts.get(cutLabel) ?? fakeTrust(cutLabel, left);
    this.#cuts.set(cutLabel, cut);
    return cut;
  }

  allNames(view: WorkloadView): readonly string[] {
    return [...this.#worldOf(view).keys()];
  }

  #worldOf(view: WorkloadView): ReadonlyMap<string, Resource> {
    return this.#worlds.get(view) ?? new Map();
  }
}
