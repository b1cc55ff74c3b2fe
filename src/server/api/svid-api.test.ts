import { generateKeyPairSync, sign } from 'node:crypto';
import { setImmediate as nextRound } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { SVIDService } from '../../gen/spire/api/server/svid/v1/svid.ts';
import type { X509SVID } from '../../gen/spire/api/types/x509svid.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { AppError } from '../../runtime/error.ts';
import { silentLogger } from '../../runtime/log.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../../spiffe/x509-svid.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { opensslVerdict } from '../../testing/openssl.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { selfSignedSlot } from '../../testing/signing-slot.ts';
import { newSigner } from '../../testing/test-authority.ts';
import { newRequest, noAbort, TestServer } from '../../testing/test-server.ts';
import { Certificate } from '../../x509/certificate.ts';
import { buildCsr } from '../../x509/csr.ts';
import { encodeName } from '../../x509/names.ts';
import type { Signer } from '../../x509/signature.ts';
import { Authority } from '../authority/authority.ts';
import { EntryIndex } from '../registration/entry-index.ts';
import { svidApi } from './svid-api.ts';

const hourMs = 3_600_000;
const web = 'spiffe://example.org/web';
const elsewhere = SpiffeId.parse('spiffe://example.org/spire/agent/elsewhere');

interface Item {
  readonly entryId?: string;
  readonly csr?: Uint8Array;
}

async function batch(channel: ClientChannel, items: readonly Item[]) {
  const params = items.map(({ entryId = '', csr = new Uint8Array(0) }) => ({
    entryId,
    csr: Buffer.from(csr),
  }));
  return (await callUnary(channel, SVIDService.batchNewX509Svid, { params })).results;
}

function leafOf(svid: X509SVID | undefined): Certificate {
  expect(svid?.certChain).toHaveLength(1);
  return Certificate.parse(svid!.certChain[0]!);
}

/** A server with an agent, an entry `web` for it and an entry `other` for another. */
async function serverWithAgent(fields: Parameters<typeof testEntry>[0] = {}) {
  // Batches here come faster than from an agent.
  const server = await TestServer.start({ settings: { limits: { signing: { perSecond: 0 } } } });
  const agent = await server.join();
  await server.admin.entries.create(
    [
      testEntry({ id: 'web', spiffeId: web, parentId: agent.id, ...fields }),
      testEntry({ id: 'other', spiffeId: 'spiffe://example.org/other', parentId: elsewhere }),
    ],
    { signal: noAbort },
  );
  return { server, agent };
}

async function forgedCsr(): Promise<Uint8Array> {
  const [mine, other] = [await newSigner(), await newSigner()];
  return buildCsr({ signer: { ...mine, sign: (data) => other.sign(data) }, uris: [web] });
}

/** Requests that must not be signed, whoever asks. */
const badRequests: readonly { name: string; csr: () => Promise<Uint8Array> }[] = [
  { name: 'no request', csr: async () => new Uint8Array(0) },
  { name: 'something else', csr: async () => Buffer.from('hello') },
  {
    name: 'a request with something behind it',
    csr: async () => Buffer.concat([await goodCsr(), Buffer.of(0)]),
  },
  { name: 'half a request', csr: async () => (await goodCsr()).subarray(0, 100) },
  { name: 'a request of 17 KB', csr: async () => Buffer.concat([await goodCsr(), Buffer.alloc(17_000)]) },
  { name: 'a request for the key of another', csr: forgedCsr },
  { name: 'an RSA-1024 key', csr: () => oddCsr('rsa') },
  { name: 'an Ed25519 key', csr: () => oddCsr('ed25519') },
];

async function goodCsr(): Promise<Buffer> {
  return buildCsr({ signer: await newSigner(), uris: [web] });
}

function oddCsr(kind: 'rsa' | 'ed25519'): Promise<Uint8Array> {
  const { privateKey, publicKey } =
    kind === 'rsa' ? generateKeyPairSync('rsa', { modulusLength: 1024 }) : generateKeyPairSync('ed25519');
  const signer: Signer = {
    type: kind === 'rsa' ? 'rsa-2048' : 'ec-p256',
    publicKey: publicKey.export({ format: 'der', type: 'spki' }),
    sign: async (data) => sign(kind === 'rsa' ? 'sha256' : null, data, privateKey),
  };
  return buildCsr({ signer, uris: [web] });
}

