import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ServerClient } from '../../clients/server-client.ts';
import {
  AgentService,
  type AttestAgentRequest,
  type AttestAgentResponse,
  CreateJoinTokenRequest,
} from '../../gen/spire/api/server/agent/v1/agent.ts';
import type { ServerNodeAttestor } from '../../plugin-api/node-attestor.ts';
import { type ClientChannel, callUnary, openBidi } from '../../rpc/grpc-client.ts';
import { AppError } from '../../runtime/error.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { newRequest, noAbort, TestServer } from '../../testing/test-server.ts';
import { Certificate } from '../../x509/certificate.ts';

const hourMs = 3_600_000;
const empty = new Uint8Array(0);
const web = SpiffeId.parse('spiffe://example.org/web');
const call = { signal: noAbort };

/** Two rounds of a tiny protocol: whoever knows the secret can answer. */
class SecretAttestor implements ServerNodeAttestor {
  readonly #secret: string;
  /** How many attestations have ended, well or not. */
  ended = 0;

  constructor(secret: string) {
    this.#secret = secret;
  }

  static answer(secret: string, challenge: Uint8Array): Buffer {
    return createHash('sha256').update(secret).update(challenge).digest();
  }

  async verify(payload: Uint8Array, { ask }: Parameters<ServerNodeAttestor['verify']>[1]) {
    try {
      for (let round = 0; round < 2; round += 1) {
        const challenge = randomBytes(16);
        const expected = SecretAttestor.answer(this.#secret, challenge);
        if (!expected.equals(await ask(challenge))) {
          throw new AppError('permission-denied', 'the node does not know the secret');
        }
      }
    } finally {
      this.ended += 1;
    }
    const name = Buffer.from(payload).toString();
    return {
      agentPath: `/spire/agent/secret/${name}`,
      selectors: [parseSelector('secret:yes')],
      canReattest: true,
    };
  }
}

async function serverWithSecret(settings: Readonly<Record<string, unknown>> = {}) {
  const attestor = new SecretAttestor('abracadabra');
  const server = await TestServer.start({ attestors: { secret: attestor }, settings });
  const open = async () =>
    openBidi<AttestAgentRequest, AttestAgentResponse>(await server.connect(), AgentService.attestAgent);
  const params = async (changes: { type?: string; payload?: string; csr?: Buffer } = {}) => {
    const { type = 'secret', payload = 'node-1', csr = (await newRequest()).csr } = changes;
    return { data: { type, payload: Buffer.from(payload) }, params: { csr } };
  };
  return { server, attestor, open, params };
}

const ofParams = (value: AttestAgentRequest['step'] & { $case: 'params' }): AttestAgentRequest => ({
  step: value,
});
const response = (value: Buffer): AttestAgentRequest => ({ step: { $case: 'challengeResponse', value } });

async function nextChallenge(stream: { next(): Promise<AttestAgentResponse | undefined> }): Promise<Buffer> {
  const step = (await stream.next())?.step;
  if (step?.$case !== 'challenge') throw new Error(`a challenge was expected, not ${step?.$case}`);
  return step.value;
}

/** Everything that a database has on disk, with its journal. */
function bytesIn(directory: string): Buffer {
  const files = readdirSync(directory).filter((name) => name.startsWith('signet.db'));
  expect(files.length).toBeGreaterThan(0);
  return Buffer.concat(files.map((name) => readFileSync(join(directory, name))));
}

describe('AttestAgent', () => {
  it('makes an agent of whoever has a join token, and the certificate opens the door to its methods', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    expect(agent.id.path).toMatch(/^\/spire\/agent\/join_token\//);
    expect(agent.chain.map((certificate) => certificate.uris)).toEqual([[agent.id.toString()]]);
    expect(agent.chain[0]?.notAfterMs).toBe(Math.floor((server.clock.now() + hourMs) / 1000) * 1000);
    expect(await agent.client.syncAuthorizedEntries([], call)).toEqual([]);
  });

  it('carries as many challenges as the attestor has', async () => {
    const { server, attestor } = await serverWithSecret();
    const { csr, signer } = await newRequest();
    const challenges: Uint8Array[] = [];
    const result = await new ServerClient(await server.connect()).attestAgent({
      type: 'secret',
      payload: Buffer.from('node-1'),
      csr,
      answer: async (challenge) => {
        challenges.push(challenge);
        return SecretAttestor.answer('abracadabra', challenge);
      },
      ...call,
    });
    expect(challenges).toHaveLength(2);
    expect(result.reattestable).toBe(true);
    expect(result.id.toString()).toBe('spiffe://example.org/spire/agent/secret/node-1');
    expect(result.chain[0]?.spki).toEqual(Buffer.from(signer.publicKey));
    expect((await server.store.agents.find(result.id))?.selectors).toEqual([parseSelector('secret:yes')]);
    expect(attestor.ended).toBe(1);
  });

  it('ends the stream after the result', async () => {
    const { open, params } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params() }));
    for (let round = 0; round < 2; round += 1) {
      stream.send(response(SecretAttestor.answer('abracadabra', await nextChallenge(stream))));
    }
    const step = (await stream.next())?.step;
    if (step?.$case !== 'result') throw new Error(`a result was expected, not ${step?.$case}`);
    const leaf = Certificate.parse(step.value.svid!.certChain[0]!);
    expect(step.value.svid).toMatchObject({
      id: { trustDomain: 'example.org', path: '/spire/agent/secret/node-1' },
      expiresAt: BigInt(leaf.notAfterMs / 1000),
    });
    stream.conclude();
    expect(await stream.next()).toBeUndefined();
  });

  it('refuses a wrong answer with what the attestor says', async () => {
    const { server, open, params, attestor } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params() }));
    stream.send(response(SecretAttestor.answer('hocus pocus', await nextChallenge(stream))));
    await expect(stream.next()).rejects.toMatchObject({ code: 'permission-denied' });
    expect(await server.store.agents.list()).toEqual([]);
    expect(attestor.ended).toBe(1);
  });

  it.each<{ name: string; answer: AttestAgentRequest | undefined }>([
    {
      name: 'the parameters again',
      answer: { step: { $case: 'params', value: { data: undefined, params: undefined } } },
    },
    { name: 'an empty message', answer: { step: undefined } },
    { name: 'nothing more', answer: undefined },
  ])('refuses an agent that answers a challenge with $name', async ({ answer }) => {
    const { open, params, attestor } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params() }));
    await nextChallenge(stream);
    const end = stream.next();
    if (answer === undefined) stream.conclude();
    else stream.send(answer);
    // Whoever has hung up may not hear it any more.
    await (answer === undefined
      ? end.catch(() => undefined)
      : expect(end).rejects.toMatchObject({ code: 'invalid-argument' }));
    await expect.poll(() => attestor.ended).toBe(1);
  });

  it('does not wait longer than ten seconds for an answer', async () => {
    const { server, open, params, attestor } = await serverWithSecret();
    const sleepers = server.clock.sleepers;
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params() }));
    await nextChallenge(stream);
    await server.clock.untilSleepers(sleepers + 1);
    const end = expect(stream.next()).rejects.toMatchObject({ code: 'deadline-exceeded' });
    await server.clock.advance(10_000);
    await end;
    expect(attestor.ended).toBe(1);
  });

  it('lets others in while agents have challenges to answer, however many those are', async () => {
    const limits = { attestation: { concurrent: 1 } };
    const { server, open, params, attestor } = await serverWithSecret({ limits });
    const asked = [];
    for (let i = 0; i < 3; i += 1) {
      const stream = await open();
      stream.send(ofParams({ $case: 'params', value: await params() }));
      asked.push({ stream, challenge: await nextChallenge(stream) });
    }
    await server.join();
    for (const { stream, challenge } of asked) {
      stream.send(response(SecretAttestor.answer('abracadabra', challenge)));
      const second = await nextChallenge(stream);
      stream.send(response(SecretAttestor.answer('abracadabra', second)));
      expect((await stream.next())?.step?.$case).toBe('result');
    }
    await expect.poll(() => attestor.ended).toBe(3);
    await server.join();
  });

  it('is refused for a moment while as many are verified as may be', async () => {
    const proof = Promise.withResolvers<never>();
    const slow = { verify: () => proof.promise };
    const limits = { attestation: { concurrent: 1 } };
    const server = await TestServer.start({ attestors: { slow }, settings: { limits } });
    const open = async (type: string) => {
      const { attestAgent } = AgentService;
      const channel = await server.connect();
      const stream = openBidi<AttestAgentRequest, AttestAgentResponse>(channel, attestAgent);
      const { csr } = await newRequest();
      const data = { type, payload: Buffer.of(1) };
      stream.send(ofParams({ $case: 'params', value: { data, params: { csr } } }));
      return stream;
    };
    const first = await open('slow');
    const second = await open('slow');
    const failures = [first, second].map((stream) => stream.next().catch((error: unknown) => error));
    expect(await Promise.race(failures)).toMatchObject({
      code: 'resource-exhausted',
      message: expect.stringContaining('limits.attestation.concurrent'),
    });
    proof.reject(new AppError('permission-denied', 'no'));
    await Promise.all(failures);
    await server.join();
  });

  it('lets the attestor end when the agent goes away', async () => {
    const { open, params, attestor } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params() }));
    await nextChallenge(stream);
    stream.cancel();
    await expect.poll(() => attestor.ended).toBe(1);
  });

  const data = { type: 'secret', payload: Buffer.of(1) };
  const withCsr = { csr: Buffer.of(1) };
  it.each<{ says: string; first: AttestAgentRequest }>([
    { says: 'missing params', first: { step: undefined } },
    { says: 'missing params', first: response(Buffer.from('x')) },
    {
      says: 'missing attestation data',
      first: ofParams({ $case: 'params', value: { data: undefined, params: withCsr } }),
    },
    {
      says: 'missing attestation data type',
      first: ofParams({ $case: 'params', value: { data: { ...data, type: '' }, params: withCsr } }),
    },
    {
      says: 'missing attestation data payload',
      first: ofParams({
        $case: 'params',
        value: { data: { ...data, payload: Buffer.of() }, params: withCsr },
      }),
    },
    {
      says: 'missing X509-SVID parameters',
      first: ofParams({ $case: 'params', value: { data, params: undefined } }),
    },
    {
      says: 'missing CSR',
      first: ofParams({ $case: 'params', value: { data, params: { csr: Buffer.of() } } }),
    },
  ])('refuses a first message with "malformed param: $says"', async ({ says, first }) => {
    const { open, attestor } = await serverWithSecret();
    const stream = await open();
    stream.send(first);
    const message = `malformed param: ${says}`;
    await expect(stream.next()).rejects.toMatchObject({ code: 'invalid-argument', message });
    expect(attestor.ended).toBe(0);
  });

  it('says when the request for a certificate cannot be read', async () => {
    const { open, params } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params({ csr: Buffer.from('hello') }) }));
    const message = expect.stringMatching(/^failed to parse CSR: request: /);
    await expect(stream.next()).rejects.toMatchObject({ code: 'invalid-argument', message });
  });

  it('refuses a type that the server does not have', async () => {
    const { open, params } = await serverWithSecret();
    const stream = await open();
    stream.send(ofParams({ $case: 'params', value: await params({ type: 'x509pop' }) }));
    await expect(stream.next()).rejects.toMatchObject({ code: 'failed-precondition' });
  });

  it('refuses a banned agent', async () => {
    const { server } = await serverWithSecret();
    const attest = async () =>
      new ServerClient(await server.connect()).attestAgent({
        type: 'secret',
        payload: Buffer.from('node-1'),
        csr: (await newRequest()).csr,
        answer: async (challenge) => SecretAttestor.answer('abracadabra', challenge),
        ...call,
      });
    const { id } = await attest();
    await server.ban(id);
    await expect(attest()).rejects.toMatchObject({ code: 'permission-denied', reason: 'AGENT_BANNED' });
  });
});

