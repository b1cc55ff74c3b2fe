import { SVIDService } from '../../gen/spire/api/server/svid/v1/svid.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { bytes, type ClientCall, chainOf, limits } from '../answers.ts';

/** `spire.api.server.svid.v1.SVID` for administrators. */
export class SvidClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /** Signs a certificate for the SPIFFE ID in the CSR, for administrators. `ttlSeconds` 0 = the server's default. */
  async mintX509(
    request: ClientCall & { readonly csr: Uint8Array; readonly ttlSeconds: number },
  ): Promise<readonly Certificate[]> {
    const wire = { csr: bytes(request.csr), ttl: request.ttlSeconds };
    return chainOf((await callUnary(this.#channel, SVIDService.mintX509Svid, wire, limits(request))).svid);
  }
}
