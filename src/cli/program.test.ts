import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { healthApi } from '../rpc/health-api.ts';
import { version } from '../runtime/version.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { startListener } from '../testing/grpc-listener.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { TestServer } from '../testing/test-server.ts';
import { exitCodes, program, runCommandLine } from './program.ts';

/** Runs one command line; its exit code and what it wrote. */
async function run(...words: readonly string[]) {
  const output = new CapturedOutput();
  const code = await runCommandLine(['node', 'signet', ...words]);
  const { stdout, stderr } = output;
  return { code, stdout, stderr };
}

interface Found {
  /** As it is called, such as `signet entry list`. */
  readonly name: string;
  readonly command: Command;
}

/** This command and all below it. */
function allIn(command: Command, name = 'signet'): readonly Found[] {
  const below = command.commands.flatMap((verb) => allIn(verb, `${name} ${verb.name()}`));
  return [{ name, command }, ...below];
}

const isNoun = ({ command }: Found) => command.commands.length > 0;
const nouns = allIn(program()).filter(isNoun);
const commands = allIn(program()).filter((found) => !isNoun(found));
const wordsOf = (name: string) => name.split(' ').slice(1);

describe('the command line', () => {
  it('has the commands of the interface', () => {
    expect(commands.map(({ name }) => name)).toEqual([
      'signet server run',
      'signet server check',
      'signet agent run',
      'signet agent check',
      'signet agent list',
      'signet agent show',
      'signet agent count',
      'signet agent ban',
      'signet agent evict',
      'signet agent purge',
      'signet token create',
      'signet entry create',
      'signet entry update',
      'signet entry delete',
      'signet entry show',
      'signet entry list',
      'signet entry count',
      'signet bundle show',
      'signet bundle list',
      'signet bundle set',
      'signet bundle count',
      'signet bundle delete',
      'signet authority x509 show',
      'signet authority x509 prepare',
      'signet authority x509 activate',
      'signet authority x509 taint',
      'signet authority x509 revoke',
      'signet authority prune',
      'signet x509 mint',
      'signet workload x509',
      'signet workload bundles',
      'signet proxy list',
      'signet proxy show',
      'signet health',
      'signet log-level get',
      'signet log-level set',
      'signet log-level reset',
      'signet dev',
    ]);
  });

  it.each(nouns)('prints help for `$name` alone, which is no mistake', async ({ name }) => {
    const { code, stdout, stderr } = await run(...wordsOf(name));
    expect(code).toBe(exitCodes.done);
    expect(stdout).toContain(`Usage: ${name} `);
    expect(stderr).toBe('');
  });

  it.each(commands)('shows an example in the help of `$name`', async ({ name, command }) => {
    const { code, stdout } = await run(...wordsOf(name), '--help');
    expect(code).toBe(exitCodes.done);
    const [, examples = ''] = stdout.split('\nExample:\n');
    const lines = examples.trim().split(/\n\s*/);
    for (const whole of lines) {
      // Of a pipe, the part that is this command's.
      const line = whole.split(' | ').at(-1) ?? '';
      expect(line).toMatch(new RegExp(`^${name}( |$)`));
      const options = line.match(/(?<= )--?[a-z][a-z0-9-]*/g) ?? [];
      const known = command.options.flatMap(({ short, long }) => [short, long]);
      expect(known).toEqual(expect.arrayContaining(options));
    }
  });

  it('says its version', async () => {
    expect(await run('--version')).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
  });
});

