import type { KeyType, Signer } from '../x509/signature.ts';
import type { PluginContext, PluginDefinition } from './plugin.ts';

/** A key that stays inside its manager: only signatures and the public key come out. */
export interface ManagedKey extends Signer {
  /** The caller's name for the key, such as `x509-ca-a`: `[a-zA-Z0-9._-]{1,64}`. */
  readonly id: string;
}

/** Where the private keys of a role live: in memory, on disk, in an HSM. */
export interface KeyManager {
  /**
   * Makes a new key under `id`, durable before it resolves. A key that had this id is replaced, and destroyed once
   * the new one exists: callers use an id again only when they have retired its key. Throws `invalid-argument` for
   * an unknown type, `failed-precondition` for one that the place cannot have.
   */
  generateKey(id: string, type: KeyType): Promise<ManagedKey>;
  /** The key under `id`, or undefined. */
  findKey(id: string): Promise<ManagedKey | undefined>;
  /** All keys of this manager, in order of id. */
  listKeys(): Promise<readonly ManagedKey[]>;
  /** Destroys the key under `id`; no error when there is none. */
  deleteKey(id: string): Promise<void>;
  /**
   * The private key as PKCS#8 PEM, where the manager can give it out: TLS on the agent needs it.
   * Managers whose keys are not extractable leave this method out.
   */
  exportKey?(id: string): Promise<string>;
  /**
   * What lies under this manager's name beside the keys of `listKeys`, looked up now: left behind by a crash, or put
   * there by others. It is removed by `deleteStray` only, or with the key of its name. Left out where there can be none.
   */
  listStrays?(): Promise<readonly StrayKey[]>;
  /** Destroys one of `listStrays`; no error when it is gone. Never a key of `listKeys`: throws `failed-precondition`. */
  deleteStray?(handle: string): Promise<void>;
  /** How it is, without asking it; left out where nothing can fail. */
  status?(): KeyManagerStatus;
  /** Ends what the manager runs; nothing can be signed afterwards. */
  close?(): Promise<void>;
}

/** Something in a key manager that is no key of it. */
export interface StrayKey {
  /** For `deleteStray`. */
  readonly handle: string;
  /** The id that the key would have. */
  readonly keyId: string;
  /** For people, such as `replaced by a newer key`. */
  readonly why: string;
}

/** How a key manager is, for `signet health`. */
export interface KeyManagerStatus {
  readonly state: 'ok' | 'degraded' | 'not-ready';
  readonly message: string;
  /** What to do; empty when nothing is. */
  readonly nextStep: string;
  readonly figures: KeyManagerFigures;
}

/** Counted since the start. */
export interface KeyManagerFigures {
  readonly signatures: number;
  /** Signatures that were refused, failed, or came too late. */
  readonly failures: number;
  /** Of all signatures, the waiting included. */
  readonly totalSignMs: number;
  /** Signatures that wait for their turn now. */
  readonly queueLength: number;
  /** How often the place was connected. */
  readonly connections: number;
}

/** What the key managers of a server get. */
export interface KeyManagerContext extends PluginContext {
  /** Tells the keys of this server from those of others in a place that they share: `[a-zA-Z0-9._-]{1,40}`. */
  readonly keyNamespace: string;
}

/** What trying a key manager out has shown. */
export interface KeyManagerReport {
  /** Where the keys are, such as `token "ca" (SoftHSM project SoftHSM v2, serial 12ab…)`. */
  readonly place: string;
  /** Those that it can make. */
  readonly keyTypes: readonly KeyType[];
  readonly signaturesPerSecond: number;
}

/** A key manager of servers. */
export interface KeyManagerDefinition<Config>
  extends PluginDefinition<Config, KeyManager, KeyManagerContext> {
  /** Opens the place, signs with a passing key of this type, and leaves nothing behind. Throws as `create`. */
  check(config: Config, context: PluginContext, type: KeyType): Promise<KeyManagerReport>;
}
