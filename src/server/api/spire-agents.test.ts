import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTls } from 'node:tls';
import { status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../../spiffe/x509-svid.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { SpireAgent } from '../../testing/spire-agent.ts';
import type { SpireSvid } from '../../testing/spire-connection.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';
import type { Certificate } from '../../x509/certificate.ts';

const signal = noAbort;
const clean: readonly string[] = [];

/** A server, a SPIRE agent that has joined it, and how entries for it are made. */
async function start(settings: Readonly<Record<string, unknown>> = {}) {
  const server = await TestServer.start({ settings });
  const agent = await join(server);
  const parentId = SpiffeId.parse(agent.id);
  const newEntries = (count: number, prefix = 'e', change: Partial<NewEntry> = {}) =>
    entriesBelow(parentId, { count, prefix, change });
  const stored = () => server.admin.entries.list({ parentId, signal });
  return { server, agent, newEntries, stored };
}

async function join(server: TestServer): Promise<SpireAgent> {
  const bundle = await server.admin.bundles.getOwn({ signal });
  const { value } = await server.admin.agents.createJoinToken({ ttlSeconds: 600, signal });
  return await SpireAgent.attest({
    address: server.address,
    bootstrapBundle: bundle.toPem(),
    type: 'join_token',
    payload: Buffer.from(value),
  });
}

function entriesBelow(
  parentId: SpiffeId,
  options: { readonly count: number; readonly prefix: string; readonly change: Partial<NewEntry> },
): NewEntry[] {
  const { count, prefix, change } = options;
  return Array.from({ length: count }, (_, i) => ({
    ...testEntry({
      id: `${prefix}-${i}`,
      spiffeId: `spiffe://example.org/${prefix}/${i}`,
      selectors: [`unix:uid:${i}`, 'k8s:ns:default'],
      dnsNames: [`${prefix}${i}.example.org`],
      hint: `hint ${i}`,
    }),
    parentId,
    ...change,
  }));
}

async function create(server: TestServer, entries: readonly NewEntry[]): Promise<void> {
  await server.admin.entries.create(entries, { signal });
}

/** Whether the agent holds what the server has for it, revision by revision. */
function expectSame(agent: SpireAgent, stored: readonly RegistrationEntry[]): void {
  const seen = (e: RegistrationEntry) => [e.id, e.spiffeId.path, BigInt(e.revision), BigInt(e.createdAt)];
  const held = [...agent.entries.values()].map((e) => [
    e.id,
    e.spiffeId?.path,
    e.revisionNumber,
    e.createdAt,
  ]);
  const byId = (a: readonly unknown[], b: readonly unknown[]) => (String(a[0]) < String(b[0]) ? -1 : 1);
  expect(held.sort(byId)).toEqual(stored.map(seen).sort(byId));
  expect(agent.complaints).toEqual(clean);
}

const pemOf = (chain: readonly Certificate[]) => chain.map((certificate) => certificate.toPem()).join('');

describe('an agent of SPIRE', () => {
  it('joins, reports, and keeps 1,200 entries and their certificates as they change', async () => {
    const { server, agent, newEntries, stored } = await start();
    expect(agent.id).toMatch(/^spiffe:\/\/example\.org\/spire\/agent\/join_token\//);
    await agent.postStatus('1.15.3');
    await create(server, newEntries(1_200));
    expect(await agent.sync()).toMatchObject({ total: 1_200, missing: 1_200, asked: [500, 500, 200] });
    expectSame(agent, await stored());
    // Only what an agent asks for; the rest stays with the server.
    expect(agent.entries.get('e-7')).toMatchObject({
      selectors: [
        { type: 'k8s', value: 'ns:default' },
        { type: 'unix', value: 'uid:7' },
      ],
      hint: 'hint 7',
      dnsNames: [],
      parentId: undefined,
    });
    expect(await agent.sync()).toMatchObject({ total: 1_200, missing: 0, stale: 0, dropped: 0, asked: [] });

    const bundle = await server.admin.bundles.getOwn({ signal });
    const svids: [string, SpireSvid][] = [];
    for (let start = 0; start < 1_200; start += 500) {
      // One batch in each turn of its loop.
      svids.push(...(await agent.newX509Svids([...agent.entries.keys()].slice(start, start + 500))));
      await server.clock.advance(5_000);
    }
    expect(svids).toHaveLength(1_200);
    for (const [id, { chain }] of svids) {
      const svid = verifyX509Svid({ chain, bundles: () => bundle, nowMs: server.clock.now() });
      expect(svid.id.path).toBe(`/${id.replace('-', '/')}`);
    }

    await server.admin.entries.delete(
      newEntries(300).map(({ id }) => id),
      { signal },
    );
    await create(server, newEntries(100, 'late'));
    for (const entry of newEntries(310).slice(300))
      await server.admin.entries.update({ ...entry, hint: 'new' }, { signal });
    expect(await agent.sync()).toMatchObject({
      total: 1_000,
      missing: 100,
      stale: 10,
      dropped: 300,
      asked: [110],
    });
    expectSame(agent, await stored());
    expect(agent.entries.get('e-300')?.hint).toBe('new');

    // Few enough to come whole, and many again.
    const most = [...agent.entries.keys()].slice(0, 600);
    await server.admin.entries.delete(most, { signal });
    expect(await agent.sync()).toMatchObject({ total: 400, dropped: 600, stale: 0, asked: [] });
    await create(server, newEntries(101, 'again'));
    expect(await agent.sync()).toMatchObject({ total: 501, missing: 101, asked: [101] });
    expectSame(agent, await stored());
  });

  it('of an older kind gets all entries in one answer', async () => {
    const { server, agent, newEntries, stored } = await start();
    await create(server, newEntries(1_200));
    await agent.fetchEntries();
    expectSame(agent, await stored());
  });

  it('sees an entry that was made again under its old id, and loses one that has expired', async () => {
    const { server, agent, newEntries } = await start();
    const expiresAt = Math.floor(server.clock.now() / 1000) + 60;
    await create(server, [...newEntries(501), ...newEntries(5, 'short', { expiresAt })]);
    await agent.sync();
    await server.admin.entries.delete(['e-1'], { signal });
    await server.clock.advance(1_000);
    await create(server, newEntries(2).slice(1));
    expect(await agent.sync()).toMatchObject({ total: 506, missing: 0, stale: 1, dropped: 0, asked: [1] });
    await server.clock.advance(60_000);
    expect(await agent.sync()).toMatchObject({ total: 501, missing: 0, stale: 0, dropped: 5, asked: [] });
    expect((await agent.newX509Svids(['short-0', 'e-0'])).size).toBe(1);
    expect(agent.complaints).toEqual(['Failed to mint X509 SVID: entry not found or not authorized']);
  });

  it('is in step after any changes, in pages or not', async () => {
    const { server, agent, newEntries, stored } = await start();
    await create(server, newEntries(495));
    await agent.sync();
    let made = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            what: fc.constantFrom('create', 'update', 'delete', 'tick'),
            count: fc.integer({ min: 1, max: 8 }),
          }),
          { maxLength: 5 },
        ),
        async (changes) => {
          for (const { what, count } of changes) {
            const some = (await stored()).slice(0, count);
            if (what === 'create') await create(server, newEntries(count, `made${made++}`));
            else if (what === 'delete')
              await server.admin.entries.delete(
                some.map(({ id }) => id),
                { signal },
              );
            else if (what === 'tick') await server.clock.advance(1_000);
            else
              for (const e of some)
                await server.admin.entries.update({ ...e, hint: `${e.hint}!` }, { signal });
          }
          await agent.sync();
          expectSame(agent, await stored());
        },
      ),
      { numRuns: 10 },
    );
  });

  it('renews its certificate, and the one before ends with the first use of the new one', async () => {
    const { server, agent, newEntries } = await start();
    await create(server, newEntries(1));
    const before = agent.svid;
    await agent.renew();
    expect(agent.svid.chain[0]?.serialHex).not.toBe(before.chain[0]?.serialHex);
    expect(await agent.sync()).toMatchObject({ total: 1 });
    agent.svid = before;
    agent.reconnect();
    await expect(agent.sync()).rejects.toMatchObject({
      code: status.PERMISSION_DENIED,
      reason: 'AGENT_NOT_ACTIVE',
    });
  });

  it('is told by reason that its certificate has expired, or that it is banned', async () => {
    const { server, agent } = await start({ authority: { agentTtl: '60s' } });
    const banned = await join(server);
    await server.ban(SpiffeId.parse(banned.id));
    const refused = (reason: string) => ({ code: status.PERMISSION_DENIED, reason });
    await expect(banned.renew()).rejects.toMatchObject(refused('AGENT_BANNED'));
    // The connection outlives the certificate.
    for (let seconds = 0; seconds < 60; seconds += 20) {
      await agent.sync();
      await server.clock.advance(20_000);
    }
    await expect(agent.sync()).rejects.toMatchObject(refused('AGENT_EXPIRED'));
  });

  it.each<{ name: string; type?: string; payload: string; code: status; text: RegExp }>([
    {
      name: 'an unknown token',
      payload: 'x'.repeat(43),
      code: status.INVALID_ARGUMENT,
      text: /^failed to attest: join token does not exist or has already been used/,
    },
    {
      name: 'an attestor that is not configured',
      type: 'sshpop',
      payload: '{}',
      code: status.FAILED_PRECONDITION,
      text: /^error getting node attestor/,
    },
  ])('is refused with $name by the words of SPIRE', async ({ type = 'join_token', payload, code, text }) => {
    const server = await TestServer.start();
    const bootstrapBundle = (await server.admin.bundles.getOwn({ signal })).toPem();
    const attested = SpireAgent.attest({
      address: server.address,
      bootstrapBundle,
      type,
      payload: Buffer.from(payload),
    });
    await expect(attested).rejects.toMatchObject({ code, message: expect.stringMatching(text) });
  });
});

