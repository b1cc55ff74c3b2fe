import type { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { MatchBehavior, Selector } from '../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';

/** The stored entry, and whether it was stored now. */
export interface EntryCreation {
  readonly entry: RegistrationEntry;
  readonly created: boolean;
}

/** What is to become of one entry; `change` may throw an AppError to refuse it. */
export interface EntryChange {
  readonly id: string;
  readonly change: (current: RegistrationEntry) => NewEntry;
}

/**
 * Each change is a batch in one transaction, with one result for each item, in order. An item that fails is an
 * AppError in its place and does not disturb the others; a transaction that fails rejects, and changes nothing.
 */
export interface EntryStore {
  /**
   * Stores the entries. For one whose parent, SPIFFE ID and selectors are those of a stored one, that one is the
   * result, with `created: false`. Items fail with `already-exists` when their id is taken by another entry, and
   * with `failed-precondition` when they federate with a trust domain whose bundle is not stored.
   */
  create(entries: readonly NewEntry[]): Promise<readonly (EntryCreation | AppError)[]>;
  /**
   * Replaces each entry with `change(current)` and counts its revision up. Items fail with `not-found`, with what
   * `change` throws, with `already-exists` when the result would equal another entry's parent, SPIFFE ID and
   * selectors, and as `create` for trust domains.
   */
  update(changes: readonly EntryChange[]): Promise<readonly (RegistrationEntry | AppError)[]>;
  /** Returns what was deleted, or undefined where there was nothing. */
  delete(ids: readonly string[]): Promise<readonly (RegistrationEntry | undefined)[]>;
  /** All entries, or those below a parent, in order of id. For filling the index, which answers all questions. */
  list(query?: { readonly parentId?: SpiffeId }): Promise<readonly RegistrationEntry[]>;
}

/** An attested node. Times in Unix seconds. */
export interface AgentRecord {
  readonly id: SpiffeId;
  readonly attestationType: string;
  /** Decimal; the certificate the agent holds now. Empty = banned. */
  readonly serial: string;
  /** Decimal; renewed but not yet used; it becomes `serial` when first seen. Empty = none. */
  readonly newSerial: string;
  readonly expiresAt: number;
  readonly newExpiresAt: number;
  readonly selectors: readonly Selector[];
  readonly canReattest: boolean;
  readonly banned: boolean;
  /** What the agent says of itself; empty = nothing yet. */
  readonly agentVersion: string;
}

/** What an attestation says of an agent. */
export type AttestedAgent = Pick<
  AgentRecord,
  'id' | 'attestationType' | 'serial' | 'expiresAt' | 'selectors' | 'canReattest'
>;

/** Which agents are meant; absent = any. */
export interface AgentFilter {
  readonly attestationType?: string;
  readonly banned?: boolean;
  readonly canReattest?: boolean;
  /** Unix seconds: those whose certificate ends earlier. */
  readonly expiresBefore?: number;
  readonly selectors?: { readonly wanted: readonly Selector[]; readonly match: MatchBehavior };
}

export interface AgentStore {
  /**
   * Creates or replaces the record of an agent. Throws `permission-denied` (`AGENT_BANNED`) when it is banned, and
   * `invalid-argument` when its record has been deleted since it joined with the token that it shows again.
   */
  recordAttestation(agent: AttestedAgent): Promise<AgentRecord>;
  /** Notes the renewed certificate as `newSerial`; throws `permission-denied` for an agent not known or banned. */
  recordRenewal(
    id: SpiffeId,
    renewed: { readonly serial: string; readonly expiresAt: number },
  ): Promise<AgentRecord>;
  /** Makes `newSerial` the current one, if it is `serial`; throws as `recordRenewal`. */
  promoteSerial(id: SpiffeId, serial: string): Promise<AgentRecord>;
  /** Notes what the agent says of itself; throws as `recordRenewal`. */
  recordVersion(id: SpiffeId, agentVersion: string): Promise<AgentRecord>;
  /** From now on the agent is refused, and cannot attest again until its record is deleted. Throws `not-found`. */
  ban(id: SpiffeId): Promise<AgentRecord>;
  /** Returns what was deleted, or undefined. */
  delete(id: SpiffeId): Promise<AgentRecord | undefined>;
  find(id: SpiffeId): Promise<AgentRecord | undefined>;
  /** In order of id; at most `limit` of those after `afterId`. */
  list(
    query?: AgentFilter & { readonly afterId?: string; readonly limit?: number },
  ): Promise<readonly AgentRecord[]>;
  count(filter?: AgentFilter): Promise<number>;
}

/**
 * What becomes of the entries that federate with a trust domain whose bundle is deleted: `restrict` = they keep it
 * from being deleted, `dissociate` = they lose the trust domain, `delete` = they are deleted.
 */
export type BundleDeleteMode = 'restrict' | 'dissociate' | 'delete';

/** The entries that a deletion of a bundle changed, as they are now, and those that it deleted. */
export interface BundleDeletion {
  readonly changed: readonly RegistrationEntry[];
  readonly deletedIds: readonly string[];
}

export interface BundleStore {
  find(trustDomain: TrustDomain): Promise<Bundle | undefined>;
  /** In order of trust domain. */
  list(): Promise<readonly Bundle[]>;
  /** Replaces the bundle with `change(current)` in one transaction; returns what is stored then. */
  update(trustDomain: TrustDomain, change: (current: Bundle | undefined) => Bundle): Promise<Bundle>;
  /**
   * Deletes the bundle, and does to entries what `mode` says, in one transaction. Throws `not-found`, and
   * `failed-precondition` with the entries that are in the way.
   */
  delete(trustDomain: TrustDomain, mode: BundleDeleteMode): Promise<BundleDeletion>;
}

/** A one-time token as the store knows it: never the token itself. */
export interface JoinTokenRecord {
  /** SHA-256 of the token, lower-case hex. */
  readonly hash: string;
  readonly expiresAt: number;
  /** The SPIFFE ID that the joined agent is an alias of; an entry for it is made when the token is redeemed. */
  readonly aliasId: SpiffeId | undefined;
}

export type Redemption =
  | { readonly outcome: 'redeemed'; readonly alias: RegistrationEntry | undefined }
  /** The same public key within the window: the earlier answer was lost on the way. */
  | { readonly outcome: 'repeated' }
  | { readonly outcome: 'unknown' | 'expired' | 'used' };

export interface JoinTokenStore {
  /** Throws `already-exists` when the hash is known. */
  create(token: JoinTokenRecord): Promise<void>;
  /**
   * In one transaction: looks the token up, marks it used by this public key and, when it has an alias, stores
   * `aliasEntry(aliasId)`. Times in Unix seconds; `repeatSeconds` is how long the same key may ask again, and it
   * may unless the agent `agentId` is banned or has been removed since.
   */
  redeem(request: {
    readonly hash: string;
    /** SHA-256 of the SPKI, lower-case hex. */
    readonly publicKeyHash: string;
    readonly agentId: SpiffeId;
    readonly now: number;
    readonly repeatSeconds: number;
    readonly aliasEntry: (aliasId: SpiffeId) => NewEntry;
  }): Promise<Redemption>;
  /** Forgets tokens that expired or were used before `before`; returns how many. */
  prune(before: number): Promise<number>;
}

export type AuthorityState = 'prepared' | 'active' | 'old';

/** `signing` certificates sign SVIDs; a `root` signs signing certificates only. At most one of each is active. */
export type AuthorityRole = 'signing' | 'root';

/** One CA certificate of this server, as the journal has it. */
export interface AuthorityRecord {
  /** Hex of the subject key identifier. */
  readonly id: string;
  readonly role: AuthorityRole;
  /** Where the key was made; empty for a root whose key is somebody else's. */
  readonly keyId: string;
  /** SPKI, DER: the journal's claim on a key is by its public key, never by the key's label. */
  readonly publicKey: Uint8Array;
  readonly certificate: Certificate;
  /** What stands above a leaf in its chain, without the root: this certificate first; empty when it is a root. */
  readonly chain: readonly Certificate[];
  /** Hex of the subject key identifier of the root above; empty when it is one itself. */
  readonly upstreamKeyId: string;
  readonly state: AuthorityState;
  /** Unix ms. */
  readonly preparedAtMs: number;
  readonly activatedAtMs: number | undefined;
  /** Since when nothing that it signed should be in use. */
  readonly taintedAtMs: number | undefined;
  /** Since when it is in no bundle any more. */
  readonly revokedAtMs: number | undefined;
  /** Nothing that it has signed ends later; undefined = not known, so with the certificate. */
  readonly svidsEndByMs: number | undefined;
}

/** Each change is one transaction, and durable before it resolves. */
export interface AuthorityStore {
  /** In order of preparation. */
  list(): Promise<readonly AuthorityRecord[]>;
  /** Writes the prepared authority to the journal and `change(bundle)` to the bundle. */
  prepare(
    record: AuthorityRecord,
    trustDomain: TrustDomain,
    change: (current: Bundle | undefined) => Bundle,
  ): Promise<Bundle>;
  /** Makes `id`, prepared or old, active and the one of its role that was active old. */
  activate(id: string, atMs: number): Promise<void>;
  /** Writes the tainted and revoked times of these records, new records included, and `change(bundle)` to the bundle. */
  mark(
    records: readonly AuthorityRecord[],
    trustDomain: TrustDomain,
    change: (current: Bundle | undefined) => Bundle,
  ): Promise<Bundle>;
  /** Notes that SVIDs of `id` may end as late as this; never moves it back. */
  extendSvids(id: string, endByMs: number): Promise<void>;
  /** Removes records, and retires their keys. */
  forget(ids: readonly string[], atMs: number): Promise<void>;
}

/** A key that signs nothing any more. */
export interface RetiredKey {
  readonly role: AuthorityRole;
  readonly keyId: string;
  /** SPKI, DER. */
  readonly publicKey: Uint8Array;
  /** Unix ms. */
  readonly retiredAtMs: number;
}

/** A name under which a key is being made. */
export interface KeyClaim {
  readonly role: AuthorityRole;
  readonly keyId: string;
}

/**
 * Which keys of the key managers are this server's to destroy: those that are retired, and those that it was about to
 * make when it crashed. All others are left alone. Each change is durable before it resolves.
 */
export interface KeyJournal {
  /** Notes that a key is about to be made, until a record has it, or it is retired. */
  claim(claim: KeyClaim): Promise<void>;
  claims(): Promise<readonly KeyClaim[]>;
  /** To be called when there is no such key. */
  unclaim(claim: KeyClaim): Promise<void>;
  /** Lists a key to be destroyed; throws `failed-precondition` for that of a prepared or active record. */
  retire(key: RetiredKey): Promise<void>;
  retired(): Promise<readonly RetiredKey[]>;
  /** To be called once a retired key is destroyed. */
  noteDestroyed(key: Pick<RetiredKey, 'role' | 'publicKey'>): Promise<void>;
}

/** Six narrow stores on one database, handed out singly to who needs them. */
export interface DataStore {
  readonly entries: EntryStore;
  readonly agents: AgentStore;
  readonly bundles: BundleStore;
  readonly tokens: JoinTokenStore;
  readonly authorities: AuthorityStore;
  readonly keys: KeyJournal;
  /** 16 random hex digits that tell this server from others: made at the first call, the same ever after. */
  serverId(): Promise<string>;
  close(): Promise<void>;
}
