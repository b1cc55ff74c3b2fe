import { AgentService, type AttestAgentResponse_Result } from '../gen/spire/api/server/agent/v1/agent.ts';
import { BundleService } from '../gen/spire/api/server/bundle/v1/bundle.ts';
import { EntryService, type ListEntriesRequest_Filter } from '../gen/spire/api/server/entry/v1/entry.ts';
import { SVIDService } from '../gen/spire/api/server/svid/v1/svid.ts';
import type { Agent } from '../gen/spire/api/types/agent.ts';
import type { X509SVID } from '../gen/spire/api/types/x509svid.ts';
import { type ClientChannel, callUnary, openBidi } from '../rpc/grpc-client.ts';
import {
  bundleFromWire,
  chainFromWire,
  entryFromWire,
  entryToWire,
  selectorsFromWire,
  spiffeIdFromWire,
  spiffeIdToWire,
  wholeNumber,
} from '../rpc/messages.ts';
import { fromItemStatus } from '../rpc/status.ts';
import { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { NewEntry, RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { Selector } from '../spiffe/selector.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';
import { type EntrySyncOptions, syncEntries } from './entry-sync.ts';

/** How long one call may take; attestation has several turns, a first sync many pages. */
const callTimeoutMs = 30_000;
const attestTimeoutMs = 60_000;
/** Entries of one page, and items of one batch. */
const pageSize = 500;

/** What every method takes. */
export interface ClientCall {
  readonly signal: AbortSignal;
}

/** An agent as the server's list shows it. `expiresAt` in Unix seconds. */
export interface AgentSummary {
  readonly id: SpiffeId;
  readonly attestationType: string;
  readonly serial: string;
  readonly expiresAt: number;
  readonly selectors: readonly Selector[];
  readonly banned: boolean;
  readonly canReattest: boolean;
}

/**
 * The server's API in our own types, for agents and for administrators. On the wire it behaves like a SPIRE agent
 * or `spire-server`, so it works with both servers. Every call has a deadline and throws AppError.
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

  /** The server's own bundle; open to everybody, so it proves nothing by itself. */
  async getBundle(call: ClientCall): Promise<Bundle> {
    const request = { outputMask: undefined };
    return received(
      bundleFromWire,
      await callUnary(this.#channel, BundleService.getBundle, request, limits(call)),
    );
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

  /** A one-time token; `agentId` is an alias that the agent gets besides its own ID. `expiresAt` in Unix seconds. */
  async createJoinToken(
    request: ClientCall & { readonly ttlSeconds: number; readonly agentId?: SpiffeId | undefined },
  ): Promise<{ readonly value: string; readonly expiresAt: number }> {
    const { ttlSeconds, agentId } = request;
    const wire = { ttl: ttlSeconds, token: '', agentId: agentId && spiffeIdToWire(agentId) };
    const token = await callUnary(this.#channel, AgentService.createJoinToken, wire, limits(request));
    return { value: token.value, expiresAt: wholeNumber(token.expiresAt, 'expires_at') };
  }

  /** All agents the server knows. */
  async listAgents(call: ClientCall): Promise<readonly AgentSummary[]> {
    const agents: AgentSummary[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter: undefined, outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, AgentService.listAgents, request, limits(call));
      agents.push(...page.agents.map((agent) => received(agentFromWire, agent)));
      if (page.nextPageToken === '') return agents;
      pageToken = page.nextPageToken;
    }
  }

  /**
   * Creates the entries, in batches; `existed` marks those whose parent, ID and selectors were registered before:
   * then the stored one is returned. Throws the first failure; what was created before it stays.
   */
  async createEntries(
    entries: readonly NewEntry[],
    call: ClientCall,
  ): Promise<readonly { readonly entry: RegistrationEntry; readonly existed: boolean }[]> {
    const created = await inBatches(entries, async (batch) => {
      const request = { entries: batch.map(entryToWire), outputMask: undefined };
      const { results } = await callUnary(
        this.#channel,
        EntryService.batchCreateEntry,
        request,
        limits(call),
      );
      requireAll(results, batch);
      return results;
    });
    return created.map(({ status, entry }) => {
      const error = fromItemStatus(status);
      const existed = error?.code === 'already-exists' && entry !== undefined;
      if (error !== undefined && !existed) throw error;
      if (entry === undefined) throw malformed('the server sent no entry');
      return { entry: received(entryFromWire, entry), existed };
    });
  }

  /** Throws `not-found`. */
  async getEntry(id: string, call: ClientCall): Promise<RegistrationEntry> {
    const request = { id, outputMask: undefined };
    return received(
      entryFromWire,
      await callUnary(this.#channel, EntryService.getEntry, request, limits(call)),
    );
  }

  /** All entries, or those with the given SPIFFE ID or parent. */
  async listEntries(
    query: ClientCall & { readonly spiffeId?: SpiffeId; readonly parentId?: SpiffeId },
  ): Promise<readonly RegistrationEntry[]> {
    const filter: ListEntriesRequest_Filter = {
      bySpiffeId: query.spiffeId && spiffeIdToWire(query.spiffeId),
      byParentId: query.parentId && spiffeIdToWire(query.parentId),
      bySelectors: undefined,
      byFederatesWith: undefined,
      byHint: undefined,
      byDownstream: undefined,
    };
    const entries: RegistrationEntry[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter, outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, EntryService.listEntries, request, limits(query));
      entries.push(...page.entries.map((entry) => received(entryFromWire, entry)));
      if (page.nextPageToken === '') return entries;
      pageToken = page.nextPageToken;
    }
  }

  /** Replaces the entry that has this id, with all fields. Throws `not-found`. */
  async updateEntry(entry: NewEntry, call: ClientCall): Promise<RegistrationEntry> {
    const request = { entries: [entryToWire(entry)], inputMask: undefined, outputMask: undefined };
    const { results } = await callUnary(this.#channel, EntryService.batchUpdateEntry, request, limits(call));
    const error = fromItemStatus(results[0]?.status);
    if (error !== undefined) throw error;
    if (results[0]?.entry === undefined) throw malformed('the server sent no entry');
    return received(entryFromWire, results[0].entry);
  }

  /** Deletes the entries, in batches; throws the first failure, such as `not-found`, after all were tried. */
  async deleteEntries(ids: readonly string[], call: ClientCall): Promise<void> {
    const results = await inBatches(ids, async (batch) => {
      const request = { ids: [...batch] };
      return (await callUnary(this.#channel, EntryService.batchDeleteEntry, request, limits(call))).results;
    });
    for (const { status, id } of results) {
      const error = fromItemStatus(status);
      if (error !== undefined) throw new AppError(error.code, `entry "${id}": ${error.message}`);
    }
  }

  /** Signs a certificate for the SPIFFE ID in the CSR, for administrators. `ttlSeconds` 0 = the server's default. */
  async mintX509Svid(
    request: ClientCall & { readonly csr: Uint8Array; readonly ttlSeconds: number },
  ): Promise<readonly Certificate[]> {
    const wire = { csr: bytes(request.csr), ttl: request.ttlSeconds };
    return chainOf((await callUnary(this.#channel, SVIDService.mintX509Svid, wire, limits(request))).svid);
  }
}

function limits({ signal }: ClientCall): { readonly signal: AbortSignal; readonly timeoutMs: number } {
  return { signal, timeoutMs: callTimeoutMs };
}

function attestationResult({ svid, reattestable }: AttestAgentResponse_Result) {
  if (svid?.id === undefined) throw malformed('the server sent no agent ID');
  return { chain: chainOf(svid), id: received(spiffeIdFromWire, svid.id), reattestable };
}

function agentFromWire(wire: Agent): AgentSummary {
  if (wire.id === undefined) throw malformed('the server sent an agent without ID');
  return {
    id: spiffeIdFromWire(wire.id),
    attestationType: wire.attestationType,
    serial: wire.x509svidSerialNumber,
    expiresAt: wholeNumber(wire.x509svidExpiresAt, 'x509svid_expires_at'),
    selectors: selectorsFromWire(wire.selectors),
    banned: wire.banned,
    canReattest: wire.canReattest,
  };
}

function chainOf(svid: X509SVID | undefined): readonly Certificate[] {
  return received(chainFromWire, svid?.certChain ?? []);
}

/** What a server sends is not the caller's invalid argument. */
function received<Wire, T>(parse: (wire: Wire) => T, wire: Wire): T {
  try {
    return parse(wire);
  } catch (cause) {
    throw cause instanceof AppError ? malformed(`the server's answer: ${cause.message}`) : cause;
  }
}

function attempt<T>(work: () => T): T | AppError {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}

async function inBatches<T, R>(
  items: readonly T[],
  work: (batch: readonly T[]) => Promise<readonly R[]>,
): Promise<readonly R[]> {
  const results: R[] = [];
  for (let start = 0; start < items.length; start += pageSize) {
    results.push(...(await work(items.slice(start, start + pageSize))));
  }
  return results;
}

function requireAll(results: readonly unknown[], items: readonly unknown[]): void {
  if (results.length === items.length) return;
  throw malformed(`the server sent ${results.length} results for ${items.length} items`);
}

function malformed(message: string): AppError {
  return new AppError('internal', message);
}

function bytes(data: Uint8Array): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
