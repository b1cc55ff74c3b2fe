import {
  type AppendBundleRequest,
  BundleService,
  type GetBundleRequest,
} from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import type { Bundle as WireBundle } from '../../gen/spire/api/types/bundle.ts';
import { type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { jwtAuthoritiesFromWire, x509AuthoritiesFromWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { BundleKeeper } from '../bundles/bundle-keeper.ts';
import type { Access } from './access.ts';
import { maskedBundle } from './bundle-mask.ts';
import { type FederatedBundleDeps, federatedBundleHandlers } from './federated-bundle-api.ts';
import { explained } from './messages.ts';

interface Deps extends FederatedBundleDeps {
  readonly bundles: BundleKeeper;
  readonly access: Access;
}

/**
 * `spire.api.server.bundle.v1.Bundle`: our own trust bundle, for anybody, and those of other trust domains. WIT
 * authorities are not kept: Signet issues and verifies no WIT-SVIDs.
 */
export function bundleApi(deps: Deps) {
  return serviceOf(BundleService, {
    // As SPIRE counts: ours too.
    countBundles: unary(async () => ({ count: 1 + deps.federated.byName.value.size })),
    getBundle: unary((request: GetBundleRequest, context) => getBundle(deps, request, context)),
    appendBundle: unary((request: AppendBundleRequest) => appendBundle(deps, request)),
    ...federatedBundleHandlers(deps),
  });
}

async function getBundle(deps: Deps, request: GetBundleRequest, context: CallContext): Promise<WireBundle> {
  const bundle = deps.bundles.own.value;
  if (context.caller.kind === 'svid' && request.outputMask?.x509Authorities !== false) {
    // An agent in good standing tells by this call what it will hold; anybody else may read, and counts for nothing.
    const agent = await deps.access.requireAgent(context.caller).catch(() => undefined);
    if (agent !== undefined) deps.bundles.noteAgent(agent.id, deps.clock.now(), bundle.sequence);
  }
  return maskedBundle(bundle, request.outputMask);
}

async function appendBundle(deps: Deps, request: AppendBundleRequest): Promise<WireBundle> {
  const { x509Authorities, jwtAuthorities, witAuthorities, outputMask } = request;
  // Else they would be lost without a word.
  if (witAuthorities.length > 0) {
    throw new AppError('unimplemented', 'WIT-SVID functionality is not yet implemented');
  }
  if (x509Authorities.length + jwtAuthorities.length === 0) {
    throw new AppError('invalid-argument', 'no authorities to append');
  }
  const jwt = explained('failed to convert JWT authority', () => jwtAuthoritiesFromWire(jwtAuthorities));
  const x509 = explained('failed to convert X.509 authority', () => x509AuthoritiesFromWire(x509Authorities));
  return maskedBundle(await deps.bundles.append({ x509, jwt }), outputMask);
}
