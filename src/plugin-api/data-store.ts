import type { Bundle } from '../spiffe/bundle.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { Selector } from '../spiffe/selector.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';

/** Which entries a list asks for; absent = any. */
export interface EntryQuery {
  readonly spiffeId?: SpiffeId;
  readonly parentId?: SpiffeId;
  /** Entries after this id, in order of id. */
  readonly afterId?: string;
  readonly limit?: number;
}

export interface EntryStore {
  /**
   * Stores the entry. When one with the same parent, SPIFFE ID and selectors exists, stores nothing and returns
   * that one with `created: false`. Throws `already-exists` when the id is taken by another entry.
   */
  create(entry: NewEntry): Promise<{ readonly entry: RegistrationEntry; readonly created: boolean }>;
  /**
   * Replaces the entry with `change(current)` in one transaction and counts its revision up. Throws `not-found`,
   * and `already-exists` when the result would equal another entry's parent, SPIFFE ID and selectors.
   */
  update(id: string, change: (current: RegistrationEntry) => NewEntry): Promise<RegistrationEntry>;
  /** Returns what was deleted, or undefined. */
  delete(id: string): Promise<RegistrationEntry | undefined>;
  find(id: string): Promise<RegistrationEntry | undefined>;
  /** In order of id. */
  list(query: EntryQuery): Promise<readonly RegistrationEntry[]>;
}

/** An attested node. */
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
}

export interface AgentStore {
  /** Creates or replaces the record of an agent; throws `permission-denied` (`AGENT_BANNED`) when it is banned. */
  recordAttestation(agent: Omit<AgentRecord, 'banned' | 'newSerial' | 'newExpiresAt'>): Promise<AgentRecord>;
  /** Notes the renewed certificate as `newSerial`; throws `not-found` when the agent is not known or banned. */
  recordRenewal(
    id: SpiffeId,
    renewed: { readonly serial: string; readonly expiresAt: number },
  ): Promise<AgentRecord>;
  /** Makes `newSerial` the current one, if it is `serial`. */
  promoteSerial(id: SpiffeId, serial: string): Promise<AgentRecord>;
  find(id: SpiffeId): Promise<AgentRecord | undefined>;
  list(): Promise<readonly AgentRecord[]>;
}

export interface BundleStore {
  find(trustDomain: TrustDomain): Promise<Bundle | undefined>;
  /** Replaces the bundle with `change(current)` in one transaction; returns what is stored then. */
  update(trustDomain: TrustDomain, change: (current: Bundle | undefined) => Bundle): Promise<Bundle>;
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

/** One signing certificate of this server, as the journal has it. */
export interface AuthorityRecord {
  /** Hex of the subject key identifier. */
  readonly id: string;
  readonly keyId: string;
  /** SPKI, DER: the journal's claim on a key is by its public key, never by the key's label. */
  readonly publicKey: Uint8Array;
  readonly certificate: Certificate;
  readonly state: AuthorityState;
  /** Unix ms. */
  readonly preparedAtMs: number;
  readonly activatedAtMs: number | undefined;
}

export interface AuthorityStore {
  list(): Promise<readonly AuthorityRecord[]>;
  /** Writes the prepared authority to the journal and `change(bundle)` to the bundle, in one transaction. */
  prepare(
    record: AuthorityRecord,
    trustDomain: TrustDomain,
    change: (current: Bundle | undefined) => Bundle,
  ): Promise<Bundle>;
  /** Makes `id`, prepared or old, active and the one that was active old, in one transaction. */
  activate(id: string, atMs: number): Promise<void>;
  /** Removes journal records; the keys are the caller's to destroy afterwards. */
  forget(ids: readonly string[]): Promise<void>;
}

/** Five narrow stores on one database, handed out singly to who needs them. */
export interface DataStore {
  readonly entries: EntryStore;
  readonly agents: AgentStore;
  readonly bundles: BundleStore;
  readonly tokens: JoinTokenStore;
  readonly authorities: AuthorityStore;
  close(): Promise<void>;
}
