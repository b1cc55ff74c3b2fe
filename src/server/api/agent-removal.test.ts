import { describe, expect, it } from 'vitest';
import { ServerClient } from '../../clients/server-client.ts';
import { AgentService } from '../../gen/spire/api/server/agent/v1/agent.ts';
import {
  EntryService,
  type SyncAuthorizedEntriesRequest,
  type SyncAuthorizedEntriesResponse,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import type { SPIFFEID } from '../../gen/spire/api/types/spiffeid.ts';
import { callUnary, openBidi } from '../../rpc/grpc-client.ts';
import { spiffeIdToWire } from '../../rpc/messages.ts';
import { AppError } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { eventually } from '../../testing/eventually.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newRequest, noAbort, type TestAgent, TestServer } from '../../testing/test-server.ts';

const call = { signal: noAbort };
const outputMask = undefined;

const removals = [
  {
    name: 'banned',
    reason: 'AGENT_BANNED',
    remove: (s: TestServer, id: SpiffeId) => s.admin.agents.ban(id, call),
  },
  {
    name: 'deleted',
    reason: 'AGENT_NOT_ATTESTED',
    remove: (s: TestServer, id: SpiffeId) => s.admin.agents.delete(id, call),
  },
] as const;

describe.each(removals)('an agent that was $name', ({ reason, remove }) => {
  it('is refused from then on, on the connection that it has', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    expect(await agent.client.syncAuthorizedEntries([], call)).toEqual([]);
    await remove(server, agent.id);
    const refused = { code: 'permission-denied', reason };
    const { csr } = await newRequest();
    await expect(agent.client.syncAuthorizedEntries([], call)).rejects.toMatchObject(refused);
    await expect(agent.client.renewAgent({ csr, ...call })).rejects.toMatchObject(refused);
    await expect(agent.client.postStatus({ agentVersion: '1', ...call })).rejects.toMatchObject(refused);
    await expect(agent.client.batchNewX509Svid([{ entryId: 'e', csr }], call)).rejects.toMatchObject(refused);
  });

  it('loses its open streams at once; others keep theirs', async () => {
    const server = await TestServer.start();
    const [agent, other] = [await server.join(), await server.join()];
    const sleepers = server.clock.sleepers;
    const open = ({ channel }: TestAgent) =>
      openBidi<SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse>(
        channel,
        EntryService.syncAuthorizedEntries,
      );
    const [stream, otherStream] = [open(agent), open(other)];
    // The server waits for the first message of both.
    await server.clock.untilSleepers(sleepers + 2);
    const end = expect(stream.next()).rejects.toMatchObject({ code: 'permission-denied', reason });
    await remove(server, agent.id);
    await end;
    otherStream.send({ outputMask, ids: [] });
    expect(await otherStream.next()).toMatchObject({ entries: [], more: false });
    otherStream.cancel();
  });

  it('gets nothing of the batches that are being signed', async () => {
    const server = await TestServer.start({ settings: { limits: { signing: { perSecond: 0 } } } });
    const agent = await server.join();
    await server.admin.entries.create([{ ...testEntry({ id: 'web' }), parentId: agent.id }], call);
    const { csr } = await newRequest();
    const { agents } = server.store;
    const find = agents.find.bind(agents);
    let checks = 0;
    agents.find = (id) => {
      checks += 1;
      return find(id);
    };
    const batch = Array.from({ length: 500 }, () => ({ entryId: 'web', csr }));
    // Several, for they are to take much longer than the removal does.
    const answers = Array.from({ length: 4 }, () =>
      agent.client.batchNewX509Svid(batch, call).then(
        () => 'certificates',
        (error: unknown) => (error instanceof AppError ? error.reason : error),
      ),
    );
    // Once when the call is let in, once by the method itself: now all of them are being signed.
    await eventually(() => expect(checks).toBeGreaterThanOrEqual(8));
    await remove(server, agent.id);
    expect(await Promise.all(answers)).toEqual([reason, reason, reason, reason]);
  });
});

describe('after that', () => {
  it('a banned agent may come back once it was deleted, with a new token', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await server.admin.agents.ban(agent.id, call);
    expect(await server.admin.agents.get(agent.id, call)).toMatchObject({ banned: true, serial: '' });
    await server.admin.agents.delete(agent.id, call);
    await expect(server.admin.agents.get(agent.id, call)).rejects.toMatchObject({ code: 'not-found' });
    const again = await server.join();
    expect(await again.client.syncAuthorizedEntries([], call)).toEqual([]);
  });

  it('the token of a deleted agent does not bring it back, not even with the key and in the minute that it had', async () => {
    const server = await TestServer.start();
    const { value } = await server.admin.agents.createJoinToken({ ttlSeconds: 600, ...call });
    const { csr } = await newRequest();
    const attest = async () =>
      new ServerClient(await server.connect()).attestAgent({
        type: 'join_token',
        payload: Buffer.from(value),
        csr,
        answer: () => Promise.reject(new Error('there is no challenge')),
        ...call,
      });
    const { id } = await attest();
    expect((await attest()).id).toEqual(id);
    await server.admin.agents.delete(id, call);
    await expect(attest()).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'failed to attest: join token does not exist or has already been used',
    });
    expect(await server.admin.agents.list(call)).toEqual([]);
  });

  it('nothing is lost of what is registered below the agent', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await server.admin.entries.create([{ ...testEntry({ id: 'web' }), parentId: agent.id }], call);
    await server.admin.agents.delete(agent.id, call);
    expect(await server.admin.entries.list({ parentId: agent.id, ...call })).toHaveLength(1);
  });
});

