import type { ManagedKey } from '../plugin-api/key-manager.ts';
import { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid, type X509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { AgentKeyId } from './identity-file.ts';

/** What the server sent for a key of the agent, to be checked. */
export interface Issued {
  readonly key: ManagedKey;
  readonly keyId: AgentKeyId;
  readonly chain: readonly Certificate[];
  readonly bundle: Bundle;
  readonly reattestable: boolean;
  /** The identity that it renews. */
  readonly renewed?: SpiffeId;
}

/** The agent SVID that the server sent; throws when it is not one for this key, or not the one that was asked for. */
export function checkIssued(
  { key, chain, bundle, renewed }: Issued,
  { trustDomain, nowMs }: { readonly trustDomain: TrustDomain; readonly nowMs: number },
): X509Svid {
  const svid = verifyX509Svid({ chain, bundles: () => bundle, nowMs });
  if (Buffer.compare(svid.leaf.spki, key.publicKey) !== 0) {
    throw new AppError('internal', 'the server signed another key than the one it was asked for');
  }
  const isAgent = svid.id.isMemberOf(trustDomain) && svid.id.path.startsWith('/spire/agent/');
  if (!isAgent || renewed?.equals(svid.id) === false) {
    const expected = renewed?.toString() ?? '/spire/agent/…';
    throw new AppError(
      'internal',
      `the server gave the agent the identity "${svid.id}"; ${expected} was expected`,
    );
  }
  return svid;
}

/**
 * A stored agent SVID, verified as of its own validity: an expired identity is still known for its bundle, and a
 * machine whose clock is not set yet must not lose its identity.
 */
export function readStored(chain: readonly Certificate[], bundle: Bundle, nowMs: number): X509Svid {
  const { notBeforeMs = 0, notAfterMs = 0 } = chain[0] ?? {};
  const momentMs = Math.max(notBeforeMs, Math.min(nowMs, notAfterMs));
  return verifyX509Svid({ chain, bundles: () => bundle, nowMs: momentMs });
}