describe('the TLS of grpc-go', () => {
  /** As grpc-go connects: TLS 1.2 or later, ALPN h2, the host's name. */
  async function connect(server: TestServer, agent: SpireAgent) {
    const { chain, key } = agent.svid;
    const socket = connectTls({
      host: '127.0.0.1',
      port: Number(server.address.split(':').at(-1)),
      servername: 'signet.internal',
      ALPNProtocols: ['h2'],
      minVersion: 'TLSv1.2',
      ca: (await server.admin.bundles.getOwn({ signal })).toPem(),
      cert: pemOf(chain),
      key: key.export({ type: 'pkcs8', format: 'pem' }),
      checkServerIdentity: () => undefined,
    });
    socket.on('error', () => undefined);
    onTestFinished(() => void socket.destroy());
    await once(socket, 'secureConnect');
    return socket;
  }

  it('gets TLS 1.3 with h2, and may ping as often as it reads', async () => {
    const { server, agent } = await start();
    const socket = await connect(server, agent);
    expect([socket.getProtocol(), socket.alpnProtocol, socket.authorized]).toEqual(['TLSv1.3', 'h2', true]);
    const session = connectHttp2('https://signet.internal', { createConnection: () => socket });
    onTestFinished(() => session.destroy());
    // grpc-go measures the bandwidth with a ping for nearly every read.
    for (let i = 0; i < 200; i += 1) {
      await new Promise<void>((resolve, reject) =>
        session.ping((error) => (error === null ? resolve() : reject(error))),
      );
    }
    expect(session.closed).toBe(false);
  });
});
