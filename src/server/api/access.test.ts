import { beforeAll, describe, expect, it } from 'vitest';
import type { AgentStore } from '../../plugin-api/data-store.ts';
import type { Caller } from '../../rpc/caller.ts';
import { isAppError } from '../../runtime/error.ts';
import { silentLogger } from '../../runtime/log.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { TestIdentity, testStartMs } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { serverMethods } from '../../testing/service-definitions.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { BundleKeeper } from '../bundles/bundle-keeper.ts';
import { EntryIndex } from '../registration/entry-index.ts';
import { Access } from './access.ts';
import { accessTable, type CallerKind } from './access-table.ts';

const trustDomain = TrustDomain.parse('example.org');
const id = (path: string) => SpiffeId.of(trustDomain, path);
const hourMs = 3_600_000;

let root: TestIdentity;
beforeAll(async () => {
  root = await TestIdentity.root('example.org', { notAfterMs: testStartMs + 48 * hourMs });
});

const methods = (await serverMethods()).map(({ path }) => path);

const kindsFor = (method: string): readonly CallerKind[] =>
  new Map<string, readonly CallerKind[]>(Object.entries(accessTable)).get(method) ?? [];

/** What each caller is, and why agents' methods are refused to it. */
const callers = {
  'the admin socket': { kinds: ['local'] },
  'an administrator by entry': { kinds: ['admin'], reason: 'AGENT_NOT_ATTESTED' },
  'an administrator by setting': { kinds: ['admin'], reason: 'AGENT_NOT_ATTESTED' },
  'an administrator by setting, of another trust domain': { kinds: [], reason: 'AGENT_NOT_ATTESTED' },
  'a downstream server': { kinds: ['downstream'], reason: 'AGENT_NOT_ATTESTED' },
  'a downstream server whose certificate has expired': { kinds: [], reason: 'AGENT_EXPIRED' },
  'a downstream server whose entry has expired': { kinds: [], reason: 'AGENT_NOT_ATTESTED' },
  'an administrator whose certificate has expired': { kinds: [], reason: 'AGENT_EXPIRED' },
  'an administrator whose entry has expired': { kinds: [], reason: 'AGENT_NOT_ATTESTED' },
  'an agent': { kinds: ['agent'] },
  'an agent with its renewed certificate': { kinds: ['agent'] },
  'an agent with the certificate before': { kinds: [], reason: 'AGENT_NOT_ACTIVE' },
  'an agent with a certificate that was never its own': { kinds: [], reason: 'AGENT_NOT_ACTIVE' },
  'an agent whose certificate has expired': { kinds: [], reason: 'AGENT_EXPIRED' },
  'a banned agent': { kinds: [], reason: 'AGENT_BANNED' },
  'an agent that nobody knows': { kinds: [], reason: 'AGENT_NOT_ATTESTED' },
  'a workload': { kinds: [], reason: 'AGENT_NOT_ATTESTED' },
  'an administrator by setting, who is an agent': { kinds: ['admin', 'agent'] },
  'an administrator by setting, who is a banned agent': { kinds: [], reason: 'AGENT_BANNED' },
  'an administrator by setting, who is an agent that nobody knows': {
    kinds: [],
    reason: 'AGENT_NOT_ATTESTED',
  },
  'somebody without a certificate': { kinds: [] },
  'a process on a socket for workloads': { kinds: [] },
} as const satisfies Record<string, { kinds: readonly CallerKind[]; reason?: string }>;
type CallerName = keyof typeof callers;

