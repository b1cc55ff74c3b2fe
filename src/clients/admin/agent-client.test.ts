import { expect, it } from 'vitest';
import { AgentService } from '../../gen/spire/api/server/agent/v1/agent.ts';
import { serviceOf, unary } from '../../rpc/handlers.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { channelTo, startListener } from '../../testing/grpc-listener.ts';
import { AgentClient } from './agent-client.ts';

const signal = new AbortController().signal;

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
