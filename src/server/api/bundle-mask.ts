import type { BundleMask, Bundle as WireBundle } from '../../gen/spire/api/types/bundle.ts';
import { bundleToWire } from '../../rpc/messages.ts';
import { Bundle } from '../../spiffe/bundle.ts';

/** The bundle as it is answered: what the mask names, and always its trust domain; no mask = all fields. */
export function maskedBundle(bundle: Bundle, mask: BundleMask | undefined): WireBundle {
  const wire = bundleToWire(bundle);
  if (mask === undefined) return wire;
  return {
    ...wire,
    x509Authorities: mask.x509Authorities ? wire.x509Authorities : [],
    jwtAuthorities: mask.jwtAuthorities ? wire.jwtAuthorities : [],
    refreshHint: mask.refreshHint ? wire.refreshHint : 0n,
    sequenceNumber: mask.sequenceNumber ? wire.sequenceNumber : 0n,
  };
}

/** `current` with what the mask names of `change`; no mask = all of it. */
export function mergedBundle(current: Bundle, change: Bundle, mask: BundleMask | undefined): Bundle {
  if (mask === undefined) return change;
  return new Bundle({
    trustDomain: current.trustDomain,
    x509Authorities: (mask.x509Authorities ? change : current).x509Authorities,
    jwtAuthorities: (mask.jwtAuthorities ? change : current).jwtAuthorities,
    refreshHintSeconds: (mask.refreshHint ? change : current).refreshHintSeconds,
    sequence: (mask.sequenceNumber ? change : current).sequence,
  });
}
