import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CapturedOutput } from '../testing/captured-output.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { TestServer } from '../testing/test-server.ts';
import { runCommandLine } from './program.ts';

/** A server, and the command line of its administrator: it fails the test unless it exits with 0. */
async function start() {
  const server = await TestServer.start();
  const output = new CapturedOutput();
  const signet = async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', ...words, '--socket', server.adminSocket]);
    const { stdout, stderr } = output;
    expect({ code, stdout, stderr }).toMatchObject({ code: 0 });
    return { stdout, stderr };
  };
  const json = async (...words: readonly string[]) =>
    JSON.parse((await signet(...words, '-o', 'json')).stdout);
  const create = (...words: readonly string[]) => signet('entry', 'create', ...words);
  return { server, output, signet, json, create };
}

const web = ['--spiffe-id', 'spiffe://example.org/web', '--selector', 'unix:uid:1001'] as const;
const parent = ['--parent', 'spiffe://example.org/node'] as const;

describe('entry create', () => {
  it('stores all that was asked for', async () => {
    const { create, json } = await start();
    await create(
      ...['--id', 'web', ...web, ...parent, '--selector', 'unix:path:/bin/web'],
      ...['--dns', 'web.example.org', '--dns', 'web', '--x509-ttl', '30m', '--jwt-ttl', '90s'],
      ...['--admin', '--downstream', '--hint', 'internal', '--expires', '2099-01-31T12:00:00Z'],
    );
    expect(await json('entry', 'show', 'web')).toMatchObject({
      id: 'web',
      spiffeId: 'spiffe://example.org/web',
      parentId: 'spiffe://example.org/node',
      selectors: ['unix:path:/bin/web', 'unix:uid:1001'],
      x509SvidTtl: '1800s',
      jwtSvidTtl: '90s',
      dnsNames: ['web.example.org', 'web'],
      admin: true,
      downstream: true,
      hint: 'internal',
      expiresAt: '2099-01-31T12:00:00.000Z',
    });
  });

  it('with --quiet prints the ID alone', async () => {
    const { create, json } = await start();
    const { stdout } = await create(...web, ...parent, '-q');
    expect(await json('entry', 'show', stdout.trim())).toMatchObject({
      spiffeId: 'spiffe://example.org/web',
    });
  });

  it('takes the only agent as parent', async () => {
    const { create, server, json } = await start();
    const { id } = await server.join();
    const { stdout } = await create(...web, '-q');
    expect(await json('entry', 'show', stdout.trim())).toMatchObject({ parentId: id.toString() });
  });

  it('asks for a parent when there is none, or are several', async () => {
    const { server, output } = await start();
    const words = ['node', 'signet', 'entry', 'create', ...web, '--socket', server.adminSocket];
    expect(await runCommandLine(words)).toBe(1);
    expect(output.stderr).toContain('--parent is needed: no agent has joined yet');
    await server.join();
    await server.join();
    expect(await runCommandLine(words)).toBe(1);
    expect(output.stderr).toContain('--parent is needed: 2 agents have joined');
  });

  it('with --node makes a node alias', async () => {
    const { create, json } = await start();
    const { stdout } = await create(...web, '--node', '-q');
    expect(await json('entry', 'show', stdout.trim())).toMatchObject({
      parentId: 'spiffe://example.org/spire/server',
    });
  });

  it('says when an equal entry exists, and shows that one', async () => {
    const { create } = await start();
    const { stdout } = await create(...web, ...parent, '-q');
    const again = await create(...web, ...parent, '-q');
    expect(again.stdout).toBe(stdout);
    expect(again.stderr).toContain('exists already');
  });

  it.each([
    { selectors: ['unix:path:/bin/web'], isWarned: true },
    { selectors: ['unix:sha256:00'], isWarned: true },
    { selectors: ['unix:path:/bin/web', 'unix:gid:1'], isWarned: true },
    { selectors: ['unix:path:/bin/web', 'unix:uid:1'], isWarned: false },
    { selectors: ['unix:path:/bin/web', 'docker:label:a:b'], isWarned: false },
    { selectors: ['unix:uid:1'], isWarned: false },
  ])('warns of selectors that anybody can meet: $selectors → $isWarned', async ({ selectors, isWarned }) => {
    const { create } = await start();
    const { stderr } = await create(
      ...['--spiffe-id', 'spiffe://example.org/web', ...parent],
      ...selectors.flatMap((selector) => ['--selector', selector]),
    );
    expect(stderr.includes('signet: warning: ')).toBe(isWarned);
    expect(stderr.includes('never matches inside a container')).toBe(isWarned);
  });

  it('takes back what entry list has printed', async () => {
    const { create, json, signet } = await start();
    await create('--id', 'web', ...web, ...parent, '--x509-ttl', '30m');
    await create('--id', 'api', '--spiffe-id', 'spiffe://example.org/api', ...parent, '--selector', 'a:b');
    const file = join(tempDir(), 'entries.json');
    const before = await json('entry', 'list');
    writeFileSync(file, JSON.stringify(before));
    await signet('entry', 'delete', 'web', 'api');
    expect(await json('entry', 'list')).toEqual([]);
    await create('--data', file);
    const times = { createdAt: expect.any(String) };
    expect(await json('entry', 'list')).toEqual(before.map((entry: object) => ({ ...entry, ...times })));
  });
});

