import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { AgentStore } from '../../plugin-api/data-store.ts';
import type { NodeAttestation as NodeProof, ServerNodeAttestor } from '../../plugin-api/node-attestor.ts';
import { createJoinToken, JoinTokenServerAttestor } from '../../plugins/node-attestor/join-token.ts';
import { AppError } from '../../runtime/error.ts';
import { silentLogger } from '../../runtime/log.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { selfSignedSlot } from '../../testing/signing-slot.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { noAbort } from '../../testing/test-server.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { Certificate } from '../../x509/certificate.ts';
import { buildCsr } from '../../x509/csr.ts';
import type { Signer } from '../../x509/signature.ts';
import { Authority, type SignedSvid } from '../authority/authority.ts';
import { Entries } from '../registration/entries.ts';
import { EntryIndex } from '../registration/entry-index.ts';
import { NodeAttestation } from './node-attestation.ts';

const trustDomain = TrustDomain.parse('example.org');
const id = (path: string) => SpiffeId.of(trustDomain, path);
const hourMs = 3_600_000;
const ask = () => Promise.reject(new Error('there is no challenge'));

/** An attestor that proves whatever the test says. */
function proves(proof: Partial<NodeProof>): ServerNodeAttestor {
  return {
    verify: async () => ({ agentPath: '/spire/agent/test/1', selectors: [], canReattest: true, ...proof }),
  };
}

async function attestationWith(
  options: { readonly test?: ServerNodeAttestor; readonly agents?: (store: AgentStore) => AgentStore } = {},
) {
  const clock = new FakeClock();
  const log = silentLogger;
  const store = await openTestStore({ clock });
  const index = new EntryIndex(trustDomain);
  const entries = new Entries({ trustDomain, store: store.entries, index });
  const authority = new Authority({ trustDomain, clock, log });
  const signer = await newSigner();
  let signatures = 0;
  const counting: Signer = {
    ...signer,
    sign: (data) => {
      signatures += 1;
      return signer.sign(data);
    },
  };
  authority.activate({ ...(await selfSignedSlot({ trustDomain, clock, signer })), signer: counting });
  const joinToken = new JoinTokenServerAttestor({
    trustDomain,
    dataDir: '',
    clock,
    log,
    tokens: store.tokens,
  });
  const attestors = new Map([
    ['join_token', joinToken],
    ['test', options.test ?? proves({})],
  ]);
  const agents = options.agents?.(store.agents) ?? store.agents;
  const attestation = new NodeAttestation(
    { trustDomain, attestors, agents, authority, entries, log },
    hourMs,
  );
  return {
    attestation,
    store,
    index,
    entries,
    clock,
    signatures: () => signatures,
    attest: (request: { type?: string; payload?: string; csr: Uint8Array }) => {
      const { type = 'test', payload = '', csr } = request;
      return attestation.attest({ type, payload: Buffer.from(payload), csr }, { ask, signal: noAbort });
    },
    newToken: async (aliasId?: SpiffeId) => {
      const { token, hash } = createJoinToken();
      await store.tokens.create({ hash, expiresAt: clock.now() / 1000 + 600, aliasId });
      return token;
    },
  };
}

const newCsr = async () => buildCsr({ signer: await newSigner() });

/** A request for one key, signed with another. */
async function forgedCsr(): Promise<Uint8Array> {
  const [mine, other] = [await newSigner(), await newSigner()];
  return buildCsr({ signer: { ...mine, sign: (data) => other.sign(data) } });
}

function weakCsr(): Promise<Uint8Array> {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  const signer: Signer = {
    type: 'rsa-2048',
    publicKey: spki,
    sign: async (data) => sign('sha256', data, privateKey),
  };
  return buildCsr({ signer });
}

const leafOf = (svid: SignedSvid) => Certificate.parse(svid.chain[0]!);

