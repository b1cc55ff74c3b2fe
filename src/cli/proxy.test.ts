import { describe, expect, it } from 'vitest';
import { proxiesApi } from '../agent/api/proxies-api.ts';
import { defaultSdsNames } from '../agent/api/sds-names.ts';
import type { ProxyStatus } from '../agent/proxy-book.ts';
import type { GrpcService } from '../rpc/handlers.ts';
import { healthApi } from '../rpc/health-api.ts';
import { parseYaml } from '../runtime/config-file.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { testStartMs } from '../testing/certificates.ts';
import { startListener } from '../testing/grpc-listener.ts';
import { testProxy, testSecret, troubled } from '../testing/proxy-status.ts';
import { exitCodes, runCommandLine } from './program.ts';

/** The command line of a host whose agent has these books. */
async function start(statuses: readonly ProxyStatus[], services?: readonly GrpcService[]) {
  const api = proxiesApi({
    book: { statuses: () => statuses },
    trustDomain: TrustDomain.parse('example.org'),
    agentId: () => SpiffeId.parse('spiffe://example.org/spire/agent/a'),
    names: defaultSdsNames,
  });
  const { address } = await startListener({ services: services ?? [api] });
  const output = new CapturedOutput();
  return async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', 'proxy', ...words, '--socket', address]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
}

const { refused, stalled, held, pending } = troubled;
const connectedAt = new Date(testStartMs).toISOString();
const row = {
  ...{
    pid: 4711,
    uid: 1001,
    gid: 1002,
    node: 'frontend-sidecar',
    cluster: 'frontend',
    version: 'envoy 1.40.0',
  },
  identities: ['spiffe://example.org/web'],
  selectors: ['unix:gid:1002', 'unix:uid:1001'],
  protocols: ['sotw'],
  ...{ connected: true, connectedAt, connections: 1, streams: 2 },
  counts: { secrets: 2, acknowledged: 2, pending: 0, held: 0, stalled: 0, refused: 0 },
  omitted: { secrets: 0, selectors: 0, identities: 0 },
};

describe('proxy list', () => {
  it('has a line for each proxy', async () => {
    const identities = ['spiffe://example.org/web', 'spiffe://example.org/api', 'spiffe://example.org/db'];
    const signet = await start([
      testProxy({ identities }),
      testProxy({ pid: 12, node: undefined, secrets: [held] }),
    ]);
    const { code, stdout } = await signet('list');
    expect(code).toBe(exitCodes.done);
    const lines = stdout.split('\n').map((line) => line.split(/ {2,}/));
    expect(lines).toEqual([
      [
        ...['PID', 'NODE', 'VERSION', 'IDENTITIES', 'SECRETS'],
        ...['ACKNOWLEDGED', 'PENDING', 'HELD', 'STALLED', 'REFUSED', 'CONNECTED AT'],
      ],
      [...['12', 'spiffe://example.org/web', '1'], ...['0', '0', '1', '0', '0', connectedAt]],
      [
        ...['4711', 'frontend-sidecar', 'envoy 1.40.0', 'spiffe://example.org/web (+2)', '2'],
        ...['2', '0', '0', '0', '0', connectedAt],
      ],
      [''],
    ]);
  });

  it.each([
    { format: 'json', parse: JSON.parse },
    { format: 'yaml', parse: (text: string) => parseYaml(text, 'output') },
  ] as const)('is one list with stable keys as $format', async ({ format, parse }) => {
    const { stdout } = await (await start([testProxy()]))('list', '-o', format);
    expect(parse(stdout)).toEqual([row]);
  });

  it.each([
    { words: [], found: [1, 2] },
    { words: ['--gone'], found: [1, 2, 3] },
    { words: ['--pid', '2'], found: [2] },
    { words: ['--node', 'two'], found: [2] },
    { words: ['--spiffe-id', 'spiffe://example.org/two'], found: [2] },
    { words: ['--held'], found: [2] },
    { words: ['--held', '--pending'], found: [2] },
    { words: ['--held', '--acknowledged'], found: [] },
    { words: ['--stalled'], found: [] },
    { words: ['--refused', '--gone'], found: [3] },
  ])('finds $found with $words', async ({ words, found }) => {
    const signet = await start([
      testProxy({ pid: 1 }),
      testProxy({
        pid: 2,
        node: { id: 'two', cluster: '', version: '' },
        identities: ['spiffe://example.org/two'],
        secrets: [held, pending],
      }),
      testProxy({ pid: 3, connections: 0, secrets: [refused] }),
    ]);
    const { code, stdout } = await signet('list', '-q', '--role', 'agent', ...words);
    expect(code).toBe(exitCodes.done);
    expect(stdout).toBe(found.map((pid) => `${pid}\n`).join(''));
  });

  it.each([
    { name: 'refused', secrets: [testSecret(), refused], connections: 1, code: exitCodes.notHealthy },
    { name: 'stalled', secrets: [testSecret(), stalled], connections: 1, code: exitCodes.notHealthy },
    { name: 'held or pending', secrets: [held, pending], connections: 1, code: exitCodes.done },
    { name: 'refused by one that left', secrets: [refused], connections: 0, code: exitCodes.done },
  ])('exits with $code, after the list, when a secret is $name', async ({ secrets, connections, code }) => {
    const signet = await start([testProxy({ secrets, connections })]);
    for (const words of [
      ['list', '--gone'],
      ['show', '4711'],
    ]) {
      const result = await signet(...words, '-q');
      expect(result).toEqual({ code, stdout: '4711\n', stderr: '' });
    }
  });
});

