import type {
  CountAgentsRequest,
  CountAgentsResponse,
  ListAgentsRequest,
  ListAgentsRequest_Filter,
  ListAgentsResponse,
} from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { Agent, AgentMask } from '../../gen/spire/api/types/agent.ts';
import type { AgentFilter, AgentRecord, AgentStore } from '../../plugin-api/data-store.ts';
import { selectorToWire, spiffeIdToWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import { pageOf, parsePage } from './page-token.ts';
import { selectorMatchFromWire } from './selector-match.ts';

/** What `spire-server agent list` asks for; a larger page is cut to it. */
const maxPage = 1000;

/** Agents that match, in order of id; page size 0 = all of them. Throws `invalid-argument`. */
export async function listAgents(
  agents: AgentStore,
  request: ListAgentsRequest,
): Promise<ListAgentsResponse> {
  const wanted = parsePage(request, maxPage);
  const found = await agents.list({
    ...agentFilterFromWire(request.filter),
    afterId: wanted.afterId ?? '',
    ...(wanted.limit === undefined ? {} : { limit: wanted.limit }),
  });
  const { page, nextPageToken } = pageOf(found, wanted, ({ id }) => id.toString());
  return { agents: page.map((agent) => agentToWire(agent, request.outputMask)), nextPageToken };
}

/** Throws `invalid-argument`. */
export async function countAgents(
  agents: AgentStore,
  { filter }: CountAgentsRequest,
): Promise<CountAgentsResponse> {
  return { count: await agents.count(agentFilterFromWire(filter)) };
}

/** `spire.api.types.Agent`: all fields, or the ID and those that the mask names. */
export function agentToWire(agent: AgentRecord, mask: AgentMask | undefined): Agent {
  const has = (field: keyof AgentMask) => mask === undefined || mask[field];
  return {
    id: spiffeIdToWire(agent.id),
    attestationType: has('attestationType') ? agent.attestationType : '',
    x509svidSerialNumber: has('x509svidSerialNumber') ? agent.serial : '',
    x509svidExpiresAt: has('x509svidExpiresAt') ? BigInt(agent.expiresAt) : 0n,
    selectors: has('selectors') ? agent.selectors.map(selectorToWire) : [],
    banned: has('banned') && agent.banned,
    canReattest: has('canReattest') && agent.canReattest,
    agentVersion: has('agentVersion') ? agent.agentVersion : '',
  };
}

function agentFilterFromWire(wire: ListAgentsRequest_Filter | undefined): AgentFilter {
  if (wire === undefined) return {};
  const { byAttestationType, bySelectorMatch, byBanned, byCanReattest, byExpiresBefore } = wire;
  return {
    ...(byAttestationType === '' ? {} : { attestationType: byAttestationType }),
    ...(bySelectorMatch === undefined ? {} : { selectors: selectorMatchFromWire(bySelectorMatch) }),
    ...(byBanned === undefined ? {} : { banned: byBanned }),
    ...(byCanReattest === undefined ? {} : { canReattest: byCanReattest }),
    ...(byExpiresBefore === '' ? {} : { expiresBefore: parseSpireTime(byExpiresBefore) }),
  };
}

/** Go's layout `2006-01-02 15:04:05 -0700 -07`, as SPIRE's clients write it; Go reads fractions there as well. */
const spireTimeForm = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.\d{1,9})? ([+-]\d\d)(\d\d) [+-]\d\d$/;

/**
 * Unix seconds. Throws `invalid-argument`, where SPIRE takes what it cannot read for no filter at all: an
 * administrator who then deletes what was listed would delete every agent.
 */
export function parseSpireTime(text: string): number {
  const [, day = '', time = '', hours = '', minutes = ''] = spireTimeForm.exec(text) ?? [];
  const ms = Date.parse(`${day}T${time}${hours}:${minutes}`);
  // Date.parse alone takes February 30 for March 2.
  const isTime = !Number.isNaN(ms) && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day);
  if (isTime) return Math.floor(ms / 1000);
  throw new AppError(
    'invalid-argument',
    `by_expires_before is ${JSON.stringify(text.slice(0, 60))}; expected a time such as "2027-01-31 12:00:00 +0000 +00"`,
  );
}
