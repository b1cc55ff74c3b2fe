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
});

describe('entry delete', () => {
  it('deletes several, and says which is not there', async () => {
    const { create, signet, server, output } = await start();
    await create('--id', 'web', ...web, ...parent);
    expect((await signet('entry', 'delete', 'web')).stdout).toBe('deleted web\n');
    const words = ['node', 'signet', 'entry', 'delete', 'web', '--socket', server.adminSocket];
    expect(await runCommandLine(words)).toBe(3);
    expect(output.stderr).toContain('"web"');
  });
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

describe('bundle show', () => {
  it('prints PEM, or a SPIFFE bundle document, or both with more', async () => {
    const { signet, json } = await start();
    const { stdout: pem } = await signet('bundle', 'show');
    expect(pem).toMatch(/^-----BEGIN CERTIFICATE-----\n/);
    expect(JSON.parse((await signet('bundle', 'show', '--format', 'spiffe')).stdout).keys).toHaveLength(1);
    expect(await json('bundle', 'show')).toEqual({
      trustDomain: 'example.org',
      sequence: 1,
      fingerprints: [expect.stringMatching(/^sha256:[0-9a-f]{64}$/)],
      pem,
    });
  });
});