describe('wrong usage exits with 2 and one line that says what was expected:', () => {
  it.each([
    { name: 'an unknown noun', words: ['entries'], says: 'expected one of server, agent, token, entry' },
    { name: 'an unknown verb', words: ['entry', 'add'], says: 'expected one of create, update' },
    { name: 'an unknown option', words: ['entry', 'list', '--all'], says: "unknown option '--all'" },
    { name: 'a missing option', words: ['server', 'run'], says: '--config' },
    { name: 'a missing argument', words: ['entry', 'show'], says: "'id'" },
    { name: 'an argument too many', words: ['entry', 'show', 'a', 'b'], says: 'too many arguments' },
    { name: 'an unknown format', words: ['entry', 'list', '-o', 'xml'], says: 'table, json, yaml' },
    { name: 'an unknown bundle format', words: ['bundle', 'show', '--format', 'der'], says: 'pem, spiffe' },
    { name: 'an unknown role', words: ['health', '--role', 'proxy'], says: 'server, agent' },
    { name: 'a bad duration', words: ['token', 'create', '--ttl', '5'], says: 'such as 90s' },
    { name: 'a bad SPIFFE ID', words: ['token', 'create', '--spiffe-id', 'web'], says: 'spiffe://' },
    { name: 'a bad selector', words: ['entry', 'create', '--selector', 'uid'], says: 'type:value' },
    {
      name: 'a bad trust domain',
      words: ['entry', 'create', '--federates-with', 'A'],
      says: 'lower-case',
    },
    { name: 'a bad time', words: ['entry', 'create', '--expires', 'soon'], says: '2027-01-31T12:00:00Z' },
    { name: 'an entry without ID', words: ['entry', 'create'], says: '--spiffe-id' },
    {
      name: 'an entry twice',
      words: ['entry', 'create', '--spiffe-id', 'spiffe://a/b', '--data', 'f'],
      says: 'the file says all of each entry',
    },
    {
      name: 'an option of one entry for a whole file',
      words: ['entry', 'create', '--data', 'f', '--x509-ttl', '5m'],
      says: 'the file says all of each entry',
    },
    { name: 'a change of nothing', words: ['entry', 'update', '--id', 'web'], says: 'say what to change' },
  ])('$name', async ({ words, says }) => {
    const { code, stdout, stderr } = await run(...words);
    expect(code).toBe(exitCodes.usage);
    expect(stderr).toMatch(/^signet: /);
    expect(stderr).toContain(says);
    expect(stderr.replace('(add --help for help)\n', '').trim()).not.toContain('\n');
    expect(stdout).toBe('');
  });
});

describe('a failure exits with 1 and one line without a stack:', () => {
  it.each([
    { name: 'no server', words: ['entry', 'list', '--socket', '/nowhere'], says: 'signet server run' },
    { name: 'no agent', words: ['workload', 'x509', '--socket', '/nowhere'], says: 'signet agent run' },
    { name: 'neither', words: ['health', '--socket', '/nowhere'], says: '"/nowhere"' },
    { name: 'no configuration', words: ['agent', 'run', '--config', '/nowhere'], says: '--config' },
  ])('$name', async ({ words, says }) => {
    const { code, stdout, stderr } = await run(...words);
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toMatch(/^signet: [^\n]*\n$/);
    expect(stderr).toContain(says);
    expect(stdout).toBe('');
  });

  it('and with the stack when asked for', async () => {
    const { code, stderr } = await run('entry', 'list', '--socket', '/nowhere', '--debug');
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toMatch(/^signet: .*\n.*\n {4}at /);
  });
});

describe('what is not there', () => {
  it.each([
    { words: ['entry', 'show', 'nobody'], list: 'signet entry list' },
    { words: ['entry', 'update', '--id', 'nobody', '--hint', ''], list: 'signet entry list' },
    { words: ['entry', 'delete', 'nobody'], list: 'signet entry list' },
    { words: ['agent', 'show', 'spiffe://example.org/spire/agent/x/nobody'], list: 'signet agent list' },
    { words: ['agent', 'ban', 'spiffe://example.org/spire/agent/x/nobody'], list: 'signet agent list' },
    { words: ['bundle', 'show', 'nobody'], list: 'signet bundle list' },
    { words: ['bundle', 'delete', 'nobody'], list: 'signet bundle list' },
  ])('is named, with what shows what there is: $words exits with 3', async ({ words, list }) => {
    const server = await TestServer.start();
    const { code, stdout, stderr } = await run(...words, '--socket', server.adminSocket);
    expect(code).toBe(exitCodes.notFound);
    expect(stderr).toMatch(/^signet: [^\n]*nobody[^\n]*\n$/);
    expect(stderr).toContain(list);
    expect(stdout).toBe('');
  });
});