describe('RenewAgent', () => {
  it('gives a certificate whose first use ends the one before', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    const { key, signer, csr } = await newRequest();
    await server.clock.advance(1000);
    const chain = await agent.client.renewAgent({ csr, ...call });
    expect(chain[0]?.notAfterMs).toBeGreaterThan(agent.chain[0]!.notAfterMs);
    await agent.client.syncAuthorizedEntries([], call);
    const renewed = await server.asAgent({ id: agent.id, key, signer, chain });
    await renewed.client.syncAuthorizedEntries([], call);
    await expect(agent.client.syncAuthorizedEntries([], call)).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_NOT_ACTIVE',
    });
  });

  it('may be asked again when its answer was lost', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await agent.client.renewAgent({ csr: (await newRequest()).csr, ...call });
    const { key, signer, csr } = await newRequest();
    const chain = await agent.client.renewAgent({ csr, ...call });
    const renewed = await server.asAgent({ id: agent.id, key, signer, chain });
    expect(await renewed.client.syncAuthorizedEntries([], call)).toEqual([]);
  });

  it.each([
    { name: 'no parameters', params: undefined },
    { name: 'no request', params: { csr: Buffer.of() } },
    { name: 'something else', params: { csr: Buffer.from('hello') } },
  ])('refuses $name', async ({ params }) => {
    const server = await TestServer.start();
    const agent = await server.join();
    const refused = callUnary(agent.channel, AgentService.renewAgent, { params });
    await expect(refused).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('is refused to agents that can attest again, even before the request is looked at', async () => {
    const { server } = await serverWithSecret();
    const { key, signer, csr } = await newRequest();
    const { id, chain } = await new ServerClient(await server.connect()).attestAgent({
      type: 'secret',
      payload: Buffer.from('node-1'),
      csr,
      answer: async (challenge) => SecretAttestor.answer('abracadabra', challenge),
      ...call,
    });
    const agent = await server.asAgent({ id, key, signer, chain });
    await expect(
      callUnary(agent.channel, AgentService.renewAgent, { params: undefined }),
    ).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_MUST_REATTEST',
      message: 'agent must reattest instead of renew',
    });
  });

  it('tells an agent whose certificate has expired to begin anew', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await agent.client.syncAuthorizedEntries([], call);
    server.clock.stepWallClock(hourMs);
    const refused = agent.client.renewAgent({ csr: (await newRequest()).csr, ...call });
    await expect(refused).rejects.toMatchObject({ reason: 'AGENT_EXPIRED' });
  });

  it('is for agents only', async () => {
    const server = await TestServer.start();
    const request = { params: { csr: (await newRequest()).csr } };
    for (const channel of [server.adminChannel, await server.connect(await server.mint(web))]) {
      const refused = callUnary(channel, AgentService.renewAgent, request);
      await expect(refused).rejects.toMatchObject({ code: 'permission-denied' });
    }
  });
});