describe('attestation with a join token', () => {
  it('gives the agent a certificate for its key under an ID that does not tell the token', async () => {
    const { attest, newToken, store, clock } = await attestationWith();
    const [token, signer] = [await newToken(), await newSigner()];
    const { svid, canReattest } = await attest({
      type: 'join_token',
      payload: token,
      csr: await buildCsr({ signer }),
    });
    expect(canReattest).toBe(false);
    expect(svid.id.path).toMatch(/^\/spire\/agent\/join_token\/[0-9a-f]{32}$/);
    const hash = createHash('sha256').update(token).digest('hex');
    for (const secret of [token, hash, hash.slice(0, 32)]) expect(svid.id.path).not.toContain(secret);
    const leaf = leafOf(svid);
    expect(leaf.uris).toEqual([svid.id.toString()]);
    expect(leaf.spki).toEqual(Buffer.from(signer.publicKey));
    expect(leaf.notAfterMs).toBe(clock.now() + hourMs);
    expect(await store.agents.find(svid.id)).toMatchObject({
      attestationType: 'join_token',
      serial: leaf.serialDecimal,
      expiresAt: leaf.notAfterMs / 1000,
      newSerial: '',
      banned: false,
    });
  });

  it('works once; within a minute the same key may ask again, because the answer may have been lost', async () => {
    const { attest, newToken, clock } = await attestationWith();
    const [payload, csr] = [await newToken(), await newCsr()];
    const first = await attest({ type: 'join_token', payload, csr });
    const again = await attest({ type: 'join_token', payload, csr });
    expect(again.svid.id).toEqual(first.svid.id);
    const thief = attest({ type: 'join_token', payload, csr: await newCsr() });
    await expect(thief).rejects.toMatchObject({ code: 'invalid-argument' });
    await clock.advance(61_000);
    const late = attest({ type: 'join_token', payload, csr });
    await expect(late).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('lets the agent have the entries of its alias at once', async () => {
    const { attest, newToken, entries, index, store } = await attestationWith();
    await entries.create([{ ...testEntry({ id: 'web' }), parentId: id('/node') }]);
    const payload = await newToken(id('/node'));
    const { svid } = await attest({ type: 'join_token', payload, csr: await newCsr() });
    const agent = await store.agents.find(svid.id);
    expect(index.isAuthorized(agent!, 'web', 0)).toBe(true);
    expect(index.size).toBe((await store.entries.list()).length);
  });

  it('looks the token up before the signature of the request, which costs more', async () => {
    const { attest, newToken, store } = await attestationWith();
    const csr = await forgedCsr();
    const guess = attest({ type: 'join_token', payload: 'guessed', csr });
    await expect(guess).rejects.toThrow('join token does not exist');
    const stolen = attest({ type: 'join_token', payload: await newToken(), csr });
    await expect(stolen).rejects.toThrow('invalid CSR signature');
    expect(await store.agents.list()).toEqual([]);
  });

  it.each([
    { name: 'no request', csr: async () => new Uint8Array(0) },
    {
      name: 'something else instead of a request',
      csr: async () => Buffer.from('-----BEGIN CERTIFICATE REQUEST'),
    },
    {
      name: 'a request with something behind it',
      csr: async () => Buffer.concat([await newCsr(), Buffer.of(0)]),
    },
    { name: 'an RSA-1024 key', csr: weakCsr },
  ])('refuses $name and leaves the token as it was', async ({ csr }) => {
    const { attest, newToken } = await attestationWith();
    const payload = await newToken();
    const refused = attest({ type: 'join_token', payload, csr: await csr() });
    await expect(refused).rejects.toMatchObject({ code: 'invalid-argument' });
    await attest({ type: 'join_token', payload, csr: await newCsr() });
  });
});

describe('attestation', () => {
  it.each(['', 'x509pop', 'constructor', '__proto__'])('refuses the unknown type %j', async (type) => {
    const { attest } = await attestationWith();
    const refused = attest({ type, csr: await newCsr() });
    await expect(refused).rejects.toMatchObject({ code: 'failed-precondition' });
    await expect(refused).rejects.toThrow('this server has join_token, test');
  });

  it('records what the attestor has proved', async () => {
    const selectors = ['test:b', 'test:a', 'test:b'].map(parseSelector);
    const { attest, store } = await attestationWith({ test: proves({ selectors }) });
    const { svid, canReattest } = await attest({ csr: await newCsr() });
    expect(canReattest).toBe(true);
    expect(await store.agents.find(id('/spire/agent/test/1'))).toMatchObject({
      attestationType: 'test',
      serial: svid.serialDecimal,
      selectors: ['test:a', 'test:b'].map(parseSelector),
      canReattest: true,
    });
  });

  it('of a known agent replaces its certificate', async () => {
    const { attest, attestation, store } = await attestationWith();
    const { svid: first } = await attest({ csr: await newCsr() });
    await attestation.renew(first.id, await newCsr(), noAbort);
    const { svid: second } = await attest({ csr: await newCsr() });
    const record = await store.agents.find(first.id);
    expect(record).toMatchObject({ serial: second.serialDecimal, newSerial: '', newExpiresAt: 0 });
  });

  it('gives nothing to a banned agent, not even a signature', async () => {
    const banned = (store: AgentStore): AgentStore => ({
      ...bound(store),
      find: async (agentId) => {
        const record = await store.find(agentId);
        return record && { ...record, banned: true };
      },
    });
    const { attest, store, signatures } = await attestationWith({ agents: banned });
    await store.agents.recordAttestation(record('/spire/agent/test/1'));
    const refused = attest({ csr: await newCsr() });
    await expect(refused).rejects.toMatchObject({ code: 'permission-denied', reason: 'AGENT_BANNED' });
    expect(signatures()).toBe(0);
  });

  it('says in the log when a faulty attestor gives the ID of the server', async () => {
    const { attest } = await attestationWith({ test: proves({ agentPath: '/spire/server' }) });
    await expect(attest({ csr: await newCsr() })).rejects.toMatchObject({
      code: 'internal',
      message: 'agent ID cannot collide with the server ID',
    });
  });

  it("does not let one attestor make another's agents", async () => {
    const test = proves({ agentPath: '/spire/agent/join_token/1' });
    const { attest, store } = await attestationWith({ test });
    await expect(attest({ csr: await newCsr() })).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringContaining('belongs to "join_token"'),
    });
    expect(await store.agents.list()).toEqual([]);
  });

  it('does not let a certificate leave that could not be recorded', async () => {
    const failing = (store: AgentStore): AgentStore => ({
      ...bound(store),
      recordAttestation: () => Promise.reject(new Error('the disk is full')),
    });
    const { attest } = await attestationWith({ agents: failing });
    await expect(attest({ csr: await newCsr() })).rejects.toThrow('the disk is full');
  });

  it.each([
    '/web',
    '/spire/server',
    '/spire/agent',
    '/spire/agent/',
    '/spire/agentx/1',
    '/spire/agent/../server',
    '/spire/agent/a//b',
    '',
  ])('refuses the agent path %j of a faulty attestor', async (agentPath) => {
    const { attest, store, signatures } = await attestationWith({ test: proves({ agentPath }) });
    await expect(attest({ csr: await newCsr() })).rejects.toThrow();
    expect(await store.agents.list()).toEqual([]);
    expect(signatures()).toBe(0);
  });

  it('hands the attestor the key that is asked for, and passes its refusal on', async () => {
    let seen: Uint8Array | undefined;
    const test: ServerNodeAttestor = {
      verify: async (_, { publicKey }) => {
        seen = publicKey;
        throw new Error('not this node');
      },
    };
    const { attest } = await attestationWith({ test });
    const signer = await newSigner();
    await expect(attest({ csr: await buildCsr({ signer }) })).rejects.toThrow('not this node');
    expect(seen).toEqual(Buffer.from(signer.publicKey));
  });
});

