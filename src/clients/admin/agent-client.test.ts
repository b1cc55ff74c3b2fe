import { expect, it } from 'vitest';
import { AgentService } from '../../gen/spire/api/server/agent/v1/agent.ts';
import { serviceOf, unary } from '../../rpc/handlers.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { channelTo, startListener } from '../../testing/grpc-listener.ts';
import { AgentClient } from './agent-client.ts';

const signal = new AbortController().signal;
const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/a');
const wireId = { trustDomain: 'example.org', path: '/spire/agent/a' };
const wireAgent = {
  id: wireId,
  attestationType: 'x509pop',
  x509svidSerialNumber: '77',
  x509svidExpiresAt: 1_800_000_000n,
  selectors: [{ type: 'x', value: '1' }],
  banned: false,
  canReattest: true,
  agentVersion: '1.15.3',
};
const summary = {
  id: agentId,
  attestationType: 'x509pop',
  serial: '77',
  expiresAt: 1_800_000_000,
  selectors: [{ type: 'x', value: '1' }],
  banned: false,
  canReattest: true,
  agentVersion: '1.15.3',
};

it('creates join tokens', async () => {
  const asked: unknown[] = [];
  const service = serviceOf(AgentService, {
    createJoinToken: unary(async (request) => {
      asked.push(request);
      return { value: 'secret', expiresAt: 1_800_000_000n };
    }),
  });
  const client = new AgentClient(channelTo(await startListener({ services: [service] })));
  const alias = SpiffeId.parse('spiffe://example.org/node');
  expect(await client.createJoinToken({ ttlSeconds: 600, agentId: alias, signal })).toEqual({
    value: 'secret',
    expiresAt: 1_800_000_000,
  });
  expect(asked).toEqual([{ ttl: 600, token: '', agentId: { trustDomain: 'example.org', path: '/node' } }]);
});

it('lists page by page, and counts, with filters as a SPIRE server reads them', async () => {
  const asked: unknown[] = [];
  const service = serviceOf(AgentService, {
    listAgents: unary(async ({ filter, pageToken, pageSize }) => {
      asked.push(filter);
      expect(pageSize).toBeGreaterThan(0);
      return { agents: [wireAgent], nextPageToken: pageToken === '' ? 'next' : '' };
    }),
    countAgents: unary(async ({ filter }) => {
      asked.push(filter);
      return { count: 7 };
    }),
  });
  const client = new AgentClient(channelTo(await startListener({ services: [service] })));
  const query = {
    attestationType: 'x509pop',
    selectors: { wanted: [{ type: 'x', value: '1' }], match: 'superset' },
    banned: false,
    canReattest: true,
    expiresBefore: Date.UTC(2027, 0, 31, 12) / 1000,
    signal,
  } as const;
  expect(await client.list(query)).toEqual([summary, summary]);
  expect(await client.count(query)).toBe(7);
  const filter = {
    byAttestationType: 'x509pop',
    bySelectorMatch: { selectors: [{ type: 'x', value: '1' }], match: 2 },
    byBanned: false,
    byCanReattest: true,
    byExpiresBefore: '2027-01-31 12:00:00 +0000 +00',
  };
  expect(asked).toEqual([filter, filter, filter]);
  await client.list({ signal });
  expect(asked.at(-1)).toEqual({
    byAttestationType: '',
    bySelectorMatch: undefined,
    byBanned: undefined,
    byCanReattest: undefined,
    byExpiresBefore: '',
  });
});

it('shows, bans and deletes one agent', async () => {
  const asked: unknown[] = [];
  const service = serviceOf(AgentService, {
    getAgent: unary(async () => wireAgent),
    banAgent: unary(async ({ id }) => {
      asked.push(['ban', id]);
      return {};
    }),
    deleteAgent: unary(async ({ id }) => {
      asked.push(['delete', id]);
      return {};
    }),
  });
  const client = new AgentClient(channelTo(await startListener({ services: [service] })));
  expect(await client.get(agentId, { signal })).toEqual(summary);
  await client.ban(agentId, { signal });
  await client.delete(agentId, { signal });
  expect(asked).toEqual([
    ['ban', wireId],
    ['delete', wireId],
  ]);
});
