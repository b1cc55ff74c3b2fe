import { AgentService, type ListAgentsRequest_Filter } from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { Agent } from '../../gen/spire/api/types/agent.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import {
  selectorsFromWire,
  selectorToWire,
  spiffeIdFromWire,
  spiffeIdToWire,
  wholeNumber,
} from '../../rpc/messages.ts';
import type { MatchBehavior, Selector } from '../../spiffe/selector.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { type ClientCall, limits, malformed, pageSize, received } from '../answers.ts';
import { matchBehaviors } from './match-behaviors.ts';

/** An agent as the server's list shows it. `expiresAt` in Unix seconds. */
export interface AgentSummary {
  readonly id: SpiffeId;
  readonly attestationType: string;
  readonly serial: string;
  readonly expiresAt: number;
  readonly selectors: readonly Selector[];
  readonly banned: boolean;
  readonly canReattest: boolean;
  /** What the agent says of itself. */
  readonly agentVersion: string;
}

/** Which agents are meant; absent = any. */
export interface AgentQuery {
  readonly attestationType?: string | undefined;
  readonly selectors?: { readonly wanted: readonly Selector[]; readonly match: MatchBehavior } | undefined;
  readonly banned?: boolean | undefined;
  readonly canReattest?: boolean | undefined;
  /** Unix seconds: those whose certificate ends earlier. */
  readonly expiresBefore?: number | undefined;
}

/** `spire.api.server.agent.v1.Agent` for administrators. */
export class AgentClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
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

  /** The agents the server knows, or those that match. */
  async list(query: ClientCall & AgentQuery): Promise<readonly AgentSummary[]> {
    const agents: AgentSummary[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter: filterOf(query), outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, AgentService.listAgents, request, limits(query));
      agents.push(...page.agents.map((agent) => received(agentFromWire, agent)));
      if (page.nextPageToken === '') return agents;
      pageToken = page.nextPageToken;
    }
  }

  async count(query: ClientCall & AgentQuery): Promise<number> {
    const request = { filter: filterOf(query) };
    return (await callUnary(this.#channel, AgentService.countAgents, request, limits(query))).count;
  }

  /** Throws `not-found`. */
  async get(id: SpiffeId, call: ClientCall): Promise<AgentSummary> {
    const request = { id: spiffeIdToWire(id), outputMask: undefined };
    return received(
      agentFromWire,
      await callUnary(this.#channel, AgentService.getAgent, request, limits(call)),
    );
  }

  /** Takes the agent's access away until its record is deleted. Throws `not-found`. */
  async ban(id: SpiffeId, call: ClientCall): Promise<void> {
    await callUnary(this.#channel, AgentService.banAgent, { id: spiffeIdToWire(id) }, limits(call));
  }

  /** Takes the agent's access away; it may attest again if its attestor allows that. Throws `not-found`. */
  async delete(id: SpiffeId, call: ClientCall): Promise<void> {
    await callUnary(this.#channel, AgentService.deleteAgent, { id: spiffeIdToWire(id) }, limits(call));
  }
}

function filterOf(query: AgentQuery): ListAgentsRequest_Filter {
  const { attestationType = '', selectors, banned, canReattest, expiresBefore } = query;
  return {
    byAttestationType: attestationType,
    bySelectorMatch: selectors && {
      selectors: selectors.wanted.map(selectorToWire),
      match: matchBehaviors[selectors.match],
    },
    byBanned: banned,
    byCanReattest: canReattest,
    byExpiresBefore: expiresBefore === undefined ? '' : spireTime(expiresBefore),
  };
}

/** Go's layout `2006-01-02 15:04:05 -0700 -07`, which SPIRE's server reads. */
function spireTime(unixSeconds: number): string {
  const [day = '', time = ''] = new Date(unixSeconds * 1000).toISOString().split('T');
  return `${day} ${time.slice(0, 8)} +0000 +00`;
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
    agentVersion: wire.agentVersion,
  };
}
