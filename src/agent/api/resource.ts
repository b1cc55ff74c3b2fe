import type { Certificate } from '../../x509/certificate.ts';
import type { HeldSvid } from '../workload-view.ts';
import type { ValidatorFlavour } from './sds-names.ts';

/** Why a name is not served right now, though nothing is wrong with what it stands for. */
export type HeldReason =
  | 'unknown name'
  | 'agent is starting'
  | 'no registration entry'
  | 'not entitled'
  | 'not signed yet'
  | 'signing failed'
  | 'no bundle yet'
  | 'bundle gone'
  | 'file not read yet';

/** Anchors of one trust domain (of a file of roots: under the file's name); at least one. */
export interface TrustAnchors {
  readonly trustDomain: string;
  readonly certificates: readonly [Certificate, ...Certificate[]];
}

/** A chain and its key. */
export interface CertificateResource {
  readonly kind: 'certificate';
  readonly held: HeldSvid;
}

/** Whom to trust, each domain for its own names only; no domain at all: nobody. Of `x509` there is at most one. */
export interface TrustResource {
  readonly kind: 'trust';
  readonly flavour: ValidatorFlavour;
  readonly domains: readonly TrustAnchors[];
}

/** What can be sent to Envoy. */
export type ServedResource = CertificateResource | TrustResource;

/** What a name stands for in a view now. A served one is the same object for as long as its content is the same. */
export type Resource =
  | ServedResource
  /** `isAbsent`: it is certain that this caller may not have it now; never so from a cold cache. */
  | { readonly kind: 'held'; readonly reason: HeldReason; readonly isAbsent: boolean }
  /** It is there but must not be sent: `problem` says what is wrong with it, for people. */
  | { readonly kind: 'unfit'; readonly problem: string };
