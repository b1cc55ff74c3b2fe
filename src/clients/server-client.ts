import { AgentService, type AttestAgentResponse_Result } from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import { type ClientChannel, callUnary, openBidi } from '../rpc/grpc-client.ts';
import { bundleFromWire, spiffeIdFromWire } from '../rpc/messages.ts';
import { fromItemStatus } from '../rpc/status.ts';
import { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';
import { bytes, type ClientCall, chainOf, limits, malformed, received, requireAll } from './answers.ts';
import { type EntrySyncOptions, syncEntries } from './entry-sync.ts';

/** Attestation has several turns. */
const attestTimeoutMs = 60_000;

/**
 * The server's API for agents in our own types; administrators have `admin/admin-client.ts`. On the wire it behaves
 * like a SPIRE agent, so it works with both servers. Every call has a deadline and throws AppError.
 */
export class ServerClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /** Attests this node; `answer` is asked once for each challenge. The chain is not verified here. */
  async attestAgent(
    request: ClientCall & {
      readonly type: string;
      readonly payload: Uint8Array;
      readonly csr: Uint8Array;
      readonly answer: (challenge: Uint8Array) => Promise<Uint8Array>;
    },
  ): Promise<{
    readonly chain: readonly Certificate[];
    readonly id: SpiffeId;
    readonly reattestable: boolean;
  }> {
    const { type, payload, csr, answer, signal } = request;
    const call = openBidi(this.#channel, AgentService.attestAgent, { signal, timeoutMs: attestTimeoutMs });
    try {
      const params = { data: { type, payload: bytes(payload) }, params: { csr: bytes(csr) } };
      call.send({ step: { $case: 'params', value: params } });
      for (;;) {
        const step = (await call.next())?.step;
        if (step?.$case === 'result') {
          call.conclude();
          return attestationResult(step.value);
        }
        if (step?.$case !== 'challenge') throw malformed('attestation ended without a result');
        call.send({ step: { $case: 'challengeResponse', value: bytes(await answer(step.value)) } });
      }
    } catch (error) {
      call.cancel();
      throw error;
    }
  }

  /** A new certificate for the calling agent's new key. */
  async renewAgent(request: ClientCall & { readonly csr: Uint8Array }): Promise<readonly Certificate[]> {
    const params = { csr: bytes(request.csr) };
    const { svid } = await callUnary(this.#channel, AgentService.renewAgent, { params }, limits(request));
    return chainOf(svid);
  }

  /** Tells the server which program this agent is. */
  async postStatus(request: ClientCall & { readonly agentVersion: string }): Promise<void> {
    const wire = { currentBundleSerial: 0n, agentVersion: request.agentVersion };
    await callUnary(this.#channel, AgentService.postStatus, wire, limits(request));
  }

  /** The server's own bundle; open to everybody, so it proves nothing by itself. */
  async getBundle(call: ClientCall): Promise<Bundle> {
    const request = { outputMask: undefined };
    return received(
      bundleFromWire,
      await callUnary(this.#channel, BundleService.getBundle, request, limits(call)),
    );
  }

  /** The bundle of another trust domain. Throws `not-found`, and `internal` for one of yet another trust domain. */
  async getFederatedBundle(trustDomain: TrustDomain, call: ClientCall): Promise<Bundle> {
    const request = { trustDomain: trustDomain.name, outputMask: undefined };
    const bundle = received(
      bundleFromWire,
      await callUnary(this.#channel, BundleService.getFederatedBundle, request, limits(call)),
    );
    if (bundle.trustDomain.equals(trustDomain)) return bundle;
    // Else its roots could speak for a trust domain that is not theirs.
    throw malformed(`the server sent the bundle of "${bundle.trustDomain}" for "${trustDomain}"`);
  }

  /**
   * The entries that the calling agent may serve now. Of `held`, those that have not changed are returned as they
   * are and not sent again; entries that cannot be understood are left out and given to `onInvalid`.
   */
  syncAuthorizedEntries(
    held: readonly RegistrationEntry[],
    options: EntrySyncOptions,
  ): Promise<readonly RegistrationEntry[]> {
    return syncEntries(this.#channel, held, options);
  }

  /** Signs one certificate per request, in order; an item that failed is an AppError in its place. */
  async batchNewX509Svid(
    requests: readonly { readonly entryId: string; readonly csr: Uint8Array }[],
    call: ClientCall,
  ): Promise<readonly (readonly Certificate[] | AppError)[]> {
    const params = requests.map(({ entryId, csr }) => ({ entryId, csr: bytes(csr) }));
    const { results } = await callUnary(
      this.#channel,
      SVIDService.batchNewX509Svid,
      { params },
      limits(call),
    );
    requireAll(results, requests);
    return results.map(({ status, svid }) => fromItemStatus(status) ?? attempt(() => chainOf(svid)));
  }
}

function attestationResult({ svid, reattestable }: AttestAgentResponse_Result) {
  if (svid?.id === undefined) throw malformed('the server sent no agent ID');
  return { chain: chainOf(svid), id: received(spiffeIdFromWire, svid.id), reattestable };
}

function attempt<T>(work: () => T): T | AppError {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}
