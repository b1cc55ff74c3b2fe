import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { AppError } from '../runtime/error.ts';
import { eventually } from '../testing/eventually.ts';
import {
  agentId,
  call,
  root,
  serving,
  startTls,
  tlsChannelTo,
  tlsOf,
  validity,
} from '../testing/tls-listener.ts';
import type { Caller } from './caller.ts';
import { type ClientChannel, callServerStream } from './grpc-client.ts';

const otherId = 'spiffe://example.org/spire/agent/y';
const banned = new AppError('permission-denied', 'agent is banned', { reason: 'AGENT_BANNED' });
const isAgent = (caller: Caller) => caller.kind === 'svid' && caller.id.toString() === agentId;

async function connectAs(address: string, id: string): Promise<ClientChannel> {
  return tlsChannelTo(address, tlsOf(await root.issue(id, validity)));
}

/** Opens a stream that only its end ends, and has read its first message. */
async function openStream(channel: ClientChannel) {
  const stream = callServerStream(channel, HealthService.watch, { service: '' });
  expect((await stream.next()).value).toEqual(serving);
  return stream;
}

describe('calls of a caller who has lost access', () => {
  it('end at once with the reason, streams too, and those of others go on', async () => {
    const { listener } = await startTls();
    const [lost, other] = (await Promise.all(
      [agentId, otherId].map((id) => connectAs(listener.address, id)),
    )) as [ClientChannel, ClientChannel];
    const streams = await Promise.all([openStream(lost), openStream(lost), openStream(other)]);
    listener.endCalls(isAgent, banned);
    for (const stream of streams.slice(0, 2)) {
      await expect(stream.next()).rejects.toMatchObject({
        code: 'permission-denied',
        reason: 'AGENT_BANNED',
      });
    }
    expect(await call(other)).toEqual(serving);
    const waiting = streams[2]?.next();
    listener.endCalls((caller) => !isAgent(caller), new AppError('unavailable', 'told to go'));
    await expect(waiting).rejects.toMatchObject({ message: 'told to go' });
  });

  it('end while they still ask for permission, and their handlers are never asked', async () => {
    const asking = Promise.withResolvers<void>();
    const permitted = Promise.withResolvers<void>();
    const { listener, callers } = await startTls({
      authorize: () => {
        asking.resolve();
        return permitted.promise;
      },
    });
    const answer = call(await connectAs(listener.address, agentId));
    const refused = expect(answer).rejects.toMatchObject({ reason: 'AGENT_BANNED' });
    await asking.promise;
    listener.endCalls(isAgent, banned);
    await refused;
    permitted.resolve();
    await call(await connectAs(listener.address, otherId));
    expect(callers).toMatchObject([{ id: { path: '/spire/agent/y' } }]);
  });

  it('tell the handler that is at work', async () => {
    const started = Promise.withResolvers<AbortSignal>();
    const { listener } = await startTls({
      check: async (signal) => {
        started.resolve(signal);
        await once(signal, 'abort');
      },
    });
    const refused = expect(call(await connectAs(listener.address, agentId))).rejects.toMatchObject({
      reason: 'AGENT_BANNED',
    });
    const signal = await started.promise;
    listener.endCalls(isAgent, banned);
    await refused;
    await eventually(() => expect(signal.aborted).toBe(true));
  });
});
