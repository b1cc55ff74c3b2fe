import { BundleService } from '../../gen/spire/api/server/bundle/v1/bundle.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { bundleFromWire } from '../../rpc/messages.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { type ClientCall, limits, received } from '../answers.ts';

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
}