describe('entry update', () => {
  it('leaves as it is what is not named', async () => {
    const { create, json } = await start();
    await create('--id', 'web', ...web, ...parent, '--hint', 'old', '--dns', 'web');
    const before = await json('entry', 'show', 'web');
    const after = await json('entry', 'update', '--id', 'web', '--hint', 'new');
    expect(after).toEqual({ ...before, hint: 'new', revision: 1 });
  });

  it('replaces lists as a whole', async () => {
    const { create, json } = await start();
    await create('--id', 'web', ...web, ...parent);
    const after = await json('entry', 'update', '--id', 'web', '--selector', 'a:b', '--selector', 'c:d');
    expect(after).toMatchObject({ selectors: ['a:b', 'c:d'] });
  });

  it('takes away what a --no-… names', async () => {
    const { create, json } = await start();
    await create('--id', 'bare', ...web, ...parent);
    const bare = await json('entry', 'show', 'bare');
    const more = ['--selector', 'a:b', '--dns', 'web', '--x509-ttl', '30m', '--jwt-ttl', '90s'];
    const rights = ['--admin', '--downstream', '--expires', '2099-01-31T12:00:00Z'];
    await create('--id', 'web', ...web, ...parent, ...more, ...rights);
    const without = ['--no-dns', '--no-x509-ttl', '--no-jwt-ttl', '--no-federates-with'];
    const after = await json(
      ...['entry', 'update', '--id', 'web', ...without, '--no-admin', '--no-downstream', '--no-expires'],
    );
    const { createdAt } = after;
    expect(after).toEqual({
      ...bare,
      id: 'web',
      selectors: ['a:b', 'unix:uid:1001'],
      revision: 1,
      createdAt,
    });
  });

  it('takes the last word of several', async () => {
    const { create, json } = await start();
    await create('--id', 'web', ...web, ...parent, '--dns', 'web');
    const update = ['entry', 'update', '--id', 'web'];
    expect(await json(...update, '--no-dns', '--dns', 'new')).toMatchObject({ dnsNames: ['new'] });
    expect(await json(...update, '--dns', 'newer', '--no-dns')).toMatchObject({ dnsNames: [] });
  });
});

