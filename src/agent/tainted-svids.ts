import type { Bundle } from '../spiffe/bundle.ts';
import { backdateMs } from '../spiffe/signing-certificate.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';

/** What is signed once we know, and is younger, is left alone: a server that still signs so is not asked without pause. */
const youngestMs = 30_000;

/** What a bundle says of its authorities. */
interface Standing {
  readonly taintedPrints: ReadonlySet<string>;
  readonly taintedKeyIds: ReadonlySet<string>;
  /** Of all authorities; undefined when one of them has none. */
  readonly keyIds: ReadonlySet<string> | undefined;
  /** When we first asked. */
  readonly knownSinceMs: number;
}

type Signed = Pick<X509Svid, 'chain' | 'notBeforeMs'>;

/** Bundles never change, and there are as many questions as SVIDs. */
const standings = new WeakMap<Bundle, Standing>();

/**
 * Whether an SVID should be replaced now, before its time: it stands below an authority that our trust domain's
 * bundle marks as tainted (SPIRE `types.X509Certificate.tainted`), which will leave the bundle soon, or below one that
 * has left it.
 */
export function isDistrusted(svid: Signed, bundle: Bundle | undefined, nowMs: number): boolean {
  if (bundle === undefined) return false;
  const standing = standingOf(bundle, nowMs);
  if (!isBelowTainted(svid, standing) && !isBelowNone(svid, standing)) return false;
  return svid.notBeforeMs + backdateMs <= standing.knownSinceMs || nowMs - svid.notBeforeMs >= youngestMs;
}

/**
 * The place of such an SVID in `dueSvids`: after those that a workload waits for (0 and 1), before all renewals, the
 * most used first. `users` is how many connections use it.
 */
export function distrustedUrgency(users: number): number {
  return 2 + 1 / (1 + users);
}

function isBelowTainted({ chain }: Signed, { taintedPrints, taintedKeyIds }: Standing): boolean {
  if (taintedPrints.size === 0) return false;
  return chain.some(
    ({ fingerprint, authorityKeyId }) =>
      taintedPrints.has(fingerprint) || (authorityKeyId !== undefined && taintedKeyIds.has(authorityKeyId)),
  );
}

/** By key identifiers: signatures were verified when it came. */
function isBelowNone({ chain }: Signed, { keyIds }: Standing): boolean {
  const keyId = chain.at(-1)?.authorityKeyId;
  return keyIds !== undefined && keyId !== undefined && !keyIds.has(keyId);
}

function standingOf(bundle: Bundle, nowMs: number): Standing {
  const known = standings.get(bundle);
  if (known !== undefined) return known;
  const tainted = bundle.x509Authorities.filter((authority) => authority.tainted);
  const keyIdsOf = (authorities: Bundle['x509Authorities']) =>
    authorities.map(({ certificate }) => certificate.subjectKeyId).filter((keyId) => keyId !== undefined);
  const all = keyIdsOf(bundle.x509Authorities);
  const standing = {
    taintedPrints: new Set(tainted.map(({ certificate }) => certificate.fingerprint)),
    taintedKeyIds: new Set(keyIdsOf(tainted)),
    keyIds: all.length === bundle.x509Authorities.length ? new Set(all) : undefined,
    knownSinceMs: nowMs,
  };
  standings.set(bundle, standing);
  return standing;
}
