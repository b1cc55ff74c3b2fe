import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { signetBinary } from './support/checkout.ts';
import { describeWith } from './support/parts.ts';
import { Sandbox } from './support/sandbox.ts';
import { type CommandResult, SignetAgent, SignetServer, signet, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** A line of a stack trace. */
const stackLine = /^\s+at .+[:(]/m;

/** Runs several commands, two at a time: each is a process of its own. */
async function tryAll(commands: readonly (readonly string[])[]): Promise<readonly CommandResult[]> {
  const results: CommandResult[] = [];
  for (let i = 0; i < commands.length; i += 2) {
    results.push(...(await Promise.all(commands.slice(i, i + 2).map((args) => trySignet(args)))));
  }
  return results;
}

/** Whatever fails says so in one line, with its name in front and no stack behind. */
const oneLine = /^signet: [^\n]*\n$/;

describe('the command line', () => {
  it('helps whoever does not know it', async () => {
    const [alone, asked, noun] = await tryAll([[], ['--help'], ['entry']]);
    expect(alone).toMatchObject({ code: 0, stderr: '' });
    expect(alone?.stdout).toMatch(/^ {2}server .*^ {2}agent .*^ {2}entry .*signet dev/ms);
    expect(asked).toEqual(alone);
    expect(noun).toMatchObject({ code: 0, stderr: '' });
    expect(noun?.stdout).toMatch(/^ {2}create .*^ {2}update .*^ {2}delete .*^ {2}show .*^ {2}list /ms);
  });

  it.each([
    { args: ['entry', 'nonsense'], code: 2, says: /"nonsense".*\n\(add --help for help\)/ },
    { args: ['entry', 'create', '--spiffe-id', 'no-id'], code: 2, says: /spiffe:\/\/.*\n\(add --help/ },
    { args: ['entry', 'list', '--socket', '/nonexistent/s.sock'], code: 1, says: oneLine },
    { args: ['workload', 'x509', '--socket', '/nonexistent/s.sock'], code: 1, says: oneLine },
    { args: ['server', 'run', '--config', '/nonexistent/server.yaml'], code: 1, says: oneLine },
  ])('exits with $code for $args', async ({ args, code, says }) => {
    const result = await trySignet(args);
    expect(result).toEqual({ code, stdout: '', stderr: expect.stringMatching(says) });
    expect(result.stderr).toMatch(/^signet: /);
    expect(result.stderr).not.toMatch(stackLine);
  });

  it.each<{ name: string; role: 'server' | 'agent'; change: object | string; says: RegExp }>([
    {
      name: 'a misspelt key',
      role: 'agent',
      change: { sds: { nmes: {} } },
      says: /agent\.yaml: sds\.nmes: unknown key; .*expected one of .*names/,
    },
    {
      name: 'lifetimes that do not fit',
      role: 'server',
      change: { authority: { caTtl: '1h', x509SvidTtl: '1h' } },
      says: /server\.yaml: authority\.x509SvidTtl: .*caTtl/,
    },
    {
      name: 'a setting of a plugin',
      role: 'agent',
      change: { nodeAttestor: { join_token: { tokn: 'x' } } },
      says: /nodeAttestor\.join_token.*tokn/,
    },
    {
      name: 'a key that is there twice',
      role: 'server',
      change: 'trustDomain: example.org\ntrustDomain: example.com\ndataDir: /x\n',
      says: /server\.yaml/,
    },
  ])('says what is wrong in a configuration: $name', async ({ role, change, says }) => {
    const sandbox = await testSandbox();
    const path = join(sandbox.dir, `${role}.yaml`);
    const good = {
      server: { trustDomain: 'example.org', dataDir: '/nonexistent/signet' },
      agent: {
        trustDomain: 'example.org',
        dataDir: '/nonexistent/signet',
        server: '127.0.0.1:1',
        insecureBootstrap: true,
        nodeAttestor: { join_token: { token: 'x' } },
      },
    };
    await writeFile(path, typeof change === 'string' ? change : stringify({ ...good[role], ...change }));
    const [check, run] = await tryAll(['check', 'run'].map((verb) => [role, verb, '--config', path]));
    expect(check).toMatchObject({ code: 1, stdout: '' });
    expect(check?.stderr).toMatch(says);
    expect(check?.stderr).toMatch(oneLine);
    expect(run).toEqual(check);
  });

  it('checks a good configuration without touching anything', async () => {
    const sandbox = await testSandbox();
    const dataDir = join(sandbox.dir, 'data');
    const path = join(sandbox.dir, 'server.yaml');
    await writeFile(path, stringify({ trustDomain: 'example.org', dataDir }));
    expect(await trySignet(['server', 'check', '--config', path])).toMatchObject({ code: 0, stderr: '' });
    expect(existsSync(dataDir)).toBe(false);
  });
});

describeWith({ linux: true }, 'the command line with a server and an agent', () => {
  let sandbox: Sandbox;
  let server: SignetServer;
  let agent: SignetAgent;
  const selector = `unix:path:${process.execPath}`;

  beforeAll(async () => {
    sandbox = await Sandbox.create();
    server = await SignetServer.start(sandbox);
    agent = await SignetAgent.join(sandbox, { server });
  });
  afterAll(async () => await sandbox?.dispose());

  /** A command on the server's socket, named by the environment as users do. */
  const on = (...args: string[]) => trySignet(args, { SIGNET_SERVER_SOCKET: server.adminSocket });
  const json = async (...args: string[]) => {
    const { code, stdout, stderr } = await on(...args, '-o', 'json');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return JSON.parse(stdout);
  };

  it('creates, lists, shows, changes and deletes entries', async () => {
    // The one agent is the parent.
    const id = 'spiffe://example.org/cli';
    const created = await json('entry', 'create', '--spiffe-id', id, '--selector', 'unix:uid:1');
    expect(created).toMatchObject({
      spiffeId: id,
      selectors: ['unix:uid:1'],
      parentId: expect.stringMatching('^spiffe://example.org/spire/agent/join_token/'),
    });
    const entryId: string = created.id;
    const again = await on('entry', 'create', '--spiffe-id', id, '--selector', 'unix:uid:1', '--quiet');
    expect(again).toMatchObject({ code: 0, stdout: `${entryId}\n` });
    expect(again.stderr).toMatch(/exists already/);

    const listed = await json('entry', 'list', '--spiffe-id', id);
    expect(listed).toEqual([created]);
    expect(await json('entry', 'show', entryId)).toEqual(created);
    const yaml = await on('entry', 'show', entryId, '--output', 'yaml');
    expect(parse(yaml.stdout)).toEqual(created);
    expect((await on('entry', 'list')).stdout).toMatch(new RegExp(`${entryId} +${id}`));

    const updated = await json(
      'entry',
      'update',
      '--id',
      entryId,
      '--x509-ttl',
      '90s',
      '--selector',
      'unix:uid:2',
    );
    expect(updated).toMatchObject({
      spiffeId: id,
      selectors: ['unix:uid:2'],
      x509SvidTtl: '90s',
      revision: 1,
    });
    expect(await on('entry', 'delete', entryId, '--quiet')).toEqual({
      code: 0,
      stdout: `${entryId}\n`,
      stderr: '',
    });
    for (const gone of [
      ['entry', 'show', entryId],
      ['entry', 'delete', entryId],
      ['entry', 'update', '--id', entryId, '--hint', 'x'],
    ]) {
      const { code, stdout, stderr } = await on(...gone);
      expect([gone, code, stdout]).toEqual([gone, 3, '']);
      expect(stderr).toMatch(/^signet: [^\n]*\n$/);
    }
  });

  it('takes back as a file what it lists', async () => {
    const id = 'spiffe://example.org/exported';
    const first = await json(
      'entry',
      'create',
      '--spiffe-id',
      id,
      '--selector',
      'unix:uid:3',
      '--dns',
      'a.example',
    );
    const file = join(sandbox.dir, 'entries.json');
    await writeFile(file, (await on('entry', 'list', '--spiffe-id', id, '-o', 'json')).stdout);
    await on('entry', 'delete', first.id);
    expect(await on('entry', 'create', '--data', file, '--quiet')).toMatchObject({
      code: 0,
      stdout: `${first.id}\n`,
    });
    const second = await json('entry', 'show', first.id);
    expect({ ...second, createdAt: '' }).toEqual({ ...first, createdAt: '' });
  });

  it('warns of selectors that anybody can have', async () => {
    const create = [
      'entry',
      'create',
      '--spiffe-id',
      'spiffe://example.org/open',
      '--selector',
      'unix:path:/bin/sh',
    ];
    const { code, stderr } = await on(...create);
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/^signet: warning: .*unix:uid/),
    });
    const bound = await on(...create, '--selector', 'unix:uid:4');
    expect(bound).toMatchObject({ code: 0, stderr: '' });
  });

  it('shows tokens, bundles and health as one JSON document, or the essence alone', async () => {
    const token = await json('token', 'create', '--ttl', '90s');
    expect(Object.keys(token)).toEqual(['token', 'expiresAt', 'agentId']);
    expect((await on('token', 'create')).stdout).toMatch(/^[A-Za-z0-9_-]{43}\n$/);
    expect(await json('bundle', 'show')).toMatchObject({ trustDomain: 'example.org', sequence: 1 });
    expect((await on('bundle', 'show')).stdout).toMatch(
      /^-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----\n$/,
    );
    expect(JSON.parse((await on('bundle', 'show', '--format', 'spiffe')).stdout)).toMatchObject({
      keys: [{ use: 'x509-svid' }],
    });
    for (const { role, adminSocket } of [
      { role: 'server', adminSocket: server.adminSocket },
      { role: 'agent', adminSocket: agent.adminSocket },
    ]) {
      const { code, stdout } = await trySignet(['health', '--socket', adminSocket, '-o', 'json']);
      expect(code).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({ role, trustDomain: 'example.org', state: 'ok' });
      expect(await trySignet(['health', '--socket', adminSocket, '--quiet'])).toMatchObject({
        stdout: 'ok\n',
      });
    }
    const both = { SIGNET_SERVER_SOCKET: server.adminSocket, SIGNET_AGENT_ADMIN_SOCKET: agent.adminSocket };
    expect((await trySignet(['health'], both)).stderr).toMatch(/--role/);
    expect(await trySignet(['health', '--role', 'agent', '-q'], both)).toMatchObject({
      code: 0,
      stdout: 'ok\n',
    });
  });

  it('exits with 4 when what it asks is not well, and says why', async () => {
    const other = await SignetAgent.prepare(sandbox, {
      name: 'stranger',
      server,
      config: { nodeAttestor: { join_token: { token: 'no-token-that-was-ever-made' } } },
    });
    const started = await other.launch();
    await started.waitForLine(/attestation failed/);
    const { code, stdout, stderr } = await trySignet(['health', '--socket', other.adminSocket]);
    expect({ code, stderr }).toEqual({ code: 4, stderr: '' });
    expect(stdout).toMatch(/not ready/);
    expect(stdout).toMatch(/join token/);
    expect(stdout).toMatch(/signet token create/);
    await other.stop();
  });

  it('follows a rotation with `workload x509 --watch`, and ends with Ctrl-C', async () => {
    const env = { SPIFFE_ENDPOINT_SOCKET: `unix://${agent.socket}` };
    const nobody = await trySignet(['workload', 'x509'], env);
    expect(nobody).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^signet: .*no identity issued/),
    });

    const spiffeId = 'spiffe://example.org/watcher';
    const watch = await sandbox.start({
      name: 'workload x509 --watch',
      command: signetBinary,
      args: ['workload', 'x509', '--watch', '-o', 'json'],
      env,
    });
    await server.createEntry({ spiffeId, parent: agent.alias, selectors: [selector], x509Ttl: '5s' });
    const updates = () => {
      const documents = watch.lines.filter((line) => line.startsWith('['));
      return documents.map((line) => JSON.parse(line) as { spiffeId: string; serial: string }[]);
    };
    await watch.until('three certificates', () => updates().length >= 3, { timeoutMs: 20_000 });
    for (const [first] of updates()) expect(first).toMatchObject({ spiffeId, bundles: ['example.org'] });
    expect(new Set(updates().map(([first]) => first?.serial)).size).toBe(updates().length);
    expect(await watch.stop({ signal: 'SIGINT' })).toEqual({ code: 0, signal: null });

    const { code, stdout, stderr } = await trySignet(['workload', 'x509', '-o', 'json'], env);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(stdout)).toMatchObject([{ spiffeId }]);
    expect(await trySignet(['workload', 'x509', '-q'], env)).toMatchObject({
      code: 0,
      stdout: `${spiffeId}\n`,
    });
  });

  it('refuses a second process on a data directory, and says which process is the first', async () => {
    for (const first of [server, agent]) {
      const role = first === server ? 'server' : 'agent';
      const { code, stdout, stderr } = await trySignet([role, 'run', '--config', first.configPath]);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(new RegExp(`signet: .*${first.process.pid}`));
      expect(stderr).not.toMatch(stackLine);
      await first.waitUntilHealthy();
    }
  });

  it('refuses a socket on which another process listens', async () => {
    const config = parse(await readFile(server.configPath, 'utf8'));
    const path = join(sandbox.dir, 'twin.yaml');
    const twin = { ...config, dataDir: join(sandbox.dir, 'twin'), listen: '127.0.0.1:0' };
    await writeFile(path, stringify(twin));
    const { code, stderr } = await trySignet(['server', 'run', '--config', path]);
    expect(code).toBe(1);
    expect(stderr).toContain(server.adminSocket);
    await server.waitUntilHealthy();
  });

  it('replaces the sockets that a killed process left', async () => {
    for (const role of [server, agent]) {
      await role.stop({ signal: 'SIGKILL' });
      expect(existsSync(role.adminSocket)).toBe(true);
      await role.start();
    }
    expect((await stat(agent.socket)).mode & 0o777).toBe(0o666);
    for (const { adminSocket, dataDir } of [server, agent]) {
      expect((await stat(adminSocket)).mode & 0o777).toBe(0o600);
      expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    }
    // Ended well, nothing is left.
    await agent.stop();
    expect([agent.adminSocket, agent.socket].filter((path) => existsSync(path))).toEqual([]);
  });
});

