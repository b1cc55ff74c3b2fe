import { BundleService, type GetBundleRequest } from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import type { Bundle as WireBundle } from '../../gen/spire/api/types/bundle.ts';
import { type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { bundleToWire } from '../../rpc/messages.ts';
import type { Clock } from '../../runtime/time.ts';
import type { BundleKeeper } from '../bundles/bundle-keeper.ts';
import type { Access } from './access.ts';

interface Deps {
  readonly bundles: BundleKeeper;
  readonly access: Access;
  readonly clock: Clock;
}

/** `spire.api.server.bundle.v1.Bundle`: our own trust bundle, for anybody. */
export function bundleApi(deps: Deps) {
  return serviceOf(BundleService, {
    getBundle: unary((request: GetBundleRequest, context) => getBundle(deps, request, context)),
  });
}

async function getBundle(deps: Deps, request: GetBundleRequest, context: CallContext): Promise<WireBundle> {
  const bundle = deps.bundles.own.value;
  if (context.caller.kind === 'svid' && request.outputMask?.x509Authorities !== false) {
    // An agent in good standing tells by this call what it will hold; anybody else may read, and counts for nothing.
    const agent = await deps.access.requireAgent(context.caller).catch(() => undefined);
    if (agent !== undefined) deps.bundles.noteAgent(agent.id, deps.clock.now(), bundle.sequence);
  }
  const wire = bundleToWire(bundle);
  const mask = request.outputMask;
  if (mask === undefined) return wire;
  return {
    ...wire,
    x509Authorities: mask.x509Authorities ? wire.x509Authorities : [],
    refreshHint: mask.refreshHint ? wire.refreshHint : 0n,
    sequenceNumber: mask.sequenceNumber ? wire.sequenceNumber : 0n,
  };
}