describe('BatchNewX509SVID', () => {
  it('signs a certificate that verifies against the bundle, for the key of the request', async () => {
    const { server, agent } = await serverWithAgent();
    const { csr, signer } = await newRequest([web]);
    const [result] = await batch(agent.channel, [{ entryId: 'web', csr }]);
    expect(result?.status).toEqual({ code: status.OK, message: '' });
    const leaf = leafOf(result?.svid);
    const bundle = await server.admin.bundles.getOwn({ signal: noAbort });
    const nowMs = server.clock.now();
    expect(verifyX509Svid({ chain: [leaf], bundles: () => bundle, nowMs }).id.toString()).toBe(web);
    expect(opensslVerdict({ leaf, intermediates: [], anchors: bundle.certificates(), nowMs })).toBe('OK');
    expect(leaf.spki).toEqual(Buffer.from(signer.publicKey));
    expect(result?.svid).toMatchObject({
      id: { trustDomain: 'example.org', path: '/web' },
      expiresAt: BigInt(leaf.notAfterMs / 1000),
    });
  });

  it('takes identity, names and lifetime from the entry, whatever the request says of itself', async () => {
    const dnsNames = ['web.example.org', 'web'];
    const { server, agent } = await serverWithAgent({ dnsNames, x509SvidTtlSeconds: 90 });
    const csr = await buildCsr({
      signer: await newSigner(),
      subject: encodeName({ commonName: 'admin', organization: ['Root'] }),
      uris: ['spiffe://example.org/admin', 'spiffe://other.org/admin', 'spiffe://example.org/spire/server'],
      dnsNames: ['admin.example.org'],
    });
    const [result] = await batch(agent.channel, [{ entryId: 'web', csr }]);
    const leaf = leafOf(result?.svid);
    expect(leaf.uris).toEqual([web]);
    expect(leaf.dnsNames).toEqual(dnsNames);
    expect(leaf.subjectText).toBe('O=Signet,CN=web.example.org');
    const wholeSeconds = Math.floor((server.clock.now() + 90_000) / 1000) * 1000;
    expect(leaf.notAfterMs).toBe(wholeSeconds);
  });

  it('gives the lifetime of the settings to an entry without one', async () => {
    const { server, agent } = await serverWithAgent();
    const [result] = await batch(agent.channel, [{ entryId: 'web', csr: await goodCsr() }]);
    expect(leafOf(result?.svid).notAfterMs).toBe(Math.floor((server.clock.now() + hourMs) / 1000) * 1000);
  });

  it.each<{ keyType: 'ec-p384' | 'rsa-2048' }>([{ keyType: 'ec-p384' }, { keyType: 'rsa-2048' }])(
    'signs for an $keyType key',
    async ({ keyType }) => {
      const { agent } = await serverWithAgent();
      const csr = await buildCsr({ signer: await newSigner(keyType) });
      const [result] = await batch(agent.channel, [{ entryId: 'web', csr }]);
      expect(leafOf(result?.svid).uris).toEqual([web]);
    },
  );

  it('answers each item on its own and in order', async () => {
    const { agent } = await serverWithAgent();
    const csr = await goodCsr();
    const results = await batch(agent.channel, [
      { entryId: 'web', csr },
      { csr },
      { entryId: 'nobody', csr },
      { entryId: 'other', csr },
      { entryId: 'web' },
      { entryId: 'web', csr: await forgedCsr() },
      { entryId: 'web', csr },
    ]);
    const { OK, INVALID_ARGUMENT, NOT_FOUND } = status;
    const codes = [OK, INVALID_ARGUMENT, NOT_FOUND, NOT_FOUND, INVALID_ARGUMENT, INVALID_ARGUMENT, OK];
    expect(results.map((result) => result.status?.code)).toEqual(codes);
    expect(results.map((result) => result.svid !== undefined)).toEqual(codes.map((code) => code === OK));
    // Whether an entry exists for somebody else is nobody's business.
    expect(results[2]?.status).toEqual(results[3]?.status);
    expect(results.map((result) => result.status?.message)).toEqual([
      '',
      'missing entry ID',
      'entry not found or not authorized',
      'entry not found or not authorized',
      'missing CSR',
      'invalid CSR signature',
      '',
    ]);
  });

  it('says of a CSR that is none what is wrong with it', async () => {
    const { agent } = await serverWithAgent();
    const [result] = await batch(agent.channel, [{ entryId: 'web', csr: Buffer.from('hello') }]);
    expect(result?.status?.message).toMatch(/^malformed CSR: failed to parse CSR: request: /);
  });

  it('refuses a request that must not be signed', async () => {
    const { agent } = await serverWithAgent();
    for (const { name, csr } of badRequests) {
      const [result] = await batch(agent.channel, [{ entryId: 'web', csr: await csr() }]);
      const refused = { status: { code: status.INVALID_ARGUMENT }, svid: undefined };
      expect(result, name).toMatchObject(refused);
    }
  });

  it.each<{ name: string; end: (server: TestServer) => Promise<unknown> }>([
    { name: 'has expired', end: (server) => server.clock.advance(60_000) },
    { name: 'was deleted', end: (server) => server.admin.entries.delete(['web'], { signal: noAbort }) },
    {
      name: 'was moved to another agent',
      end: async (server) => {
        const entry = await server.admin.entries.get('web', { signal: noAbort });
        await server.admin.entries.update({ ...entry, parentId: elsewhere }, { signal: noAbort });
      },
    },
  ])('stops signing for an entry that $name', async ({ end }) => {
    const expiresAt = Math.ceil(Date.now() / 1000) + 60;
    const { server, agent } = await serverWithAgent({ expiresAt });
    const item = { entryId: 'web', csr: await goodCsr() };
    expect((await batch(agent.channel, [item]))[0]?.status?.code).toBe(status.OK);
    await end(server);
    await server.clock.advance(1000);
    expect((await batch(agent.channel, [item]))[0]?.status?.code).toBe(status.NOT_FOUND);
  });

  it('takes 500 items and no more, and at least one', async () => {
    const { agent } = await serverWithAgent();
    const item = { entryId: 'web', csr: await goodCsr() };
    const results = await batch(agent.channel, Array(500).fill(item));
    expect(new Set(results.map((result) => leafOf(result.svid).serialHex)).size).toBe(500);
    await expect(batch(agent.channel, Array(501).fill(item))).rejects.toMatchObject({
      code: 'resource-exhausted',
    });
    await expect(batch(agent.channel, [])).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('is for agents only, in good standing', async () => {
    const { server, agent } = await serverWithAgent();
    const item = { entryId: 'web', csr: await goodCsr() };
    const workload = await server.mint(SpiffeId.parse(web));
    for (const channel of [server.adminChannel, await server.connect(), await server.connect(workload)]) {
      await expect(batch(channel, [item])).rejects.toMatchObject({ code: 'permission-denied' });
    }
    await server.ban(agent.id);
    await expect(batch(agent.channel, [item])).rejects.toMatchObject({
      code: 'permission-denied',
      reason: 'AGENT_BANNED',
    });
  });
});

describe('MintX509SVID', () => {
  const mint = async (channel: ClientChannel, csr: Uint8Array, ttl = 0) =>
    (await callUnary(channel, SVIDService.mintX509Svid, { csr: Buffer.from(csr), ttl })).svid;

  it('signs what the administrator asks for', async () => {
    const server = await TestServer.start();
    const signer = await newSigner();
    const csr = await buildCsr({ signer, uris: [web], dnsNames: ['web', '*.web.example.org'] });
    const leaf = leafOf(await mint(server.adminChannel, csr, 120));
    expect(leaf.uris).toEqual([web]);
    expect(leaf.dnsNames).toEqual(['web', '*.web.example.org']);
    expect(leaf.spki).toEqual(Buffer.from(signer.publicKey));
    expect(leaf.notAfterMs).toBe(Math.floor((server.clock.now() + 120_000) / 1000) * 1000);
    const plain = leafOf(await mint(server.adminChannel, await goodCsr()));
    expect(plain.notAfterMs).toBe(Math.floor((server.clock.now() + hourMs) / 1000) * 1000);
  });

  it('takes the subject of the request, with the first DNS name as its common name', async () => {
    const server = await TestServer.start();
    const subject = encodeName({ country: ['DE'], organization: ['Example'], commonName: 'web' });
    const subjectOf = async (dnsNames: readonly string[]) => {
      const csr = await buildCsr({ signer: await newSigner(), uris: [web], subject, dnsNames });
      return leafOf(await mint(server.adminChannel, csr)).subjectText;
    };
    expect(await subjectOf([])).toBe('C=DE,O=Example,CN=web');
    expect(await subjectOf(['web.example.org', 'web'])).toBe('C=DE,O=Example,CN=web.example.org');
  });

  it('ends every certificate with the CA at the latest', async () => {
    const server = await TestServer.start();
    const [root] = (await server.admin.bundles.getOwn({ signal: noAbort })).certificates();
    const leaf = leafOf(await mint(server.adminChannel, await goodCsr(), 2_147_483_647));
    expect(leaf.notAfterMs).toBe(root!.notAfterMs);
  });

  const forbidden: typeof badRequests = [
    ...badRequests,
    { name: 'a request without an identity', csr: async () => (await newRequest()).csr },
    { name: 'two identities', csr: async () => (await newRequest([web, `${web}2`])).csr },
    { name: 'a web address', csr: async () => (await newRequest(['https://example.org/web'])).csr },
    { name: 'another trust domain', csr: async () => (await newRequest(['spiffe://other.org/web'])).csr },
    { name: 'the trust domain itself', csr: async () => (await newRequest(['spiffe://example.org'])).csr },
    {
      name: 'the name of the server',
      csr: async () => (await newRequest(['spiffe://example.org/spire/server'])).csr,
    },
    { name: 'the name of an agent', csr: async () => (await newRequest([elsewhere.toString()])).csr },
    {
      name: 'a bad DNS name',
      csr: async () => buildCsr({ signer: await newSigner(), uris: [web], dnsNames: ['a b'] }),
    },
    {
      name: 'a DNS name that a wildcard covers',
      csr: async () => buildCsr({ signer: await newSigner(), uris: [web], dnsNames: ['*.a.org', 'b.a.org'] }),
    },
  ];

  it('refuses a request that must not be signed, and an identity that is no workload of ours', async () => {
    const server = await TestServer.start();
    for (const { name, csr } of forbidden) {
      const refused = mint(server.adminChannel, await csr());
      await expect(refused, name).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });

  it('refuses a lifetime below zero', async () => {
    const server = await TestServer.start();
    const refused = mint(server.adminChannel, await goodCsr(), -1);
    await expect(refused).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('is for administrators, over TLS too, and not for agents', async () => {
    const { server, agent } = await serverWithAgent({ admin: true });
    const [ops, web2] = [
      await server.mint(SpiffeId.parse(web)),
      await server.mint(SpiffeId.parse(`${web}2`)),
    ];
    expect(leafOf(await mint(await server.connect(ops), await goodCsr())).uris).toEqual([web]);
    for (const channel of [agent.channel, await server.connect(web2), await server.connect()]) {
      await expect(mint(channel, await goodCsr())).rejects.toMatchObject({ code: 'permission-denied' });
    }
  });
});

describe('a long batch', () => {
  const clock = new FakeClock();
  const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/test');
  const trustDomain = agentId.trustDomain;

  /** The API on a real authority; `onSign` is called before each signature. */
  async function api(onSign: (signed: number) => void = () => undefined) {
    const authority = new Authority({ trustDomain, clock, log: silentLogger });
    const signer = await newSigner();
    let signed = 0;
    const counting: Signer = {
      ...signer,
      sign: (data) => {
        signed += 1;
        onSign(signed);
        return signer.sign(data);
      },
    };
    authority.activate({ ...(await selfSignedSlot({ trustDomain, clock, signer })), signer: counting });
    const index = new EntryIndex(trustDomain);
    index.put(testEntry({ id: 'web', spiffeId: web, parentId: agentId }));
    const access = { requireAgent: async () => ({ id: agentId, selectors: [] }) as never };
    const service = svidApi({ trustDomain, authority, index, access, clock, defaultTtlMs: hourMs });
    const handler = service.handlers.get('batchNewX509Svid');
    if (handler?.kind !== 'unary') throw new Error('no handler');
    const params = Array(500).fill({ entryId: 'web', csr: await goodCsr() });
    const run = (signal: AbortSignal) =>
      handler.handle({ params } as never, { signal, log: silentLogger } as never);
    return { run, signed: () => signed };
  }

  it('signs nothing more once nobody may have the answer', async () => {
    const controller = new AbortController();
    const banned = new AppError('permission-denied', 'agent is banned');
    const { run, signed } = await api((count) => count === 20 && controller.abort(banned));
    await expect(run(controller.signal)).rejects.toBe(banned);
    expect(signed()).toBe(20);
  });

  it('lets the event loop turn while it signs, however many run at once', async () => {
    const { run } = await api();
    let isOver = false;
    const all = Promise.all([run(noAbort), run(noAbort), run(noAbort)]).finally(() => {
      isOver = true;
    });
    let rounds = 0;
    for (; !isOver; rounds += 1) await nextRound();
    await all;
    expect(rounds).toBeGreaterThan(1500 / 10);
  });
});