describe('renewal', () => {
  async function renewing() {
    const parts = await attestationWith();
    const { svid } = await parts.attest({ csr: await newCsr() });
    return { ...parts, current: svid };
  }

  it('gives a certificate for a new key and keeps the one before until the new one is used', async () => {
    const { attestation, store, current } = await renewing();
    const signer = await newSigner();
    const svid = await attestation.renew(current.id, await buildCsr({ signer }), noAbort);
    expect(leafOf(svid).spki).toEqual(Buffer.from(signer.publicKey));
    expect(svid.id).toEqual(current.id);
    expect(await store.agents.find(current.id)).toMatchObject({
      serial: current.serialDecimal,
      newSerial: svid.serialDecimal,
      newExpiresAt: svid.notAfterMs / 1000,
    });
  });

  it.each([
    { name: 'no request', csr: async () => new Uint8Array(0) },
    { name: 'a bad request', csr: async () => Buffer.of(1, 2, 3) },
    { name: 'a request for the key of another', csr: forgedCsr },
    { name: 'an RSA-1024 key', csr: weakCsr },
  ])('refuses $name', async ({ csr }) => {
    const { attestation, store, current } = await renewing();
    const refused = attestation.renew(current.id, await csr(), noAbort);
    await expect(refused).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.agents.find(current.id)).toMatchObject({ newSerial: '' });
  });

  it('does not let a certificate leave for an agent that is gone', async () => {
    const { attestation } = await renewing();
    const refused = attestation.renew(id('/spire/agent/test/gone'), await newCsr(), noAbort);
    await expect(refused).rejects.toMatchObject({ reason: 'AGENT_NOT_ATTESTED' });
  });

  it('does not sign for an agent that was banned since it called', async () => {
    const { attestation, current, signatures } = await renewing();
    const before = signatures();
    const banned = new AppError('permission-denied', 'agent is banned', { reason: 'AGENT_BANNED' });
    const refused = attestation.renew(current.id, await newCsr(), AbortSignal.abort(banned));
    await expect(refused).rejects.toBe(banned);
    expect(signatures()).toBe(before);
  });

  it('does not let a certificate leave for an agent that is banned while it is signed', async () => {
    const { attestation, store, current, signatures } = await renewing();
    const before = signatures();
    const refused = attestation.renew(current.id, await newCsr(), noAbort);
    await store.agents.ban(current.id);
    await expect(refused).rejects.toMatchObject({ reason: 'AGENT_BANNED' });
    expect(signatures()).toBe(before + 1);
  });
});

/** The methods of a store without its class, to replace some of them. */
function bound(store: AgentStore): AgentStore {
  return {
    recordAttestation: (agent) => store.recordAttestation(agent),
    recordRenewal: (agentId, renewed) => store.recordRenewal(agentId, renewed),
    promoteSerial: (agentId, serial) => store.promoteSerial(agentId, serial),
    recordVersion: (agentId, version) => store.recordVersion(agentId, version),
    ban: (agentId) => store.ban(agentId),
    delete: (agentId) => store.delete(agentId),
    find: (agentId) => store.find(agentId),
    list: (query) => store.list(query),
    count: (filter) => store.count(filter),
  };
}

function record(path: string): Parameters<AgentStore['recordAttestation']>[0] {
  return {
    id: id(path),
    attestationType: 'test',
    serial: '1',
    expiresAt: 0,
    selectors: [],
    canReattest: true,
  };
}