describe('an agent ID', () => {
  const methods = [AgentService.getAgent, AgentService.banAgent, AgentService.deleteAgent] as const;
  const ask = async (server: TestServer, id: SPIFFEID | undefined) => {
    const errors: unknown[] = [];
    for (const method of methods) {
      await callUnary(server.adminChannel, method as typeof AgentService.getAgent, { id, outputMask }).catch(
        (error: unknown) => errors.push(error),
      );
    }
    return errors;
  };
  const td = 'example.org';

  it.each<{ says: string; id: SPIFFEID | undefined }>([
    { says: 'request must specify SPIFFE ID', id: undefined },
    { says: 'trust domain must not be empty', id: { trustDomain: '', path: '/spire/agent/a' } },
    { says: 'path must not contain', id: { trustDomain: td, path: '/spire/agent/../server' } },
    {
      says: '"spiffe://other.org/spire/agent/a" is not a member of trust domain "example.org"',
      id: { trustDomain: 'other.org', path: '/spire/agent/a' },
    },
    { says: 'path is empty', id: { trustDomain: td, path: '' } },
    { says: 'path is not in the agent namespace', id: { trustDomain: td, path: '/spire/server' } },
    { says: 'path is not in the agent namespace', id: { trustDomain: td, path: '/spire/agent' } },
    { says: 'path is not in the agent namespace', id: { trustDomain: td, path: '/web' } },
  ])('that is none is refused: $says', async ({ id, says }) => {
    const server = await TestServer.start();
    const message = expect.stringMatching(/^invalid agent ID: /);
    const errors = await ask(server, id);
    expect(errors).toHaveLength(methods.length);
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'invalid-argument', message });
      expect((error as Error).message).toContain(says);
    }
  });

  it('that nobody has is not found', async () => {
    const server = await TestServer.start();
    const unknown = { trustDomain: td, path: '/spire/agent/unknown' };
    const refusal = { code: 'not-found', message: 'agent not found' };
    expect(await ask(server, unknown)).toMatchObject(methods.map(() => refusal));
  });

  it('is all that a mask without anything else leaves', async () => {
    const server = await TestServer.start();
    const { id } = await server.join();
    const mask = {
      attestationType: false,
      x509svidSerialNumber: false,
      x509svidExpiresAt: false,
      selectors: false,
      banned: false,
      canReattest: false,
      agentVersion: false,
    };
    const request = { id: spiffeIdToWire(id), outputMask: mask };
    expect(await callUnary(server.adminChannel, AgentService.getAgent, request)).toMatchObject({
      id: spiffeIdToWire(id),
      attestationType: '',
      x509svidSerialNumber: '',
    });
  });
});

describe('PostStatus', () => {
  it('is shown with the agent, and an empty version changes nothing', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    const shown = async () => (await server.admin.agents.get(agent.id, call)).agentVersion;
    expect(await shown()).toBe('');
    await agent.client.postStatus({ agentVersion: '1.15.3', ...call });
    expect(await shown()).toBe('1.15.3');
    await agent.client.postStatus({ agentVersion: '', ...call });
    expect(await shown()).toBe('1.15.3');
  });

  it('takes 255 bytes of a version and not one more', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await agent.client.postStatus({ agentVersion: 'v'.repeat(255), ...call });
    for (const agentVersion of ['v'.repeat(256), 'é'.repeat(128)]) {
      await expect(agent.client.postStatus({ agentVersion, ...call })).rejects.toMatchObject({
        code: 'invalid-argument',
        message: 'agent version is too long (max 255 characters)',
      });
    }
    expect((await server.admin.agents.get(agent.id, call)).agentVersion).toBe('v'.repeat(255));
  });

  it('is for agents only', async () => {
    const server = await TestServer.start();
    const request = { currentBundleSerial: 0n, agentVersion: '1' };
    const web = await server.mint(SpiffeId.parse('spiffe://example.org/web'));
    for (const channel of [server.adminChannel, await server.connect(web), await server.connect()]) {
      const refused = callUnary(channel, AgentService.postStatus, request);
      await expect(refused).rejects.toMatchObject({ code: 'permission-denied' });
    }
  });
});
