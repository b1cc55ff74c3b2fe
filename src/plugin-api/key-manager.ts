import type { KeyType, Signer } from '../x509/signature.ts';

/** A key that stays inside its manager: only signatures and the public key come out. */
export interface ManagedKey extends Signer {
  /** The caller's name for the key, such as `x509-ca-a`: `[a-zA-Z0-9._-]{1,64}`. */
  readonly id: string;
}

/** Where the private keys of a role live: in memory, on disk, in an HSM. */
export interface KeyManager {
  /** Makes a new key under `id`, durable before it resolves; a key that had this id is replaced. */
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
}
