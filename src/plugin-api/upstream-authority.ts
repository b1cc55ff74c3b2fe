import type { Certificate } from '../x509/certificate.ts';
import type { PluginContext } from './plugin.ts';

/** A CA certificate of ours that an upstream authority has signed. */
export interface MintedAuthority {
  /** The new certificate first, then what stands between it and a root; never the root. */
  readonly chain: readonly Certificate[];
  /** The roots that belong in our bundle, that of the chain among them. */
  readonly roots: readonly Certificate[];
}

/** What a mint is asked. */
export interface MintOptions {
  /** The certificate lives so long, or as long as what signs it if that ends before. */
  readonly preferredTtlMs: number;
  readonly signal: AbortSignal;
  /** `next`: under the root made by `prepareRoot`, where there is that method. */
  readonly root: 'active' | 'next';
}

/** Whoever stands above our signing certificates: roots that this server does not sign SVIDs with. */
export interface UpstreamAuthority {
  /**
   * Certifies the key of a PKCS#10 request (DER) whose URI is our trust domain. Throws `invalid-argument` for any
   * other request, `failed-precondition` for what an administrator must change, `unavailable` when trying again can
   * help.
   */
  mint(csr: Uint8Array, options: MintOptions): Promise<MintedAuthority>;
  /** All roots that belong in our bundle now. Asked every few seconds, so it must cost little. */
  roots(): Promise<readonly Certificate[]>;
  /** No certificate minted now could end later; Unix ms. */
  latestEndMs(): Promise<number>;
  /** Makes another root, unless one is waiting already; `mint` can use it at once. */
  prepareRoot?(signal: AbortSignal): Promise<void>;
  /** Called before SVIDs are signed below the root with this subject key identifier (hex). */
  activateRoot?(keyId: string): Promise<void>;
}

/** What upstream authorities get. */
export interface UpstreamAuthorityContext extends PluginContext {
  /** Whether our certificates are to be limited to the URIs of the trust domain. */
  readonly nameConstraints: boolean;
}