describeWith({ linux: true }, 'signet dev', () => {
  it('runs both roles, says how to go on, and leaves nothing behind at Ctrl-C', async () => {
    const sandbox = await testSandbox();
    const tmp = join(sandbox.dir, 'tmp');
    await mkdir(tmp);
    const dev = await sandbox.start({
      name: 'signet dev',
      command: signetBinary,
      args: ['dev'],
      env: { TMPDIR: tmp },
    });
    await dev.waitForLine(/Complete sidecars/, { timeoutMs: 20_000 });
    const text = dev.lines.join('\n');
    const variables = Object.fromEntries(
      [...text.matchAll(/^ *export (S[A-Z_]+)=(\S+)$/gm)].map(([, name, value]) => [name, value ?? '']),
    );
    expect(Object.keys(variables)).toEqual(
      expect.arrayContaining(['SIGNET_SERVER_SOCKET', 'SPIFFE_ENDPOINT_SOCKET']),
    );
    // The commands it prints, as they stand there.
    const commands = [...text.matchAll(/^ *signet (entry create .*|workload x509) ?.*$/gm)];
    const [create] = commands.map(([line]) => line.trim().split(' ').slice(1));
    expect(create?.slice(0, 2)).toEqual(['entry', 'create']);
    expect(await trySignet(create ?? [], variables)).toMatchObject({ code: 0 });
    await dev.until(
      'an identity',
      async () => (await trySignet(['workload', 'x509', '-q'], variables)).code === 0,
    );
    const identity = await trySignet(['workload', 'x509', '-q'], variables);
    expect(identity.stdout).toMatch(/^spiffe:\/\/example\.org\/\S+\n$/);
    // What it prints for Envoy is YAML that names the socket.
    const snippet = parse(text.slice(text.indexOf('  clusters:'), text.indexOf('Complete sidecars')));
    expect(JSON.stringify(snippet)).toContain(variables['SPIFFE_ENDPOINT_SOCKET']?.replace('unix://', ''));

    expect(await dev.stop({ signal: 'SIGINT' })).toEqual({ code: 0, signal: null });
    expect(readdirSync(tmp)).toEqual([]);
    expect(await signet(['--version'])).toMatch(/^\d+\.\d+\.\d+$/);
  });
});
