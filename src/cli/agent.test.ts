import { describe, expect, it } from 'vitest';
import type { AttestedAgent } from '../plugin-api/data-store.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { runCommandLine } from './program.ts';

const call = { signal: noAbort };
const agent = (name: string) => `spiffe://example.org/spire/agent/${name}`;
const hour = 3600;
const nowSeconds = Math.floor(Date.now() / 1000);

/** A server with agents in its database, and the command line of its administrator. */
async function start(agents: readonly (Partial<AttestedAgent> & { readonly name: string })[] = []) {
  const server = await TestServer.start();
  for (const { name, ...changes } of agents) {
    await server.store.agents.recordAttestation({
      id: SpiffeId.parse(agent(name)),
      attestationType: 'x509pop',
      serial: '77',
      expiresAt: nowSeconds + hour,
      selectors: [],
      canReattest: true,
      ...changes,
    });
  }
  const output = new CapturedOutput();
  const run = async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', 'agent', ...words, '--socket', server.adminSocket]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
  const ok = async (...words: readonly string[]) => {
    const result = await run(...words);
    expect(result).toMatchObject({ code: 0 });
    return result;
  };
  const ids = async (...words: readonly string[]) =>
    (await ok(...words, '-q')).stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((id) => id.split('/').at(-1));
  return { server, run, ok, ids };
}

const some = [
  { name: 'a', selectors: ['x:1'].map(parseSelector) },
  { name: 'b', selectors: ['x:1', 'x:2'].map(parseSelector) },
  { name: 'c', attestationType: 'join_token', canReattest: false, expiresAt: nowSeconds - 2 * hour },
];

describe('agent list', () => {
  it('shows a line for each agent, with what has become of it', async () => {
    const { ok } = await start(some);
    await ok('ban', agent('b'));
    const lines = (await ok('list')).stdout.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^ID +STATE +ATTESTATION TYPE +EXPIRES AT +AGENT VERSION$/);
    const states = lines.slice(1).map((line) => line.split(/ +/).slice(1, 3));
    expect(states).toEqual([
      ['active', 'x509pop'],
      ['banned', 'x509pop'],
      ['expired', 'join_token'],
    ]);
  });

  it('as JSON is a list with stable keys, as YAML the same', async () => {
    const { ok } = await start(some.slice(0, 1));
    const shown = {
      id: agent('a'),
      state: 'active',
      attestationType: 'x509pop',
      expiresAt: new Date((nowSeconds + hour) * 1000).toISOString(),
      serial: '77',
      selectors: ['x:1'],
      banned: false,
      canReattest: true,
      agentVersion: '',
    };
    expect(JSON.parse((await ok('list', '-o', 'json')).stdout)).toEqual([shown]);
    expect((await ok('list', '-o', 'yaml')).stdout).toContain(`- id: ${agent('a')}\n`);
    expect(JSON.parse((await ok('show', agent('a'), '-o', 'json')).stdout)).toEqual(shown);
  });

  const filters: readonly { words: readonly string[]; found: readonly string[] }[] = [
    { words: [], found: ['a', 'b', 'c'] },
    { words: ['--attestor', 'join_token'], found: ['c'] },
    { words: ['--selector', 'x:1'], found: ['a', 'b'] },
    { words: ['--selector', 'x:1', '--match', 'exact'], found: ['a'] },
    { words: ['--selector', 'x:1', '--selector', 'x:2', '--match', 'subset'], found: ['a', 'b'] },
    { words: ['--selector', 'x:2', '--selector', 'x:3', '--match', 'any'], found: ['b'] },
    { words: ['--banned'], found: ['b'] },
    { words: ['--no-banned'], found: ['a', 'c'] },
    { words: ['--can-reattest'], found: ['a', 'b'] },
    { words: ['--no-can-reattest'], found: ['c'] },
    { words: ['--expires-before', new Date(nowSeconds * 1000).toISOString()], found: ['c'] },
    { words: ['--no-banned', '--can-reattest'], found: ['a'] },
  ];

  it('finds those that all filters mean, and count counts them', async () => {
    const { ids, ok, server } = await start(some);
    await server.admin.agents.ban(SpiffeId.parse(agent('b')), call);
    for (const { words, found } of filters) {
      expect([words, await ids('list', ...words)]).toEqual([words, found]);
      expect((await ok('count', ...words)).stdout).toBe(`${found.length}\n`);
      const document = JSON.parse((await ok('count', ...words, '-o', 'json')).stdout);
      expect(document).toEqual({ count: found.length });
    }
  });
});

