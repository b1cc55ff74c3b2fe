import { createHash } from 'node:crypto';
import {
  AgentService,
  type AttestAgentRequest,
  type BanAgentRequest,
  type CountAgentsRequest,
  type CreateJoinTokenRequest,
  type DeleteAgentRequest,
  type GetAgentRequest,
  type ListAgentsRequest,
  type PostStatusRequest,
  type PostStatusResponse,
  type RenewAgentRequest,
  type RenewAgentResponse,
} from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { JoinToken } from '../../gen/spire/api/types/jointoken.ts';
import type { SPIFFEID } from '../../gen/spire/api/types/spiffeid.ts';
import type { AgentStore, JoinTokenStore } from '../../plugin-api/data-store.ts';
import type { Caller } from '../../rpc/caller.ts';
import { bidi, type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { spiffeIdFromWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import { isReservedPath, type SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { AttestationSlots } from '../attestation/attestation-slots.ts';
import type { NodeAttestation } from '../attestation/node-attestation.ts';
import type { Agents } from '../registration/agents.ts';
import { agentToWire, countAgents, listAgents } from './agent-list.ts';
import { attestAgent } from './attest-agent.ts';
import { explained, svidToWire } from './messages.ts';

const maxJoinTokenTtlSeconds = 30 * 86_400;
const minJoinTokenBytes = 16;
/** What the join_token attestor accepts: a longer one could never be redeemed. */
const maxJoinTokenBytes = 1024;
const maxAgentVersionBytes = 255;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly attestation: NodeAttestation;
  readonly slots: AttestationSlots;
  readonly tokens: JoinTokenStore;
  readonly agents: Agents;
  readonly store: AgentStore;
  readonly newToken: () => string;
  readonly clock: Clock;
}

/** `spire.api.server.agent.v1.Agent`: attestation, renewal and join tokens, and agents for administrators. */
export function agentApi(deps: Deps) {
  return serviceOf(AgentService, {
    attestAgent: bidi((requests: AsyncIterable<AttestAgentRequest>, context) =>
      attestAgent(deps, requests, context),
    ),
    renewAgent: unary((request: RenewAgentRequest, context) => renew(deps, request, context)),
    postStatus: unary((request: PostStatusRequest, context) => postStatus(deps, request, context)),
    createJoinToken: unary((request: CreateJoinTokenRequest) => createJoinToken(deps, request)),
    countAgents: unary((request: CountAgentsRequest) => countAgents(deps.store, request)),
    listAgents: unary((request: ListAgentsRequest) => listAgents(deps.store, request)),
    getAgent: unary(async ({ id, outputMask }: GetAgentRequest) =>
      agentToWire(await deps.agents.get(agentIdFrom(deps, id)), outputMask),
    ),
    banAgent: unary(async ({ id }: BanAgentRequest) => {
      await deps.agents.ban(agentIdFrom(deps, id));
      return {};
    }),
    deleteAgent: unary(async ({ id }: DeleteAgentRequest) => {
      await deps.agents.delete(agentIdFrom(deps, id));
      return {};
    }),
  });
}

async function renew(
  deps: Deps,
  request: RenewAgentRequest,
  context: CallContext,
): Promise<RenewAgentResponse> {
  const id = callerId(context.caller);
  // As in SPIRE before anything else of the request is looked at.
  if ((await deps.store.find(id))?.canReattest === true) {
    throw new AppError('permission-denied', 'agent must reattest instead of renew', {
      reason: 'AGENT_MUST_REATTEST',
    });
  }
  if (request.params === undefined) throw new AppError('invalid-argument', 'params cannot be nil');
  const svid = await deps.attestation.renew(id, request.params.csr, context.signal);
  return { svid: svidToWire(svid) };
}

async function postStatus(
  deps: Deps,
  { agentVersion }: PostStatusRequest,
  context: CallContext,
): Promise<PostStatusResponse> {
  if (Buffer.byteLength(agentVersion) > maxAgentVersionBytes) {
    throw new AppError('invalid-argument', 'agent version is too long (max 255 characters)');
  }
  if (agentVersion !== '') await deps.store.recordVersion(callerId(context.caller), agentVersion);
  return {};
}

/** Throws `invalid-argument` with SPIRE's texts. */
function agentIdFrom({ trustDomain }: Deps, wire: SPIFFEID | undefined): SpiffeId {
  if (wire === undefined) throw invalidAgentId('request must specify SPIFFE ID');
  const id = parsed(wire);
  if (!id.isMemberOf(trustDomain)) {
    throw invalidAgentId(`"${id}" is not a member of trust domain "${trustDomain}"`);
  }
  const isNot = `"${id}" is not an agent in trust domain "${trustDomain}"`;
  if (id.path === '') throw invalidAgentId(`${isNot}; path is empty`);
  if (!id.path.startsWith('/spire/agent/')) {
    throw invalidAgentId(`${isNot}; path is not in the agent namespace`);
  }
  return id;
}

function parsed(wire: SPIFFEID): SpiffeId {
  return explained('invalid agent ID', () => spiffeIdFromWire(wire));
}

function invalidAgentId(why: string): AppError {
  return new AppError('invalid-argument', `invalid agent ID: ${why}`);
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

function aliasFrom(trustDomain: TrustDomain, wire: SPIFFEID): SpiffeId {
  const id = parsed(wire);
  if (!id.isMemberOf(trustDomain) || id.path === '' || isReservedPath(id.path)) {
    throw invalidAgentId(`"${id}" must be a workload ID of trust domain "${trustDomain}"`);
  }
  return id;
}

function callerId(caller: Caller): SpiffeId {
  if (caller.kind !== 'svid') throw new AppError('permission-denied', 'caller is not an agent');
  return caller.id;
}
