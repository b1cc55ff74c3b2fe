import { createHash } from 'node:crypto';
import {
  AgentService,
  type AttestAgentRequest,
  type CreateJoinTokenRequest,
  type ListAgentsRequest,
  type ListAgentsResponse,
  type RenewAgentRequest,
  type RenewAgentResponse,
} from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { JoinToken } from '../../gen/spire/api/types/jointoken.ts';
import type { AgentStore, JoinTokenStore } from '../../plugin-api/data-store.ts';
import type { Caller } from '../../rpc/caller.ts';
import { bidi, type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { selectorToWire, spiffeIdFromWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import { isReservedPath, type SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { NodeAttestation } from '../attestation/node-attestation.ts';
import { attestAgent } from './attest-agent.ts';
import { svidToWire } from './messages.ts';

const maxJoinTokenTtlSeconds = 30 * 86_400;
const minJoinTokenBytes = 16;
/** What the join_token attestor accepts: a longer one could never be redeemed. */
const maxJoinTokenBytes = 1024;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly attestation: NodeAttestation;
  readonly tokens: JoinTokenStore;
  readonly agents: AgentStore;
  readonly newToken: () => string;
  readonly clock: Clock;
}

/** `spire.api.server.agent.v1.Agent`: attestation, renewal and join tokens. */
export function agentApi(deps: Deps) {
  return serviceOf(AgentService, {
    attestAgent: bidi((requests: AsyncIterable<AttestAgentRequest>, context) =>
      attestAgent(deps, requests, context),
    ),
    renewAgent: unary((request: RenewAgentRequest, context) => renew(deps, request, context)),
    createJoinToken: unary((request: CreateJoinTokenRequest) => createJoinToken(deps, request)),
    listAgents: unary((request: ListAgentsRequest) => listAgents(deps, request)),
  });
}

async function renew(
  deps: Deps,
  request: RenewAgentRequest,
  context: CallContext,
): Promise<RenewAgentResponse> {
  if (request.params === undefined) throw new AppError('invalid-argument', 'params cannot be nil');
  const svid = await deps.attestation.renew(callerId(context.caller), request.params.csr);
  return { svid: svidToWire(svid) };
}

async function createJoinToken(deps: Deps, request: CreateJoinTokenRequest): Promise<JoinToken> {
  if (request.ttl < 1) throw new AppError('invalid-argument', 'ttl is required, you must provide one');
  if (request.ttl > maxJoinTokenTtlSeconds) {
    throw new AppError(
      'invalid-argument',
      `ttl is ${request.ttl} s; at most ${maxJoinTokenTtlSeconds} s (30 days) are allowed`,
    );
  }
  const tokenBytes = Buffer.byteLength(request.token);
  if (request.token !== '' && (tokenBytes < minJoinTokenBytes || tokenBytes > maxJoinTokenBytes)) {
    throw new AppError(
      'invalid-argument',
      `a chosen join token has ${minJoinTokenBytes} to ${maxJoinTokenBytes} bytes, this one ${tokenBytes}; leave it out for a random one`,
    );
  }
  const value = request.token === '' ? deps.newToken() : request.token;
  const expiresAt = Math.floor(deps.clock.now() / 1000) + request.ttl;
  await deps.tokens.create({
    hash: createHash('sha256').update(value).digest('hex'),
    expiresAt,
    aliasId: request.agentId === undefined ? undefined : aliasFrom(deps.trustDomain, request.agentId),
  });
  return { value, expiresAt: BigInt(expiresAt) };
}

function aliasFrom(trustDomain: TrustDomain, wire: { trustDomain: string; path: string }): SpiffeId {
  const id = spiffeIdFromWire(wire);
  if (!id.isMemberOf(trustDomain) || id.path === '' || isReservedPath(id.path)) {
    throw new AppError(
      'invalid-argument',
      `agent id "${id}" must be a workload ID of trust domain "${trustDomain}"`,
    );
  }
  return id;
}

function callerId(caller: Caller): SpiffeId {
  if (caller.kind !== 'svid') throw new AppError('permission-denied', 'caller is not an agent');
  return caller.id;
}

/** All agents, whole and on one page. */
async function listAgents(deps: Deps, request: ListAgentsRequest): Promise<ListAgentsResponse> {
  if (request.filter !== undefined) throw new AppError('unimplemented', 'agents cannot be filtered yet');
  const agents = await deps.agents.list();
  return {
    agents: agents.map((agent) => ({
      id: spiffeIdToWire(agent.id),
      attestationType: agent.attestationType,
      x509svidSerialNumber: agent.serial,
      x509svidExpiresAt: BigInt(agent.expiresAt),
      selectors: agent.selectors.map(selectorToWire),
      banned: agent.banned,
      canReattest: agent.canReattest,
      agentVersion: '',
    })),
    nextPageToken: '',
  };
}