/** A registry with everybody in it, and each of them as a caller. */
async function everybody() {
  const clock = new FakeClock();
  const dataDir = tempDir();
  const store = await openTestStore({ dataDir, clock });
  const bundles = await BundleKeeper.load({ trustDomain, store: store.bundles, log: silentLogger });
  const index = new EntryIndex(trustDomain);
  const adminAgents = ['good', 'banned', 'unknown'].map((name) => id(`/spire/agent/admin-${name}`));
  const foreignAdmin = SpiffeId.parse('spiffe://foreign.org/ops');
  const adminIds = [id('/ops'), id('/ops-expired'), foreignAdmin, ...adminAgents];
  const access = new Access({ trustDomain, agents: store.agents, index, bundles, adminIds, clock });
  const now = clock.now() / 1000;
  const admin = { admin: true, parentId: id('/spire/agent/current') };
  index.put(testEntry({ id: '1', spiffeId: 'spiffe://example.org/admin', ...admin }));
  index.put(testEntry({ id: '2', spiffeId: 'spiffe://example.org/former-admin', ...admin, expiresAt: now }));
  index.put(testEntry({ id: '3', spiffeId: 'spiffe://example.org/web', ...admin, admin: false }));
  const downstream = { downstream: true, parentId: id('/spire/agent/current') };
  index.put(testEntry({ id: '4', spiffeId: 'spiffe://example.org/downstream', ...downstream }));
  const former = { ...downstream, spiffeId: 'spiffe://example.org/former-downstream', expiresAt: now };
  index.put(testEntry({ id: '5', ...former }));

  const svid = async (
    path: string,
    notAfterMs = clock.now() + hourMs,
  ): Promise<Caller & { kind: 'svid' }> => {
    const { certificate } = await root.issue(id(path).toString(), { notAfterMs });
    return { kind: 'svid', id: id(path), certificate, address: '127.0.0.1:1' };
  };
  const known = async (path: string, notAfterMs?: number) => {
    const caller = await svid(path, notAfterMs);
    await store.agents.recordAttestation({
      id: caller.id,
      attestationType: 'test',
      serial: caller.certificate.serialDecimal,
      expiresAt: caller.certificate.notAfterMs / 1000,
      selectors: [],
      canReattest: false,
    });
    return caller;
  };
  const renewed = async (path: string) => {
    const before = await known(path);
    const after = await svid(path);
    const { serialDecimal: serial, notAfterMs } = after.certificate;
    await store.agents.recordRenewal(before.id, { serial, expiresAt: notAfterMs / 1000 });
    return { before, after };
  };
  const promoted = await renewed('/spire/agent/promoted');
  await access.requireAgent(promoted.after);
  await known('/spire/agent/stolen');
  const banned = await known('/spire/agent/banned');
  await store.agents.ban(banned.id);
  const bannedAdmin = await known('/spire/agent/admin-banned');
  await store.agents.ban(bannedAdmin.id);

  const all: Record<CallerName, Caller> = {
    'the admin socket': { kind: 'local' },
    'an administrator by entry': await svid('/admin'),
    'an administrator by setting': await svid('/ops'),
    'an administrator by setting, of another trust domain': { ...(await svid('/web')), id: foreignAdmin },
    'a downstream server': await svid('/downstream'),
    'a downstream server whose certificate has expired': await svid('/downstream', clock.now()),
    'a downstream server whose entry has expired': await svid('/former-downstream'),
    'an administrator whose certificate has expired': await svid('/ops-expired', clock.now()),
    'an administrator whose entry has expired': await svid('/former-admin'),
    'an agent': await known('/spire/agent/current'),
    'an agent with its renewed certificate': (await renewed('/spire/agent/renewed')).after,
    'an agent with the certificate before': promoted.before,
    'an agent with a certificate that was never its own': await svid('/spire/agent/stolen'),
    'an agent whose certificate has expired': await known('/spire/agent/expired', clock.now()),
    'a banned agent': banned,
    'an agent that nobody knows': await svid('/spire/agent/unknown'),
    'a workload': await svid('/web'),
    'an administrator by setting, who is an agent': await known('/spire/agent/admin-good'),
    'an administrator by setting, who is a banned agent': bannedAdmin,
    'an administrator by setting, who is an agent that nobody knows': await svid(
      '/spire/agent/admin-unknown',
    ),
    'somebody without a certificate': { kind: 'anonymous', address: '127.0.0.1:1' },
    'a process on a socket for workloads': { kind: 'process', peer: {}, connection: {} } as unknown as Caller,
  };
  return { access, all, store, bundles, clock, svid, renewed };
}

/** Undefined when the call may go on, else the reason of the refusal. */
async function refusalOf(access: Access, caller: Caller, method: string) {
  try {
    await access.authorize(caller, method);
    return undefined;
  } catch (error) {
    if (!isAppError(error, 'permission-denied')) throw error;
    return error.reason ?? 'refused';
  }
}

describe('access', () => {
  it.each(Object.keys(callers) as CallerName[])(
    'for %s is what the table says, method by method',
    async (name) => {
      const { access, all } = await everybody();
      const kinds: readonly CallerKind[] = ['any', ...callers[name].kinds];
      for (const method of methods) {
        const allowed = kindsFor(method);
        const isAllowed = allowed.some((kind) => kinds.includes(kind));
        expect([method, (await refusalOf(access, all[name], method)) === undefined]).toEqual([
          method,
          isAllowed,
        ]);
      }
    },
  );

  it.each(Object.entries(callers))('tells %s why it is not an agent', async (name, caller) => {
    const { access, all } = await everybody();
    const reason = 'reason' in caller ? caller.reason : undefined;
    const expected = caller.kinds.some((kind) => kind === 'agent') ? undefined : (reason ?? 'refused');
    const method = '/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries';
    expect(await refusalOf(access, all[name as CallerName], method)).toBe(expected);
  });

  it.each([
    '/spire.api.server.agent.v1.Agent/Nonsense',
    '/spire.api.agent.logger.v1.Logger/SetLogLevel',
    'constructor',
    '__proto__',
    '',
  ])('to %j, which is not in the table, is refused to all', async (method) => {
    const { access, all } = await everybody();
    const refusals = await Promise.all(Object.values(all).map((caller) => refusalOf(access, caller, method)));
    expect(refusals).toEqual(Object.values(all).map(() => 'refused'));
  });
});

