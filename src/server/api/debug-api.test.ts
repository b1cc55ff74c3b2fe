import { describe, expect, it } from 'vitest';
import { DebugService } from '../../gen/spire/api/server/debug/v1/debug.ts';
import { LocalAuthorityService } from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import { callUnary } from '../../rpc/grpc-client.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { noAbort, TestServer } from '../../testing/test-server.ts';

describe('the debug API', () => {
  it('says what the server is and has', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await server.join();
    const entries = [1, 2, 3].map((n) =>
      testEntry({ id: '', parentId: agent.id, spiffeId: `spiffe://example.org/w${n}` }),
    );
    await server.admin.entries.create(entries, { signal: noAbort });
    await server.clock.advance(65_500);
    const info = await callUnary(server.adminChannel, DebugService.getInfo, {});
    expect(info).toMatchObject({ uptime: 65, agentsCount: 2, entriesCount: 3, federatedBundlesCount: 0 });
    expect(info.svidChain.map(({ id }) => id)).toEqual([
      { trustDomain: 'example.org', path: '/spire/server' },
      { trustDomain: 'example.org', path: '' },
    ]);
    const now = BigInt(Math.floor(server.clock.now() / 1000));
    for (const { expiresAt, subject } of info.svidChain) {
      expect(expiresAt > now).toBe(true);
      expect(subject).toMatch(/O=/);
    }
  });
});

describe('the local authority API', () => {
  it('says which root signs', async () => {
    const server = await TestServer.start();
    const state = await callUnary(server.adminChannel, LocalAuthorityService.getX509AuthorityState, {});
    const [root] = (await server.admin.bundles.getOwn({ signal: noAbort })).certificates();
    expect(state).toEqual({
      active: {
        authorityId: root?.subjectKeyId,
        expiresAt: BigInt((root?.notAfterMs ?? 0) / 1000),
        upstreamAuthoritySubjectKeyId: '',
      },
      prepared: undefined,
      old: undefined,
    });
  });

  it('tells the roots that come and went from the one that signs', async () => {
    const server = await TestServer.start();
    const [active] = await server.store.authorities.list();
    if (active === undefined) throw new Error('no root signs');
    const get = () => callUnary(server.adminChannel, LocalAuthorityService.getX509AuthorityState, {});
    // Past half of its life a successor is prepared, and takes over when a sixth is left.
    await server.clock.advance(13 * 3_600_000);
    expect(await get()).toMatchObject({ active: { authorityId: active.id }, prepared: {}, old: undefined });
    await server.clock.advance(10 * 3_600_000);
    const { active: now, prepared, old } = await get();
    expect([now?.authorityId === active.id, prepared, old?.authorityId]).toEqual([
      false,
      undefined,
      active.id,
    ]);
  });
});