describe('entry list', () => {
  it('finds by SPIFFE ID and by parent', async () => {
    const { create, signet } = await start();
    await create('--id', 'web', ...web, ...parent);
    await create('--id', 'api', '--spiffe-id', 'spiffe://example.org/api', ...parent, '--selector', 'a:b');
    const ids = async (...words: string[]) =>
      (await signet('entry', 'list', '-q', ...words)).stdout.trim().split('\n');
    expect(await ids()).toEqual(['api', 'web']);
    expect(await ids('--spiffe-id', 'spiffe://example.org/web')).toEqual(['web']);
    expect(await ids(...parent)).toEqual(['api', 'web']);
    expect(await ids('--parent', 'spiffe://example.org/other')).toEqual(['']);
  });

  it.each([
    { words: [], ids: ['api', 'db', 'web'] },
    { words: ['--selector', 'unix:uid:1001'], ids: ['db', 'web'] },
    { words: ['--selector', 'unix:uid:1001', '--match', 'exact'], ids: ['web'] },
    {
      words: ['--selector', 'unix:uid:1001', '--selector', 'a:b', '--match', 'any'],
      ids: ['api', 'db', 'web'],
    },
    { words: ['--selector', 'unix:uid:1001', '--selector', 'a:c', '--match', 'subset'], ids: ['web'] },
    { words: ['--hint', 'internal'], ids: ['db'] },
    { words: ['--hint', ''], ids: ['api', 'web'] },
    { words: ['--downstream'], ids: ['api'] },
    { words: ['--no-downstream', '--selector', 'unix:uid:1001'], ids: ['db', 'web'] },
    { words: ['--federates-with', 'other.org'], ids: [] },
    { words: ['--federates-with', 'other.org', '--match-federation', 'exact'], ids: [] },
  ])('and count take $words', async ({ words, ids }) => {
    const { create, signet, json } = await start();
    await create('--id', 'web', ...web, ...parent);
    await create('--id', 'db', ...web, ...parent, '--selector', 'unix:gid:1', '--hint', 'internal');
    const api = ['--spiffe-id', 'spiffe://example.org/api', '--selector', 'a:b', '--downstream'];
    await create('--id', 'api', ...api, ...parent);
    expect((await json('entry', 'list', ...words)).map((entry: { id: string }) => entry.id)).toEqual(ids);
    expect((await signet('entry', 'count', ...words)).stdout).toBe(`${ids.length}\n`);
    expect(await json('entry', 'count', ...words)).toEqual({ count: ids.length });
  });

  it('refuses a match that it does not know as wrong usage', async () => {
    const { server, output } = await start();
    const words = ['entry', 'list', '--selector', 'a:b', '--match', 'some', '--socket', server.adminSocket];
    expect(await runCommandLine(['node', 'signet', ...words])).toBe(2);
    expect(output.stderr).toContain('exact, superset, subset, any');
  });
});

describe('entry create --data', () => {
  const entryOf = (name: string, fields: object = {}) => ({
    id: name,
    spiffeId: `spiffe://example.org/${name}`,
    parentId: 'spiffe://example.org/node',
    selectors: ['unix:uid:1'],
    ...fields,
  });

  async function bulk(entries: readonly unknown[]) {
    const { server, output, json, signet } = await start();
    const file = join(tempDir(), 'entries.json');
    writeFileSync(file, JSON.stringify(entries));
    const words = ['node', 'signet', 'entry', 'create', '--data', file, '--socket', server.adminSocket];
    const run = async (...more: string[]) => {
      output.clear();
      const code = await runCommandLine([...words, ...more]);
      return { code, stdout: output.stdout, stderr: output.stderr.replaceAll(file, 'FILE') };
    };
    return { json, signet, run };
  }

  it('goes on behind entries that are refused, and says which they were and why', async () => {
    const { run, signet } = await bulk([
      entryOf('one'),
      entryOf('two', { parentId: 'spiffe://other.org/node' }),
      entryOf('three'),
      entryOf('one', { selectors: ['a:b'] }),
      entryOf('four', { federatesWith: ['other.org'] }),
      entryOf('five'),
    ]);
    const { code, stdout, stderr } = await run('-q');
    expect(code).toBe(1);
    expect(stdout).toBe('one\nthree\nfive\n');
    const lines = stderr.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^signet: FILE: \[1\] spiffe:\/\/example.org\/two: .* is not a member of /);
    expect(lines[1]).toMatch(/^signet: FILE: \[3\] spiffe:\/\/example.org\/one: .* "one" is taken/);
    expect(lines[2]).toMatch(/^signet: FILE: \[4\] spiffe:\/\/example.org\/four: .*"spiffe:\/\/other.org"/);
    expect(lines[3]).toBe('signet: FILE: 3 of 6 entries were not created');
    expect(lines).toHaveLength(4);
    expect((await signet('entry', 'list', '-q')).stdout).toBe('five\none\nthree\n');
  });

  it('prints a list, be it of one entry', async () => {
    const { run } = await bulk([entryOf('one')]);
    const { stdout } = await run('-o', 'json');
    expect(JSON.parse(stdout)).toMatchObject([{ id: 'one' }]);
  });

  it('can be run again: what exists is left as it is', async () => {
    const { run, signet } = await bulk([entryOf('one'), entryOf('two')]);
    await run('-q');
    expect(await run('-q')).toEqual({
      code: 0,
      stdout: 'one\ntwo\n',
      stderr: 'signet: FILE: 2 of 2 existed already; unchanged\n',
    });
    expect((await signet('entry', 'count')).stdout).toBe('2\n');
  });

  it('creates nothing of a file that has mistakes, and says where they are', async () => {
    const bad = Array.from({ length: 30 }, (_, i) => entryOf(`e${i}`, { spiffeId: 'web' }));
    const { run, signet } = await bulk([entryOf('good'), ...bad]);
    const { code, stderr } = await run();
    expect(code).toBe(1);
    expect(stderr).toContain('FILE: [1].spiffeId: ');
    expect(stderr).toContain('and 10 more');
    expect((await signet('entry', 'count')).stdout).toBe('0\n');
  });

  it('takes more entries than one call does, and says nothing of its progress when it is quick', async () => {
    const { run, signet } = await bulk(Array.from({ length: 1203 }, (_, i) => entryOf(`e${i}`)));
    const { code, stdout } = await run('-q');
    expect(code).toBe(0);
    expect(stdout.split('\n')).toHaveLength(1204);
    expect((await signet('entry', 'count')).stdout).toBe('1203\n');
  });
});