describe('the access table', () => {
  const openTo = (kind: CallerKind) =>
    methods
      .filter((path) => kindsFor(path).includes(kind))
      .map((path) => path.slice(path.lastIndexOf('/') + 1))
      .sort();

  it('has a row for every method of every service, and no others', () => {
    expect(Object.keys(accessTable).sort()).toEqual([...methods]);
  });

  it('opens to strangers, to agents and to downstream servers what they need and nothing else', () => {
    expect(openTo('any')).toEqual(['AttestAgent', 'GetBundle']);
    expect(openTo('agent')).toEqual([
      'BatchNewWITSVID',
      'BatchNewX509SVID',
      'GetAuthorizedEntries',
      'GetFederatedBundle',
      'NewJWTSVID',
      'PostStatus',
      'RenewAgent',
      'SyncAuthorizedEntries',
    ]);
    expect(openTo('downstream')).toEqual([
      'NewDownstreamX509CA',
      'PublishJWTAuthority',
      'PublishWITAuthority',
    ]);
  });

  it('gives administrators nothing that the admin socket does not have', () => {
    const local = openTo('local');
    expect(openTo('admin').filter((method) => !local.includes(method))).toEqual([]);
  });

  it('keeps what concerns the process itself for the admin socket', () => {
    const remote = openTo('admin');
    expect(openTo('local').filter((method) => !remote.includes(method))).toEqual([
      'Check',
      'GetHealth',
      'GetInfo',
      'GetLogger',
      'List',
      'ResetLogLevel',
      'ServerReflectionInfo',
      'ServerReflectionInfo',
      'SetLogLevel',
      'Watch',
    ]);
  });
});

describe('an agent in good standing', () => {
  const sync = '/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries';

  it('ends its old certificate by the first use of the new one, and not before', async () => {
    const { access, renewed, store } = await everybody();
    const { before, after } = await renewed('/spire/agent/rotating');
    expect(await refusalOf(access, before, sync)).toBeUndefined();
    expect(await refusalOf(access, after, sync)).toBeUndefined();
    expect(await refusalOf(access, before, sync)).toBe('AGENT_NOT_ACTIVE');
    expect(await refusalOf(access, after, sync)).toBeUndefined();
    expect(await store.agents.find(after.id)).toMatchObject({
      serial: after.certificate.serialDecimal,
      newSerial: '',
    });
  });

  it('is refused with a renewed certificate that another renewal overtakes while it is looked up', async () => {
    const { store, all, svid, renewed, bundles, clock } = await everybody();
    const { after } = await renewed('/spire/agent/rotating');
    const { serialDecimal: serial } = (await svid('/spire/agent/rotating')).certificate;
    const agents: Pick<AgentStore, 'find' | 'promoteSerial'> = {
      find: (agent) => store.agents.find(agent),
      promoteSerial: async (agent, promoted) => {
        await store.agents.recordRenewal(agent, { serial, expiresAt: 0 });
        return store.agents.promoteSerial(agent, promoted);
      },
    };
    const index = new EntryIndex(trustDomain);
    const access = new Access({ trustDomain, agents, index, bundles, adminIds: [], clock });
    expect(await refusalOf(access, all['an agent'], sync)).toBeUndefined();
    expect(await refusalOf(access, after, sync)).toBe('AGENT_NOT_ACTIVE');
  });

  it('may use its new certificate in many calls at once', async () => {
    const { access, renewed } = await everybody();
    const { after } = await renewed('/spire/agent/rotating');
    const calls = Array.from({ length: 10 }, () => refusalOf(access, after, sync));
    expect(await Promise.all(calls)).toEqual(Array(10).fill(undefined));
  });

  it('is refused from the moment its certificate expires, on a connection that stays open too', async () => {
    const { access, all, clock } = await everybody();
    await clock.advance(hourMs - 1);
    expect(await refusalOf(access, all['an agent'], sync)).toBeUndefined();
    await clock.advance(1);
    expect(await refusalOf(access, all['an agent'], sync)).toBe('AGENT_EXPIRED');
  });

  it('counts as connected; whoever is refused does not', async () => {
    const { access, all, bundles, clock } = await everybody();
    await clock.advance(120_000);
    for (const [name, { kinds }] of Object.entries(callers)) {
      const before = bundles.agentsBehind(clock.now());
      await refusalOf(access, all[name as CallerName], sync);
      const isAgent = kinds.some((kind) => kind === 'agent');
      expect([name, bundles.agentsBehind(clock.now()) - before]).toEqual([name, isAgent ? 1 : 0]);
    }
  });
});
