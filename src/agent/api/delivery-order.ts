/** How long the first leaf of a proxy waits at most for the trust that goes with it. */
const firstLeafMs = 50;

/** What a certificate that is new to a proxy has to wait for. Times are Unix ms. */
export interface LeafToOrder {
  /** The leaf that the proxy has and may keep; undefined for a first one. */
  readonly has: { readonly notBeforeMs: number; readonly notAfterMs: number } | undefined;
  /** A trust secret is due to the proxy, or sent and not acknowledged. */
  readonly isTrustOpen: boolean;
  /** The same for the connections that ask for this leaf; or one of their streams has not asked for anything yet. */
  readonly isConnectionOpen: boolean;
  /** How long it has been waiting as a first leaf. */
  readonly waitedMs: number;
  readonly nowMs: number;
}

/**
 * How long a leaf waits at most from now on, in ms; 0 when it may go. Trust first: a leaf that is refused before the
 * bundle came leaves all but one listener dead (envoy#42438), and peers are to know a root before they see leaves
 * under it. But a leaf is never held up for good by a proxy that does not answer.
 */
export function leafWaitMs({ has, isTrustOpen, isConnectionOpen, waitedMs, nowMs }: LeafToOrder): number {
  if (has === undefined) return isConnectionOpen ? Math.max(0, firstLeafMs - waitedMs) : 0;
  if (!isTrustOpen) return 0;
  const quarterMs = (has.notAfterMs - has.notBeforeMs) / 4;
  return Math.max(0, has.notAfterMs - quarterMs - nowMs);
}
