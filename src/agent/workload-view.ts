import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';

/** An X.509-SVID with its key, as the agent holds it for a registration entry. Never changed: a renewal is a new one. */
export interface HeldSvid {
  /** The entry as it was when this was signed. */
  readonly entry: RegistrationEntry;
  readonly svid: X509Svid;
  /** PKCS#8 PEM. */
  readonly privateKeyPem: string;
  readonly issuedAtMs: number;
  /** Drawn once, by `rotation-policy.ts`. */
  readonly renewAtMs: number;
}

/** One identity that a workload is entitled to. */
export interface Identity {
  readonly entry: RegistrationEntry;
  /** Undefined while it is not signed yet, and again once it has expired. */
  readonly svid: HeldSvid | undefined;
  /** The entry's hint, but empty when an older entry of the same view has that hint (Workload API §5.2.1). */
  readonly hint: string;
}

/**
 * All that the workloads with one set of selectors may have. Who has no identity has no bundle either. The objects
 * in it keep their identity while their content is the same, so that they can be keys of caches.
 */
export interface WorkloadView {
  /** False until the server has told the entries: until then an empty view proves nothing. */
  readonly isSynced: boolean;
  /** Oldest entry first, then by id: the first one is the default and stays it when others are added. */
  readonly identities: readonly Identity[];
  readonly bundle: Bundle | undefined;
  /** Bundles of the trust domains that the identities federate with, by name; never the own one. */
  readonly federatedBundles: readonly Bundle[];
}

/** The view of nobody before anything is known. */
export const emptyView: WorkloadView = {
  isSynced: false,
  identities: [],
  bundle: undefined,
  federatedBundles: [],
};

/** The stable order of identities: by creation, then by id. */
export function byAge(a: RegistrationEntry, b: RegistrationEntry): number {
  if (a.createdAt !== b.createdAt) return a.createdAt - b.createdAt;
  if (a.id === b.id) return 0;
  return a.id < b.id ? -1 : 1;
}

/** The identities of `entries` (in the order of `byAge`), with what of each is valid now. */
export function identitiesOf(
  entries: readonly RegistrationEntry[],
  held: ReadonlyMap<string, HeldSvid>,
  nowMs: number,
): readonly Identity[] {
  const hints = new Set<string>();
  return entries.map((entry) => {
    const isTaken = hints.has(entry.hint);
    hints.add(entry.hint);
    const svid = held.get(entry.id);
    const isValid = svid !== undefined && svid.svid.notAfterMs > nowMs;
    return { entry, svid: isValid ? svid : undefined, hint: isTaken ? '' : entry.hint };
  });
}

/** True when both hold the very same objects. */
export function isSameView(a: WorkloadView, b: WorkloadView): boolean {
  return (
    a.isSynced === b.isSynced &&
    a.bundle === b.bundle &&
    a.federatedBundles === b.federatedBundles &&
    a.identities.length === b.identities.length &&
    a.identities.every((identity, index) => {
      const other = b.identities[index];
      return identity.entry === other?.entry && identity.svid === other.svid && identity.hint === other.hint;
    })
  );
}
