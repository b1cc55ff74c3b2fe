import { AgentService } from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { Agent } from '../../gen/spire/api/types/agent.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { selectorsFromWire, spiffeIdFromWire, spiffeIdToWire, wholeNumber } from '../../rpc/messages.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { type ClientCall, limits, malformed, pageSize, received } from '../answers.ts';

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

  /** All agents the server knows. */
  async list(call: ClientCall): Promise<readonly AgentSummary[]> {
    const agents: AgentSummary[] = [];
    for (let pageToken = ''; ; ) {
      const request = { filter: undefined, outputMask: undefined, pageSize, pageToken };
      const page = await callUnary(this.#channel, AgentService.listAgents, request, limits(call));
      agents.push(...page.agents.map((agent) => received(agentFromWire, agent)));
      if (page.nextPageToken === '') return agents;
      pageToken = page.nextPageToken;
    }
  }
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
