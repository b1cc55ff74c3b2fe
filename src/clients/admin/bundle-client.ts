import {
  BundleService,
  BatchDeleteFederatedBundleRequest_Mode as Mode,
} from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { bundleFromWire, bundleToWire } from '../../rpc/messages.ts';
import { fromItemStatus } from '../../rpc/status.ts';
import type { AppError } from '../../runtime/error.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type ClientCall, inBatches, limits, malformed, pageSize, received, requireAll } from '../answers.ts';

/** What becomes of the entries that federate with a trust domain whose bundle is deleted. */
export const deleteModes = { restrict: Mode.RESTRICT, dissociate: Mode.DISSOCIATE, delete: Mode.DELETE };

/** `spire.api.server.bundle.v1.Bundle` for administrators. */
export class BundleClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /** The server's own bundle. */
  async getOwn(call: ClientCall): Promise<Bundle> {
    const request = { outputMask: undefined };
    return received(
      bundleFromWire,
      await callUnary(this.#channel, BundleService.getBundle, request, limits(call)),
    );
  }

  /** The stored bundle of another trust domain. Throws `not-found`. */
  async getFederated(trustDomain: TrustDomain, call: ClientCall): Promise<Bundle> {
    const request = { trustDomain: trustDomain.name, outputMask: undefined };
    const wire = await callUnary(this.#channel, BundleService.getFederatedBundle, request, limits(call));
    return received(bundleFromWire, wire);
  }

  /** The stored bundles of all other trust domains. */
  async listFederated(call: ClientCall): Promise<readonly Bundle[]> {
    const bundles: Bundle[] = [];
    for (let pageToken = ''; ; ) {
      const request = { outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, BundleService.listFederatedBundles, request, limits(call));
      bundles.push(...page.bundles.map((bundle) => received(bundleFromWire, bundle)));
      if (page.nextPageToken === '') return bundles;
      pageToken = page.nextPageToken;
    }
  }

  /** How many bundles the server has, its own one included. */
  async count(call: ClientCall): Promise<number> {
    return (await callUnary(this.#channel, BundleService.countBundles, {}, limits(call))).count;
  }

  /** Stores the bundle of another trust domain, in place of the one before if there is one. */
  async set(bundle: Bundle, call: ClientCall): Promise<Bundle> {
    const request = { bundle: [bundleToWire(bundle)], outputMask: undefined };
    const { results } = await callUnary(
      this.#channel,
      BundleService.batchSetFederatedBundle,
      request,
      limits(call),
    );
    const error = fromItemStatus(results[0]?.status);
    if (error !== undefined) throw error;
    if (results[0]?.bundle === undefined) throw malformed('the server sent no bundle');
    return received(bundleFromWire, results[0].bundle);
  }

  /** Deletes bundles of other trust domains; those that stayed come back with the reason, such as `not-found`. */
  async delete(
    trustDomains: readonly TrustDomain[],
    call: ClientCall & { readonly mode: keyof typeof deleteModes },
  ): Promise<ReadonlyMap<string, AppError>> {
    const mode = deleteModes[call.mode];
    const results = await inBatches(trustDomains, async (batch) => {
      const request = { trustDomains: batch.map(({ name }) => name), mode };
      const { results } = await callUnary(
        this.#channel,
        BundleService.batchDeleteFederatedBundle,
        request,
        limits(call),
      );
      requireAll(results, batch);
      return results;
    });
    const refusals = new Map<string, AppError>();
    for (const { status, trustDomain } of results) {
      const error = fromItemStatus(status);
      if (error !== undefined) refusals.set(trustDomain, error);
    }
    return refusals;
  }
}