describe('health', () => {
  it('of a server that is well exits with 0', async () => {
    const server = await TestServer.start();
    const { code, stdout } = await run('health', '--socket', server.adminSocket);
    expect(code).toBe(exitCodes.done);
    expect(stdout).toMatch(/^server .* of example\.org: ok\n/);
    expect((await run('health', '--socket', server.adminSocket, '-q')).stdout).toBe('ok\n');
  });

  it.each(['degraded', 'not-ready'] as const)(
    'of one that is %s exits with 4, after the report',
    async (state) => {
      const check = { name: 'authority', state, message: 'no root', nextStep: 'see the log' };
      const services = [
        healthApi({
          role: 'server',
          trustDomain: 'example.org',
          startedAtMs: 0,
          checks: async () => [check],
        }),
      ];
      const { address } = await startListener({ services });
      const { code, stdout, stderr } = await run('health', '--socket', address, '-o', 'json');
      expect(code).toBe(exitCodes.notHealthy);
      expect(JSON.parse(stdout)).toMatchObject({
        role: 'server',
        state: state.replace('-', ' '),
        checks: [{ check: 'authority', message: 'no root', nextStep: 'see the log' }],
      });
      expect(stderr).toBe('');
    },
  );
});

describe('a configuration', () => {
  const agent = {
    trustDomain: 'example.org',
    dataDir: '/nowhere',
    server: 'localhost:8081',
    insecureBootstrap: true,
    nodeAttestor: { join_token: {} },
  };
  const check = (role: string, settings: object) => {
    const file = join(tempDir(), 'config.yaml');
    writeFileSync(file, JSON.stringify(settings));
    return run(role, 'check', '--config', file);
  };

  it.each([
    { role: 'agent', settings: agent },
    { role: 'server', settings: { trustDomain: 'example.org', dataDir: '/nowhere' } },
  ])('of an $role that is sound is said to be so', async ({ role, settings }) => {
    const { code, stdout } = await check(role, settings);
    expect(code).toBe(exitCodes.done);
    expect(stdout).toContain(`ok: ${role} of example.org`);
    expect(stdout).toContain(', post-quantum key exchange: prefer\n');
  });

  it.each([
    { name: 'a bad trust domain', change: { trustDomain: 'A' }, says: 'config.yaml: trustDomain' },
    { name: 'a bad address', change: { server: 'localhost' }, says: 'config.yaml: server' },
    { name: 'an unknown plugin', change: { nodeAttestor: { psat: {} } }, says: 'unknown plugin "psat"' },
    {
      name: 'a bad setting of a plugin',
      change: { nodeAttestor: { join_token: { tokn: 'x' } } },
      says: 'config.yaml: nodeAttestor.join_token.tokn',
    },
    {
      name: 'two equal SDS names',
      change: { sds: { names: { ownBundle: 'a', allBundles: 'a' } } },
      says: 'sds.names.ownBundle',
    },
    {
      name: 'a key exchange that is none of the three',
      change: { tls: { postQuantum: 'always' } },
      says: 'config.yaml: tls.postQuantum',
    },
  ])('of an agent with $name is found out without starting it', async ({ change, says }) => {
    const { code, stderr } = await check('agent', { ...agent, ...change });
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toContain(says);
  });

  it('of a server whose lifetimes do not fit is found out too', async () => {
    const settings = { trustDomain: 'example.org', dataDir: '/nowhere', authority: { x509SvidTtl: '23h' } };
    const { code, stderr } = await check('server', settings);
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toContain('authority.x509SvidTtl');
  });
});
