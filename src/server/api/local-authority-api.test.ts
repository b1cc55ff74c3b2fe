import { describe, expect, it } from 'vitest';
import { AuthoritiesService, Role, State } from '../../gen/signet/authority/v1/authority.ts';
import { LocalAuthorityService } from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import { MemoryKeyManager } from '../../plugins/key-manager/memory.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { verifyX509Svid } from '../../spiffe/x509-svid.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { newRequest, noAbort, TestServer } from '../../testing/test-server.ts';
import { findLocalRoot } from '../config.ts';

const limits = { signal: noAbort, timeoutMs: 10_000 };
const hourMs = 3_600_000;

/** SPIRE's service and ours, as an administrator calls them. */
function callsOf(channel: ClientChannel) {
  const spire = LocalAuthorityService;
  const ours = AuthoritiesService;
  return {
    state: () => callUnary(channel, spire.getX509AuthorityState, {}, limits),
    prepare: () => callUnary(channel, spire.prepareX509Authority, {}, limits),
    activate: (authorityId: string) =>
      callUnary(channel, spire.activateX509Authority, { authorityId }, limits),
    taint: (authorityId: string) => callUnary(channel, spire.taintX509Authority, { authorityId }, limits),
    taintUpstream: (subjectKeyId: string) =>
      callUnary(channel, spire.taintX509UpstreamAuthority, { subjectKeyId }, limits),
    revoke: (authorityId: string) => callUnary(channel, spire.revokeX509Authority, { authorityId }, limits),
    revokeUpstream: (subjectKeyId: string) =>
      callUnary(channel, spire.revokeX509UpstreamAuthority, { subjectKeyId }, limits),
    show: () => callUnary(channel, ours.getX509Authorities, {}, limits),
    prepareRoot: () => callUnary(channel, ours.prepareX509Authority, { newRoot: true }, limits),
    revokeUnused: (authorityId: string, force = false) =>
      callUnary(channel, ours.revokeX509Authority, { authorityId, force }, limits),
    prune: (dryRun: boolean) => callUnary(channel, ours.pruneKeys, { dryRun }, limits),
  };
}

async function startBelowRoot() {
  const settings = { upstreamAuthority: { local_root: { keyManager: { disk: {} } } } };
  return TestServer.start({
    settings,
    upstream: (config) => ({
      kind: 'local-root',
      config: findLocalRoot(config, 'test')!,
      keyManager: new MemoryKeyManager(),
    }),
  });
}

describe('the local authority of a server with roots that sign', () => {
  it('is prepared, activated, tainted and revoked as by a client of SPIRE', async () => {
    const server = await TestServer.start();
    const calls = callsOf(server.adminChannel);
    const { active } = await calls.state();
    const { preparedAuthority } = await calls.prepare();
    expect(await calls.state()).toEqual({ active, prepared: preparedAuthority, old: undefined });
    const next = preparedAuthority!.authorityId;
    expect(await calls.activate(next)).toEqual({ activatedAuthority: preparedAuthority });
    expect(await calls.state()).toEqual({ active: preparedAuthority, prepared: undefined, old: active });
    expect(await calls.taint(active!.authorityId)).toEqual({ taintedAuthority: active });
    const bundle = await server.admin.bundles.getOwn({ signal: noAbort });
    expect(bundle.x509Authorities.map(({ tainted }) => tainted)).toEqual([true, false]);
    const { revokedAuthority } = await calls.revoke(active!.authorityId);
    expect(revokedAuthority).toEqual({
      authorityId: active!.authorityId,
      expiresAt: 0n,
      upstreamAuthoritySubjectKeyId: '',
    });
    const left = await server.admin.bundles.getOwn({ signal: noAbort });
    expect(left.certificates().map(({ subjectKeyId }) => subjectKeyId)).toEqual([next]);
  });

  it('shows what is in use, and is revoked by us only when nothing is', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', parentId: agent.id });
    await server.admin.entries.create([entry], { signal: noAbort });
    const calls = callsOf(server.adminChannel);
    const sign = async () => {
      const { csr } = await newRequest();
      return agent.client.batchNewX509Svid([{ entryId: 'web', csr }], { signal: noAbort });
    };
    await sign();
    const first = (await calls.state()).active!.authorityId;
    const shown = async () =>
      (await calls.show()).authorities.find(({ authorityId }) => authorityId === first);
    // The SVID of the agent, and that of its workload.
    expect(await shown()).toMatchObject({
      role: Role.SIGNING,
      state: State.ACTIVE,
      svidsInUse: 2,
      agentsUsing: 1,
    });
    const next = (await calls.prepare()).preparedAuthority!.authorityId;
    await calls.activate(next);
    await calls.taint(first);
    await sign();
    expect(await shown()).toMatchObject({
      state: State.OLD,
      svidsInUse: 1,
      inBundle: true,
      svidsIncomplete: false,
    });
    await expect(calls.revokeUnused(first)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining('1 SVIDs of 1 agents'),
    });
    await agent.client.renewAgent({ csr: (await newRequest()).csr, signal: noAbort });
    expect(await shown()).toMatchObject({ svidsInUse: 0 });
    await calls.revokeUnused(first);
    expect(await shown()).toMatchObject({ inBundle: false });
  });

  it('tells what comes next and when', async () => {
    const server = await TestServer.start();
    const calls = callsOf(server.adminChannel);
    const { topology, next, longestKeptTtl } = await calls.show();
    const inHours = (at: bigint) => Math.round((Number(at) * 1000 - server.clock.now()) / hourMs);
    expect([topology, longestKeptTtl]).toEqual(['self-signed', 7200n]);
    expect(next.map(({ at, what }) => [inHours(at), what.split(' ', 3).join(' ')])).toEqual([
      [12, 'its successor is'],
      [20, 'the successor takes'],
      [24, 'it expires'],
    ]);
  });

  it('finds keys that nothing accounts for', async () => {
    const server = await TestServer.start();
    const calls = callsOf(server.adminChannel);
    expect(await calls.prune(true)).toEqual({ keys: [] });
    expect(await calls.prune(false)).toEqual({ keys: [] });
  });
});

