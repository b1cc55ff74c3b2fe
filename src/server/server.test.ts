import { describe, expect, it } from 'vitest';
import { HealthService, State } from '../gen/signet/health/v1/health.ts';
import { AgentService } from '../gen/spire/api/server/agent/v1/agent.ts';
import { callUnary } from '../rpc/grpc-client.ts';
import { isAppError } from '../runtime/error.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';

const hourMs = 3_600_000;
const call = { signal: noAbort };

describe('a server', () => {
  it('says how it is', async () => {
    const server = await TestServer.start();
    await server.join();
    const health = await callUnary(server.adminChannel, HealthService.getHealth, {});
    expect(health).toMatchObject({ role: 'server', trustDomain: 'example.org', state: State.OK });
    expect(health.checks.map(({ name, message }) => [name, message])).toEqual([
      ['authority', expect.stringMatching(/^root expires .*, successor due /)],
      ['data store', '1 agents, 0 entries'],
      ['listener', '127.0.0.1:0, TLS 1.3, post-quantum key exchange: prefer'],
    ]);
  });

  it('tells nobody but its administrators how it is', async () => {
    const server = await TestServer.start();
    const refused = callUnary(await server.connect(), HealthService.getHealth, {});
    await expect(refused).rejects.toMatchObject({ code: 'permission-denied' });
  });

  it('replaces its root while it runs', async () => {
    const server = await TestServer.start();
    const [first] = (await server.admin.bundles.getOwn(call)).certificates();
    server.clock.stepWallClock(12 * hourMs);
    await server.clock.advance(10_000);
    await expect.poll(async () => (await server.admin.bundles.getOwn(call)).certificates().length).toBe(2);
    const [old, next] = (await server.admin.bundles.getOwn(call)).certificates();
    expect(old?.fingerprint).toBe(first?.fingerprint);
    server.clock.stepWallClock(8 * hourMs);
    await server.clock.advance(10_000);
    const web = SpiffeId.parse('spiffe://example.org/web');
    const issuer = async () => (await server.mint(web)).chain[0]?.issuer;
    await expect.poll(issuer).toEqual(next?.subject);
  });

  it('forgets join tokens a day after they have ended', async () => {
    const server = await TestServer.start();
    const request = { ttl: 60, token: 'a chosen join token', agentId: undefined };
    const create = () => callUnary(server.adminChannel, AgentService.createJoinToken, request);
    await create();
    const { sleepers } = server.clock;
    for (const { hours, isKept } of [
      { hours: 23, isKept: true },
      { hours: 2, isKept: false },
    ]) {
      server.clock.stepWallClock(hours * hourMs);
      await server.clock.advance(600_000);
      await server.clock.untilSleepers(sleepers);
      if (isKept) await expect(create()).rejects.toMatchObject({ code: 'already-exists' });
      else await create();
    }
  });

  it('deletes entries that have expired', async () => {
    const server = await TestServer.start();
    const expiresAt = Math.floor(server.clock.now() / 1000) + 3600;
    const [gone, left] = [testEntry({ id: 'gone', expiresAt }), testEntry({ id: 'left' })];
    const spiffeId = SpiffeId.parse('spiffe://example.org/stays');
    await server.admin.entries.create([gone, { ...left, spiffeId }], call);
    server.clock.stepWallClock(hourMs);
    await server.clock.advance(300_000);
    await expect
      .poll(async () => (await server.admin.entries.list(call)).map(({ id }) => id))
      .toEqual(['left']);
  });

  it.each(['8081', 'localhost', 'localhost:65536', '[::1:80', '[127.0.0.1]:80', ''])(
    'does not start with the address %j',
    async (listen) => {
      const start = TestServer.start({ settings: { listen } });
      await expect(start).rejects.toSatisfy((error) => isAppError(error, 'invalid-argument'));
    },
  );

  it('does not start with an address that another has', async () => {
    const first = await TestServer.start();
    const start = TestServer.start({ settings: { listen: first.address } });
    await expect(start).rejects.toMatchObject({ code: 'failed-precondition' });
  });
});
