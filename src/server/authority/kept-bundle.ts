import type { Bundle } from '../../spiffe/bundle.ts';
import type { Certificate } from '../../x509/certificate.ts';

/** How a root is named: by the certificate, or by what a certificate below it says of it. Hex. */
export type RootName = { readonly fingerprint: string } | { readonly subjectKeyId: string };

/** What the authority needs of whoever keeps our trust bundle. */
export interface KeptBundle {
  readonly own: { readonly value: Bundle };
  /** Whether a root is in it; with `untainted`, whether it is there without that mark. */
  holds(root: RootName, options?: { readonly untainted: boolean }): boolean;
  /** Takes over what the journal's transaction has stored. */
  adopt(bundle: Bundle): void;
  /** Reads what is stored. */
  reload(): Promise<void>;
  /** Puts a root into the bundle, should it be missing there. */
  ensure(root: Certificate): Promise<void>;
  /** Drops roots that expired before this moment, Unix ms. */
  prune(nowMs: number): Promise<void>;
  /** How many connected agents do not hold the current bundle yet. */
  agentsBehind(nowMs: number): number;
}
