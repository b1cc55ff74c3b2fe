import type { Bundle } from '../spiffe/bundle.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';

/** What is younger is left alone: a server that still signs with a tainted authority is not asked without pause. */
const youngestMs = 30_000;

interface TaintedKeys {
  readonly fingerprints: ReadonlySet<string>;
  readonly keyIds: ReadonlySet<string>;
}

const nothing: TaintedKeys = { fingerprints: new Set(), keyIds: new Set() };
/** Bundles never change, and there are as many questions as SVIDs. */
const taintedKeys = new WeakMap<Bundle, TaintedKeys>();

/**
 * Whether an SVID should be replaced now, before its time: it stands below an authority that our trust domain's
 * bundle marks as tainted (SPIRE `types.X509Certificate.tainted`), which will leave the bundle soon.
 */
export function isBelowTainted(
  svid: Pick<X509Svid, 'chain' | 'notBeforeMs'>,
  bundle: Bundle | undefined,
  nowMs: number,
): boolean {
  if (bundle === undefined) return false;
  const { fingerprints, keyIds } = taintedKeysOf(bundle);
  if (fingerprints.size === 0 || nowMs - svid.notBeforeMs < youngestMs) return false;
  return svid.chain.some(
    ({ fingerprint, authorityKeyId }) =>
      fingerprints.has(fingerprint) || (authorityKeyId !== undefined && keyIds.has(authorityKeyId)),
  );
}

/**
 * The place of such an SVID in `dueSvids`: after those that a workload waits for (0 and 1), before all renewals, the
 * most used first. `users` is how many connections use it.
 */
export function taintedUrgency(users: number): number {
  return 2 + 1 / (1 + users);
}

function taintedKeysOf(bundle: Bundle): TaintedKeys {
  const known = taintedKeys.get(bundle);
  if (known !== undefined) return known;
  const tainted = bundle.x509Authorities.filter((authority) => authority.tainted);
  const found =
    tainted.length === 0
      ? nothing
      : {
          fingerprints: new Set(tainted.map(({ certificate }) => certificate.fingerprint)),
          keyIds: new Set(
            tainted.map(({ certificate }) => certificate.subjectKeyId).filter((keyId) => keyId !== undefined),
          ),
        };
  taintedKeys.set(bundle, found);
  return found;
}