describe('the local authority of a server below a root of its own', () => {
  it('names its root, and is rotated with a new one', async () => {
    const server = await startBelowRoot();
    const calls = callsOf(server.adminChannel);
    const { active } = await calls.state();
    const oldRoot = active!.upstreamAuthoritySubjectKeyId;
    const prepared = await calls.prepareRoot();
    expect(prepared.upstreamAuthoritySubjectKeyId).not.toBe(oldRoot);
    await calls.activate(prepared.authorityId);
    await expect(calls.taint(active!.authorityId)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: "local authority can't be tainted if there is an upstream authority",
    });
    expect(await calls.taintUpstream(oldRoot)).toEqual({ upstreamAuthoritySubjectKeyId: oldRoot });
    const { authorities, topology } = await calls.show();
    expect(topology).toBe('local_root');
    expect(authorities.map(({ role, state, taintedAt }) => [role, state, taintedAt > 0n])).toEqual([
      [Role.SIGNING, State.ACTIVE, false],
      [Role.SIGNING, State.OLD, true],
      [Role.ROOT, State.ACTIVE, false],
      [Role.ROOT, State.OLD, true],
    ]);
    expect(await calls.revokeUpstream(oldRoot)).toEqual({ upstreamAuthoritySubjectKeyId: oldRoot });
    const bundle = await server.admin.bundles.getOwn({ signal: noAbort });
    expect(bundle.certificates().map(({ subjectKeyId }) => subjectKeyId)).toEqual([
      prepared.upstreamAuthoritySubjectKeyId,
    ]);
  });

  it('gives agents and workloads chains that verify, and agents prove themselves with them', async () => {
    const server = await startBelowRoot();
    const agent = await server.join();
    expect(agent.chain).toHaveLength(2);
    const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', parentId: agent.id });
    await server.admin.entries.create([entry], { signal: noAbort });
    const { csr } = await newRequest();
    const [chain] = await agent.client.batchNewX509Svid([{ entryId: 'web', csr }], { signal: noAbort });
    if (chain === undefined || chain instanceof Error) throw new Error('not signed');
    expect(chain).toHaveLength(2);
    const bundle = await agent.client.getBundle({ signal: noAbort });
    const svid = verifyX509Svid({ chain, bundles: () => bundle, nowMs: server.clock.now() });
    expect(svid.id.path).toBe('/web');
    expect((await server.mint(svid.id)).chain).toHaveLength(2);
  });
});

it('an SVID that must end with its signing certificate says so in the status of its item', async () => {
  const server = await TestServer.start();
  const agent = await server.join();
  const entry = {
    ...testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', parentId: agent.id }),
    x509SvidTtlSeconds: 86_400 * 2,
  };
  await server.admin.entries.create([entry], { signal: noAbort });
  const { SVIDService } = await import('../../gen/spire/api/server/svid/v1/svid.ts');
  const { csr } = await newRequest();
  const request = { params: [{ entryId: 'web', csr: Buffer.from(csr) }] };
  const { results } = await callUnary(agent.channel, SVIDService.batchNewX509Svid, request, limits);
  expect(results[0]?.status).toEqual({
    code: 0,
    message: expect.stringMatching(/^a lifetime of 172800 s was asked, but its signing certificate ends at/),
  });
});