describe('CreateJoinToken', () => {
  const create = (channel: ClientChannel, request: Partial<CreateJoinTokenRequest>) =>
    callUnary(channel, AgentService.createJoinToken, {
      ...CreateJoinTokenRequest.decode(empty),
      ttl: 600,
      ...request,
    });
  const redeem = async (server: TestServer, token: string) => {
    return new ServerClient(await server.connect()).attestAgent({
      type: 'join_token',
      payload: Buffer.from(token),
      csr: (await newRequest()).csr,
      answer: () => Promise.reject(new Error('there is no challenge')),
      ...call,
    });
  };

  it('makes tokens of 256 bits, each once', async () => {
    const { adminChannel, clock } = await TestServer.start();
    const tokens = await Promise.all(Array.from({ length: 20 }, () => create(adminChannel, {})));
    for (const { value, expiresAt } of tokens) {
      expect(Buffer.from(value, 'base64url')).toHaveLength(32);
      expect(expiresAt).toBe(BigInt(Math.floor(clock.now() / 1000) + 600));
    }
    expect(new Set(tokens.map((token) => token.value)).size).toBe(20);
  });

  it('leaves nothing of the token on the disk, not even after it was used', async () => {
    const server = await TestServer.start();
    const { value } = await create(server.adminChannel, {
      agentId: { trustDomain: 'example.org', path: '/node' },
    });
    expect(bytesIn(server.dataDir).includes(value)).toBe(false);
    const { id } = await redeem(server, value);
    const bytes = bytesIn(server.dataDir);
    expect(bytes.includes(id.toString())).toBe(true);
    expect(bytes.includes(value)).toBe(false);
  });

  it('makes tokens that end in time', async () => {
    const server = await TestServer.start();
    const { value } = await create(server.adminChannel, { ttl: 60 });
    await server.clock.advance(60_000);
    await expect(redeem(server, value)).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await server.store.agents.list()).toEqual([]);
  });

  it.each(['a'.repeat(16), 'a'.repeat(1024)])(
    'takes a token that the administrator has chosen',
    async (token) => {
      const server = await TestServer.start();
      expect((await create(server.adminChannel, { token })).value).toBe(token);
      expect((await redeem(server, token)).reattestable).toBe(false);
      await expect(create(server.adminChannel, { token })).rejects.toMatchObject({ code: 'already-exists' });
    },
  );

  const forbidden: readonly { name: string; request: Partial<CreateJoinTokenRequest> }[] = [
    { name: 'without a lifetime', request: { ttl: 0 } },
    { name: 'with a negative lifetime', request: { ttl: -1 } },
    { name: 'that lives longer than 30 days', request: { ttl: 30 * 86_400 + 1 } },
    { name: 'that can be guessed', request: { token: 'a'.repeat(15) } },
    { name: 'that could never be redeemed', request: { token: 'a'.repeat(1025) } },
    { name: 'for an alias elsewhere', request: { agentId: { trustDomain: 'other.org', path: '/node' } } },
    { name: 'for the trust domain', request: { agentId: { trustDomain: 'example.org', path: '' } } },
    { name: 'for the server', request: { agentId: { trustDomain: 'example.org', path: '/spire/server' } } },
    {
      name: 'for another agent',
      request: { agentId: { trustDomain: 'example.org', path: '/spire/agent/x' } },
    },
    {
      name: 'for something that is no ID',
      request: { agentId: { trustDomain: 'example.org', path: 'node' } },
    },
  ];

  it('refuses a token that breaks a rule', async () => {
    const { adminChannel } = await TestServer.start();
    for (const { name, request } of forbidden) {
      const refused = create(adminChannel, request);
      await expect(refused, name).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });

  it('is not for agents', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    for (const channel of [agent.channel, await server.connect()]) {
      await expect(create(channel, {})).rejects.toMatchObject({ code: 'permission-denied' });
    }
  });
});