describe('agent ban', () => {
  it('bans, and says what becomes of certificates that are out, and when they end at the latest', async () => {
    const { server, ok } = await start(some);
    const registered = { parentId: SpiffeId.parse(agent('a')), spiffeId: 'spiffe://example.org/web' };
    await server.admin.entries.create(
      [
        testEntry({ ...registered, id: 'short', x509SvidTtlSeconds: 60, selectors: ['unix:uid:1'] }),
        testEntry({ ...registered, id: 'long', x509SvidTtlSeconds: 7200, selectors: ['unix:uid:2'] }),
        testEntry({
          ...registered,
          id: 'other',
          parentId: SpiffeId.parse(agent('b')),
          x509SvidTtlSeconds: 86_400,
        }),
      ],
      call,
    );
    const { stdout, stderr } = await ok('ban', agent('a'));
    expect(stdout).toBe(`banned ${agent('a')}\n`);
    const [, end = ''] =
      /a running Envoy keeps the certificate it has .* at the latest (\S+)/.exec(stderr) ?? [];
    const seconds = (Date.parse(end) - Date.now()) / 1000;
    expect(seconds).toBeGreaterThan(7200 - 60);
    expect(seconds).toBeLessThanOrEqual(7200);
    expect(stderr).toContain('2 entries');
    expect(stderr).toContain('signet agent evict');
    expect(await server.admin.agents.get(SpiffeId.parse(agent('a')), call)).toMatchObject({ banned: true });
  });

  it('counts what the agent has by a node alias too', async () => {
    const { server, ok } = await start(some);
    const alias = testEntry({
      id: 'alias',
      spiffeId: 'spiffe://example.org/nodes',
      parentId: SpiffeId.parse('spiffe://example.org/spire/server'),
      selectors: ['x:1'],
    });
    const below = testEntry({
      id: 'below',
      parentId: SpiffeId.parse('spiffe://example.org/nodes'),
      x509SvidTtlSeconds: 600,
    });
    await server.admin.entries.create([alias, below], call);
    expect((await ok('ban', agent('a'))).stderr).toContain(' entries are registered for it');
    expect((await ok('ban', agent('c'))).stderr).toContain('no entry is registered for it');
  });

  it('does the others when one is not there, and then fails with 3', async () => {
    const { run, ids } = await start(some);
    const { code, stdout, stderr } = await run('ban', agent('a'), agent('nobody'), agent('b'), '-q');
    expect(code).toBe(3);
    expect(stdout).toBe(`${agent('a')}\n${agent('b')}\n`);
    expect(stderr).toContain(`signet: agent "${agent('nobody')}": agent not found`);
    expect(await ids('list', '--banned')).toEqual(['a', 'b']);
  });
});

describe('agent evict', () => {
  it('deletes, and says how the agent comes back', async () => {
    const { ok, ids } = await start(some);
    const { stdout, stderr } = await ok('evict', agent('a'), agent('c'), agent('a'), '-o', 'json');
    expect(JSON.parse(stdout)).toEqual([{ id: agent('a') }, { id: agent('c') }]);
    expect(stderr).toContain(`${agent('a')}: it attests again by itself`);
    expect(stderr).toContain(`${agent('c')}: it comes back with a new token`);
    expect(await ids('list')).toEqual(['b']);
  });

  it('lifts a ban', async () => {
    const { ok, ids } = await start(some);
    await ok('ban', agent('a'));
    await ok('evict', agent('a'));
    expect(await ids('list', '--banned')).toEqual([]);
  });
});

describe('agent purge', () => {
  const old = (hours: number) => ({ expiresAt: nowSeconds - hours * hour });
  const gone = [
    { name: 'banned', ...old(48) },
    { name: 'lately', ...old(2) },
    { name: 'long-ago', ...old(48) },
    { name: 'token', ...old(48), attestationType: 'join_token', canReattest: false },
    { name: 'valid' },
  ];
  async function withGone() {
    const parts = await start(gone);
    await parts.server.admin.agents.ban(SpiffeId.parse(agent('banned')), call);
    return parts;
  }

  it.each([
    { words: [], purged: ['long-ago'] },
    { words: ['--expired-for', '1h'], purged: ['lately', 'long-ago'] },
    { words: ['--expired-for', '3d'], purged: [] },
    { words: ['--all'], purged: ['long-ago', 'token'] },
  ])('$words deletes $purged; a dry run shows the same and deletes nothing', async ({ words, purged }) => {
    const { ids } = await withGone();
    const before = await ids('list');
    expect(await ids('purge', ...words, '--dry-run')).toEqual(purged);
    expect(await ids('list')).toEqual(before);
    expect(await ids('purge', ...words)).toEqual(purged);
    expect(await ids('list')).toEqual(before.filter((name) => !(purged as unknown[]).includes(name)));
    expect(await ids('purge', ...words)).toEqual([]);
  });

  it('says how many, and as JSON which', async () => {
    const { ok } = await withGone();
    const { stdout, stderr } = await ok('purge', '--dry-run', '-o', 'json');
    expect(JSON.parse(stdout)).toMatchObject([{ id: agent('long-ago'), state: 'expired' }]);
    expect(stderr).toBe('signet: 1 agents would be deleted; run it without --dry-run to do so\n');
  });
});

const mistakes: readonly { words: readonly string[]; code: number; says: string }[] = [
  { words: ['show', agent('nobody')], code: 3, says: 'agent not found' },
  { words: ['evict', agent('nobody')], code: 3, says: 'agent not found' },
  { words: ['show', 'spiffe://example.org/web'], code: 1, says: 'path is not in the agent namespace' },
  { words: ['ban', 'spiffe://other.org/spire/agent/a'], code: 1, says: 'is not a member of trust domain' },
  { words: ['show', 'no-id'], code: 2, says: 'must start with "spiffe://"' },
  { words: ['ban'], code: 2, says: 'missing required argument' },
  { words: ['list', '--match', 'some'], code: 2, says: 'exact, superset, subset, any' },
  { words: ['list', '--selector', 'x'], code: 2, says: 'expected "type:value"' },
  { words: ['list', '--expires-before', 'yesterday'], code: 2, says: 'expected a time such as' },
  { words: ['purge', '--expired-for', 'long'], code: 2, says: 'expected a duration such as' },
];

it('what is wrong is said, with the exit code that belongs to it', async () => {
  const { run } = await start();
  for (const { words, code, says } of mistakes) {
    const result = await run(...words);
    expect([words, result]).toEqual([words, { code, stdout: '', stderr: expect.stringContaining(says) }]);
    expect(result.stderr).toMatch(/^signet: /);
  }
});