describe('proxy show', () => {
  it('says all about a proxy, and what to do about each secret that is not well', async () => {
    const { stdout } = await (await start([testProxy({ secrets: [testSecret(), refused, held] })]))(
      'show',
      '4711',
    );
    expect(stdout).toContain('selectors     unix:gid:1002, unix:uid:1001\n');
    expect(stdout).toMatch(/^refused +certificate +refused +0{14}aa +0{14}aa +0{14}bb +\d+d +2048$/m);
    expect(stdout).toMatch(/^default +certificate +acknowledged +0{14}aa +0{14}aa +\d+d +2048$/m);
    expect(stdout).toMatch(
      /^refused: refused \d+d ago, version 0{14}bb: Failed to load private key\n {2}→ .+/m,
    );
    expect(stdout).toMatch(
      /^held: held: no registration entry\n {2}→ .*signet entry create .*unix:uid:1001$/m,
    );
  });

  it('says once what is to be done about many', async () => {
    const secrets = ['a', 'b', 'c'].map((name) => testSecret({ ...held, name }));
    const { stdout } = await (await start([testProxy({ secrets })]))('show', '4711');
    expect(stdout.match(/signet entry create/g)).toHaveLength(1);
    expect(stdout).toContain('a: held: no registration entry\nb: held: no registration entry\n');
  });

  it.each([
    { format: 'json', parse: JSON.parse },
    { format: 'yaml', parse: (text: string) => parseYaml(text, 'output') },
  ] as const)('has every secret with stable keys as $format', async ({ format, parse }) => {
    const { stdout } = await (await start([testProxy({ secrets: [testSecret(), held, refused] })]))(
      ...['show', '4711', '-o', format],
    );
    const nothing = {
      ...{ kind: 'certificate', streams: 1, sentVersion: '', sentAt: '', bytes: 0 },
      ...{
        acknowledgedVersion: '',
        acknowledgedAt: '',
        refusedVersion: '',
        refusedAt: '',
        error: '',
        held: '',
      },
    };
    const good = {
      ...{ ...nothing, sentVersion: '00000000000000aa', sentAt: connectedAt, bytes: 2_048 },
      ...{ acknowledgedVersion: '00000000000000aa', acknowledgedAt: '2026-01-01T00:00:00.001Z' },
    };
    const advice = expect.stringMatching(/./);
    expect(parse(stdout)).toEqual([
      {
        ...row,
        counts: { secrets: 3, acknowledged: 1, pending: 0, held: 1, stalled: 0, refused: 1 },
        secrets: [
          {
            ...good,
            ...{ name: 'refused', state: 'refused', error: 'Failed to load private key', nextStep: advice },
            ...{ refusedVersion: '00000000000000bb', refusedAt: connectedAt },
          },
          { ...nothing, name: 'held', state: 'held', held: 'no registration entry', nextStep: advice },
          { ...good, name: 'default', state: 'acknowledged', nextStep: '' },
        ],
      },
    ]);
  });

  it.each([
    { name: 'a process', word: '7', found: [7] },
    { name: 'a node ID', word: 'edge', found: [8, 9] },
    { name: 'a node ID that looks like a process', word: '42', found: [10] },
    { name: 'one that left', word: '11', found: [11] },
  ])('finds $name', async ({ word, found }) => {
    const node = (id: string) => ({ id, cluster: '', version: '' });
    const signet = await start([
      testProxy({ pid: 7, node: node('edge of the world') }),
      testProxy({ pid: 8, node: node('edge') }),
      testProxy({ pid: 9, node: node('edge') }),
      testProxy({ pid: 10, node: node('42') }),
      testProxy({ pid: 11, connections: 0 }),
    ]);
    expect((await signet('show', word, '-q')).stdout).toBe(found.map((pid) => `${pid}\n`).join(''));
    const { stdout } = await signet('show', word);
    expect(stdout.match(/^pid +\d+$/gm)).toHaveLength(found.length);
  });

  it.each(['4712', 'nobody', '99999999999999999999', '0', '\u001b[2J'])(
    'exits with 3 when there is no %j',
    async (word) => {
      const { code, stdout, stderr } = await (await start([testProxy()]))('show', word);
      expect([code, stdout]).toEqual([exitCodes.notFound, '']);
      expect(stderr).toMatch(/^signet: [^\n\p{Cc}]*signet proxy list`\n$/u);
    },
  );

  it('says what is left out', async () => {
    const secrets = Array.from({ length: 4_002 }, (_, i) => testSecret({ name: String(i) }));
    const { stdout } = await (await start([testProxy({ secrets })]))('show', '4711');
    expect(stdout).toMatch(/\n2 more secrets not shown\n$/);
  });
});

it.each(['table', 'json', 'yaml'])('lets no text of others steer the terminal in a %s', async (format) => {
  const evil = 'a\u001b[2J\u009b31m\u202e\u2028\u{e0041}';
  const secret = testSecret({ name: evil, held: evil, refused: { version: evil, atMs: 0, error: evil } });
  const node = { id: evil, cluster: evil, version: evil };
  const signet = await start([testProxy({ node, selectors: [evil], identities: [evil], secrets: [secret] })]);
  for (const words of [['list'], ['show', '4711']]) {
    const { stdout } = await signet(...words, '-o', format);
    expect(stdout).not.toMatch(/[\p{Cf}\p{Zl}]|(?!\n)\p{Cc}/u);
    const [proxy] = format === 'table' ? [] : (parseYaml(stdout, 'output') as { selectors: string[] }[]);
    if (proxy !== undefined && format === 'json') expect(JSON.parse(stdout)[0].selectors).toEqual([evil]);
  }
});

describe('wrong usage and failures:', () => {
  it.each([
    { name: 'a process ID that is none', words: ['list', '--pid', '0'], says: 'such as 4711' },
    { name: 'a SPIFFE ID that is none', words: ['list', '--spiffe-id', 'web'], says: 'spiffe://' },
    { name: 'the proxies of the server', words: ['list', '--role', 'server'], says: 'agent' },
    { name: 'no proxy', words: ['show'], says: 'pid|node-id' },
  ])('$name exits with 2', async ({ words, says }) => {
    expect(await (await start([]))(...words)).toMatchObject({
      code: exitCodes.usage,
      stderr: expect.stringContaining(says),
    });
  });

  it('another socket than that of an agent is named, with what to do', async () => {
    const server = healthApi({ role: 'server', trustDomain: 'a', startedAtMs: 0, checks: async () => [] });
    const { code, stderr } = await (await start([], [server]))('list');
    expect(code).toBe(exitCodes.failed);
    expect(stderr).toMatch(/no admin socket of an agent.*--socket PATH or SIGNET_AGENT_ADMIN_SOCKET\n$/);
  });

  it('no socket at all says how to start an agent', async () => {
    const output = new CapturedOutput();
    const code = await runCommandLine(['node', 'signet', 'proxy', 'list', '--socket', '/nowhere']);
    expect([code, output.stderr]).toEqual([exitCodes.failed, expect.stringContaining('signet agent run')]);
  });
});
