import { describe, expect, it } from 'vitest';
import { ServerClient } from '../clients/server-client.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { newRequest, noAbort, type TestAgent, TestServer } from '../testing/test-server.ts';

const call = { signal: noAbort };
const noChallenge = () => Promise.reject(new Error('there is no challenge'));

/** Attests on a connection of its own, with a token that may be none. */
async function attest(server: TestServer, token: string) {
  const channel = await server.connect();
  const { csr } = await newRequest();
  const request = { type: 'join_token', payload: Buffer.from(token), csr, answer: noChallenge, ...call };
  try {
    return await new ServerClient(channel).attestAgent(request);
  } finally {
    channel.close();
  }
}

async function newToken(server: TestServer): Promise<string> {
  return (await server.admin.agents.createJoinToken({ ttlSeconds: 600, agentId: undefined, ...call })).value;
}

/** Asks for one certificate for each entry of the agent. */
async function sign(agent: TestAgent, entryIds: readonly string[]) {
  const requests = entryIds.map(async (entryId) => ({ entryId, csr: (await newRequest()).csr }));
  return agent.client.batchNewX509Svid(await Promise.all(requests), call);
}

describe('the limit on signing', () => {
  it('is each agent’s own, and says when it can go on', async () => {
    const server = await TestServer.start({ settings: { limits: { signing: { perSecond: 2 } } } });
    const [one, other] = [await server.join(), await server.join()];
    const entries = [one, other].map(({ id }, n) =>
      testEntry({ id: '', parentId: id, spiffeId: `spiffe://example.org/w${n}` }),
    );
    const created = await server.admin.entries.create(entries, call);
    const ids = created.map(({ entry }) => entry.id);
    const mine = Array<string>(4).fill(ids[0] ?? '');
    expect(await sign(one, mine)).toHaveLength(4);
    await expect(sign(one, mine)).rejects.toMatchObject({ code: 'resource-exhausted', retryAfterMs: 2_000 });
    await expect(one.client.renewAgent({ csr: (await newRequest()).csr, ...call })).rejects.toMatchObject({
      code: 'resource-exhausted',
      retryAfterMs: 1_500,
    });
    expect(await sign(other, [ids[1] ?? ''])).toHaveLength(1);
    await server.clock.advance(2_000);
    expect(await sign(one, mine)).toHaveLength(4);
  });
});

describe('failed attestations', () => {
  it('shut the door to attestation for their address alone, and only for a while', async () => {
    const settings = { limits: { attestation: { failuresPerMinute: 3 } } };
    const server = await TestServer.start({ settings });
    const agent = await server.join();
    const token = await newToken(server);
    for (let i = 0; i < 3; i += 1) {
      await expect(attest(server, `no-such-token-${i}`)).rejects.toMatchObject({ code: 'invalid-argument' });
    }
    const refused = { code: 'resource-exhausted', retryAfterMs: 20_000 };
    await expect(attest(server, token)).rejects.toMatchObject(refused);
    await agent.client.getBundle(call);
    const stranger = new ServerClient(await server.connect());
    await stranger.getBundle(call);
    await server.clock.advance(20_000);
    expect((await attest(server, token)).chain).toHaveLength(1);
  });
});