describe('entry delete', () => {
  it('deletes those that are there, and says which are not', async () => {
    const { create, signet, server, output } = await start();
    await create('--id', 'web', ...web, ...parent);
    const words = ['entry', 'delete', 'gone', 'web', 'web', 'never', '--socket', server.adminSocket];
    output.clear();
    expect(await runCommandLine(['node', 'signet', ...words])).toBe(3);
    expect(output.stdout).toBe('deleted web\n');
    expect(output.stderr).toMatch(/^signet: entry "gone": entry not found; .*\nsignet: entry "never": /m);
    expect((await signet('entry', 'count')).stdout).toBe('0\n');
  });

  it.each([
    { name: 'with a lifetime of its own', words: ['--x509-ttl', '30m'], end: /at the latest 20\d\d-.*Z$/ },
    { name: 'with the default lifetime', words: [], end: /at the latest one lifetime from now \(.*1h/ },
  ])('of an entry $name says until when a running Envoy keeps its certificate', async ({ words, end }) => {
    const { create, signet } = await start();
    await create('--id', 'web', ...web, ...parent, ...words);
    const { stdout, stderr } = await signet('entry', 'delete', 'web');
    expect(stdout).toBe('deleted web\n');
    expect(stderr.trim()).toContain('a running Envoy keeps the certificate it has until that expires');
    expect(stderr.trim()).toMatch(end);
  });
});

describe('what was issued before', () => {
  it('is spoken of when a change makes another certificate, and only then', async () => {
    const { create, signet } = await start();
    await create('--id', 'web', ...web, ...parent, '--x509-ttl', '30m');
    const hint = await signet('entry', 'update', '--id', 'web', '--hint', 'new');
    expect(hint.stderr).toBe('');
    const selectors = await signet('entry', 'update', '--id', 'web', '--selector', 'unix:uid:7');
    expect(selectors.stderr).toMatch(/what was issued before stays valid: .*at the latest 20\d\d-/);
  });

  it.each([{ words: ['-o', 'json'] }, { words: ['-q'] }])(
    'is no word for programs: $words',
    async ({ words }) => {
      const { create, signet } = await start();
      await create('--id', 'web', ...web, ...parent);
      expect((await signet('entry', 'update', '--id', 'web', '--dns', 'web', ...words)).stderr).toBe('');
      const { stdout, stderr } = await signet('entry', 'delete', 'web', ...words);
      expect(stderr).toBe('');
      expect(stdout).toContain('web');
    },
  );
});

describe('token create', () => {
  it('prints the token alone', async () => {
    const { signet } = await start();
    const { stdout } = await signet('token', 'create');
    expect(stdout).toMatch(/^[A-Za-z0-9_-]{43}\n$/);
  });

  it('as JSON also says when it expires, and the agent that it makes', async () => {
    const { json } = await start();
    expect(await json('token', 'create', '--ttl', '5m')).toEqual({
      token: expect.stringMatching(/^[A-Za-z0-9_-]{43}$/),
      expiresAt: expect.stringMatching(/^20.*Z$/),
      agentId: expect.stringMatching(/^spiffe:\/\/example\.org\/spire\/agent\/join_token\/[0-9a-f]{32}$/),
    });
  });
});
