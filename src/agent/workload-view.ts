import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import type { KeyType } from '../x509/signature.ts';

/** An X.509-SVID with its key, as the agent holds it for a registration entry. Never changed: a renewal is a new one. */
export interface HeldSvid {
  /** The entry as it was when this was signed. */
  readonly entry: RegistrationEntry;
  readonly svid: X509Svid;
  readonly keyType: KeyType;
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
  /** The same identity with other kinds of keys, as far as somebody has asked for them; expired ones are not in it. */
  readonly variants: ReadonlyMap<KeyType, HeldSvid>;
  /** The entry's hint, but empty when an older entry of the same view has that hint (Workload API §5.2.1). */
  readonly hint: string;
  /** The kinds of keys for which the server did not sign it when it was asked last. */
  readonly unsigned?: ReadonlySet<KeyType> | undefined;
}

/** Which identity of a view is meant: the first one, those of a SPIFFE ID, or the one with a hint. */
export type IdentityChoice =
  | { readonly kind: 'default-svid' }
  | { readonly kind: 'svid'; readonly id: string }
  | { readonly kind: 'hint'; readonly hint: string };

/** A wish for an identity with this kind of key. */
export type WantedKeyType = IdentityChoice & { readonly keyType: KeyType };

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
  /** By name, the trust domains that the identities federate with and whose bundle is not there, with the reason. */
  readonly missingBundles: ReadonlyMap<string, MissingBundle>;
}

/** Not asked for since the agent started, asked for in vain, or known to be none: only the last proves anything. */
export type MissingBundle = 'awaited' | 'failed' | 'gone';

/** The view of nobody before anything is known. */
export const emptyView: WorkloadView = {
  isSynced: false,
  identities: [],
  bundle: undefined,
  federatedBundles: [],
  missingBundles: new Map(),
};

/** The stable order of identities: by creation, then by id. */
export function byAge(a: RegistrationEntry, b: RegistrationEntry): number {
  if (a.createdAt !== b.createdAt) return a.createdAt - b.createdAt;
  if (a.id === b.id) return 0;
  return a.id < b.id ? -1 : 1;
}

/**
 * The identities that are meant: none when the workload is entitled to none such, several when entries of the same
 * SPIFFE ID match. Of the default there is only the first: another would change the workload's identity under it.
 */
export function chosenIdentities(
  identities: readonly Identity[],
  choice: IdentityChoice,
): readonly Identity[] {
  switch (choice.kind) {
    case 'default-svid':
      return identities.slice(0, 1);
    case 'svid':
      return indexOf(identities).byId.get(choice.id) ?? [];
    case 'hint':
      return choice.hint === '' ? [] : (indexOf(identities).byHint.get(choice.hint) ?? []);
  }
}

interface IdentityIndex {
  readonly byId: ReadonlyMap<string, readonly Identity[]>;
  readonly byHint: ReadonlyMap<string, readonly Identity[]>;
}

/** A proxy of a gateway may have a thousand identities, and ask for each by its name. */
const indexes = new WeakMap<readonly Identity[], IdentityIndex>();

function indexOf(identities: readonly Identity[]): IdentityIndex {
  const known = indexes.get(identities);
  if (known !== undefined) return known;
  const byId = Map.groupBy(identities, ({ entry }) => entry.spiffeId.toString());
  const index = { byId, byHint: Map.groupBy(identities, ({ hint }) => hint) };
  indexes.set(identities, index);
  return index;
}

/** The SVID of an identity with this kind of key, or with the usual one; undefined while it is not there. */
export function findHeldSvid({ svid, variants }: Identity, keyType?: KeyType): HeldSvid | undefined {
  return keyType === undefined || svid?.keyType === keyType ? svid : variants.get(keyType);
}

/** The identities of `entries` (in the order of `byAge`), with what of each is valid now. */
export function identitiesOf(
  entries: readonly RegistrationEntry[],
  held: {
    readonly svids: ReadonlyMap<string, HeldSvid>;
    readonly variants: VariantsByEntry;
    readonly unsigned: ReadonlyMap<string, ReadonlySet<KeyType>>;
  },
  nowMs: number,
): readonly Identity[] {
  const isValid = (svid: HeldSvid | undefined) => svid !== undefined && svid.svid.notAfterMs > nowMs;
  const hints = new Set<string>();
  return entries.map((entry) => {
    const isTaken = hints.has(entry.hint);
    hints.add(entry.hint);
    const svid = held.svids.get(entry.id);
    return {
      entry,
      svid: isValid(svid) ? svid : undefined,
      variants: validOnes(held.variants.of(entry.id), isValid),
      hint: isTaken ? '' : entry.hint,
      unsigned: held.unsigned.get(entry.id),
    };
  });
}

/** By entry id: SVIDs with other kinds of keys than the usual one. */
interface VariantsByEntry {
  of(entryId: string): ReadonlyMap<KeyType, HeldSvid>;
}

function validOnes(
  variants: ReadonlyMap<KeyType, HeldSvid>,
  isValid: (svid: HeldSvid) => boolean,
): ReadonlyMap<KeyType, HeldSvid> {
  for (const svid of variants.values()) {
    if (!isValid(svid)) return new Map([...variants].filter(([, other]) => isValid(other)));
  }
  return variants;
}

/** True when both hold the very same objects. */
export function isSameView(a: WorkloadView, b: WorkloadView): boolean {
  return (
    a.isSynced === b.isSynced &&
    a.bundle === b.bundle &&
    a.federatedBundles === b.federatedBundles &&
    areSameEntries(a.missingBundles, b.missingBundles) &&
    a.identities.length === b.identities.length &&
    a.identities.every((identity, index) => {
      const other = b.identities[index];
      return (
        identity.entry === other?.entry &&
        identity.svid === other.svid &&
        identity.hint === other.hint &&
        identity.unsigned === other.unsigned &&
        areSameEntries(identity.variants, other.variants)
      );
    })
  );
}

/** True when both map the same keys to the very same values. */
export function areSameEntries<K, V>(a: ReadonlyMap<K, V>, b: ReadonlyMap<K, V>): boolean {
  return a === b || (a.size === b.size && [...a].every(([key, value]) => b.get(key) === value));
}
