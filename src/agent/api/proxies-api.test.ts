import { describe, expect, it } from 'vitest';
import {
  ListProxiesRequest,
  ProxiesService,
  SecretState as State,
  type Proxy as WireProxy,
} from '../../gen/signet/proxy/v1/proxy.ts';
import { callServerStream } from '../../rpc/grpc-client.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { channelTo, startListener } from '../../testing/grpc-listener.ts';
import { testProxy, testSecret, troubled } from '../../testing/proxy-status.ts';
import type { ProxyStatus } from '../proxy-book.ts';
import { proxiesApi } from './proxies-api.ts';
import { defaultSdsNames } from './sds-names.ts';

/** An admin socket in front of these books. */
async function start(statuses: readonly ProxyStatus[]) {
  const service = proxiesApi({
    book: { statuses: () => statuses },
    trustDomain: TrustDomain.parse('example.org'),
    agentId: () => SpiffeId.parse('spiffe://example.org/spire/agent/a'),
    names: defaultSdsNames,
  });
  const channel = channelTo(await startListener({ services: [service] }));
  const nothing = ListProxiesRequest.decode(new Uint8Array());
  return async (request: Partial<ListProxiesRequest> = {}): Promise<WireProxy[]> => {
    const answers = callServerStream(channel, ProxiesService.listProxies, { ...nothing, ...request });
    return Array.fromAsync(answers);
  };
}

const pids = (proxies: readonly WireProxy[]) => proxies.map(({ pid }) => pid);

describe('the list of proxies', () => {
  const web = testProxy({ pid: 1 });
  const api = testProxy({
    pid: 2,
    identities: ['spiffe://example.org/first', 'spiffe://example.org/api'],
    node: { id: 'api', cluster: '', version: '' },
    secrets: [troubled.refused, troubled.held],
  });
  const silent = testProxy({ pid: 3, node: undefined, identities: [], secrets: [troubled.stalled] });
  const gone = testProxy({ pid: 4, connections: 0, secrets: [troubled.refused] });
  const all = [web, api, silent, gone];

  it.each([
    { name: 'is of those that are connected', filter: {}, expected: [1, 2, 3] },
    { name: 'has those that left when asked for', filter: { includeGone: true }, expected: [1, 2, 3, 4] },
    { name: 'by process', filter: { pid: 2 }, expected: [2] },
    { name: 'by a process that is not there', filter: { pid: 5 }, expected: [] },
    { name: 'by what they say of themselves', filter: { nodeId: 'frontend-sidecar' }, expected: [1] },
    { name: 'by any of their identities', filter: { spiffeId: 'spiffe://example.org/api' }, expected: [2] },
    { name: 'by a state of a secret', filter: { withState: [State.STALLED] }, expected: [3] },
    {
      name: 'by several states, all of them',
      filter: { withState: [State.REFUSED, State.HELD] },
      expected: [2],
    },
    { name: 'by all that is named', filter: { pid: 1, withState: [State.HELD] }, expected: [] },
  ])('$name', async ({ filter, expected }) => {
    expect(pids(await (await start(all))(filter))).toEqual(expected);
  });

  it('begins with the one that is connected for longest', async () => {
    const list = await start([
      testProxy({ pid: 3, connectedAtMs: 2 }),
      testProxy({ pid: 2, connectedAtMs: 1 }),
      testProxy({ pid: 1, connectedAtMs: 2 }),
    ]);
    expect(pids(await list())).toEqual([2, 1, 3]);
  });

  it.each([
    { name: 'a process ID that is none', filter: { pid: -1 } },
    { name: 'a state that is none', filter: { withState: [State.SECRET_STATE_UNSPECIFIED] } },
    { name: 'a state that nobody knows', filter: { withState: [99 as State] } },
  ])('is refused for $name', async ({ filter }) => {
    await expect((await start(all))(filter)).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('tells how many secrets are in which state, and their names only when asked', async () => {
    const secrets = [testSecret(), ...Object.values(troubled), { ...troubled.held, name: 'held too' }];
    const list = await start([testProxy({ secrets })]);
    const counts = { acknowledged: 1, pending: 1, held: 2, stalled: 1, refused: 1 };
    expect(await list()).toMatchObject([{ counts, secrets: [] }]);
    const [proxy] = await list({ includeSecrets: true });
    expect(proxy?.counts).toEqual(counts);
    expect(proxy?.secrets.map(({ name }) => name)).toEqual([
      ...['refused', 'stalled', 'held', 'held too', 'pending', 'default'],
    ]);
  });
});

it('a secret that no stream asks for any more counts only for a proxy that is gone', async () => {
  const secrets = [testSecret(), { ...troubled.refused, streams: 0 }];
  const gone = { pid: 4712, connections: 0, streams: 0 };
  const list = await start([testProxy({ secrets }), testProxy({ ...gone, secrets })]);
  const counted = await list({ includeGone: true, includeSecrets: true });
  expect(counted.map(({ pid, counts, secrets: shown }) => [pid, counts?.refused, shown.length])).toEqual([
    [4711, 0, 1],
    [4712, 1, 2],
  ]);
  expect(pids(await list({ includeGone: true, withState: [State.REFUSED] }))).toEqual([4712]);
});

describe('a secret', () => {
  const shown = async (secret = testSecret()) => {
    const [proxy] = await (await start([testProxy({ secrets: [secret] })]))({ includeSecrets: true });
    return proxy?.secrets[0];
  };
  const older = { version: '00000000000000a0', atMs: 1 };

  it('comes with versions, times, and size', async () => {
    expect(
      await shown(testSecret({ sent: { version: 'b', atMs: 1_500, bytes: 9 }, acknowledged: older })),
    ).toEqual({
      name: 'default',
      state: State.PENDING,
      kind: 1,
      streams: 1,
      sent: { version: 'b', atMs: 1_500n, bytes: 9 },
      acknowledged: { version: older.version, atMs: 1n },
      refused: undefined,
      held: '',
      nextStep: '',
    });
  });

  it.each([
    { name: 'that was acknowledged', secret: testSecret(), state: State.ACKNOWLEDGED },
    {
      name: 'of which an older version was acknowledged',
      secret: testSecret({ acknowledged: older }),
      state: State.PENDING,
    },
    {
      name: 'that is about to be sent',
      secret: testSecret({ sent: undefined, acknowledged: undefined }),
      state: State.PENDING,
    },
    {
      name: 'that is held though it was there once',
      secret: testSecret({ held: 'not entitled' }),
      state: State.HELD,
    },
    {
      name: 'that was refused, whatever became of the one before',
      secret: testSecret({ ...troubled.refused, isStalled: true, held: 'not entitled' }),
      state: State.REFUSED,
    },
  ])('$name says so', async ({ secret, state }) => {
    expect(await shown(secret)).toMatchObject({ state });
  });

  it('that is not well says what to do', async () => {
    const { held } = troubled;
    expect(await shown(held)).toMatchObject({
      held: 'no registration entry',
      nextStep: expect.stringContaining('signet entry create --spiffe-id'),
    });
  });
});

describe('what a proxy says', () => {
  const evil = `\u001b[2J\u009b31m\u202e${'x'.repeat(5_000)}`;

  it('is fit to print, and short, wherever it stands', async () => {
    const secret = testSecret({
      name: evil,
      held: evil,
      refused: { version: 'v', atMs: 0, error: evil },
    });
    const node = { id: evil, cluster: evil, version: evil };
    const list = await start([testProxy({ node, secrets: [secret], selectors: [] })]);
    const [proxy] = await list({ includeSecrets: true });
    const texts = [proxy?.node, proxy?.secrets].map((part) =>
      JSON.stringify(part, (_, value: unknown) => (typeof value === 'bigint' ? Number(value) : value)),
    );
    expect(texts.join()).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    expect(proxy?.secrets[0]?.name.length).toBeLessThanOrEqual(256);
    expect(proxy?.secrets[0]?.refused?.error).toMatch(/^\\u\{1b\}\[2J/);
    const sameAsPrinted = await list({ nodeId: proxy?.node?.id ?? '' });
    const asItWas = await list({ nodeId: evil });
    expect([sameAsPrinted.length, asItWas.length]).toEqual([1, 1]);
  });

  it('cannot make an answer too large to read, nor push what is wrong out of sight', async () => {
    const long = (i: number) => `${i}`.padEnd(2_000, 'x');
    const many = Array.from({ length: 5_000 }, (_, i) =>
      testSecret({ name: long(i), held: long(i), refused: undefined }),
    );
    const selectors = many.map(({ name }) => name);
    const secrets = [...many, { ...troubled.refused, name: 'zzz' }];
    const proxy = testProxy({ secrets, selectors, identities: selectors });
    const [answer] = await (await start([proxy]))({ includeSecrets: true });
    expect(answer?.secrets[0]?.name).toBe('zzz');
    expect([answer?.secrets.length, answer?.secretsOmitted]).toEqual([4_000, 1_001]);
    expect(answer?.selectors.length).toBe(65);
    expect([answer?.selectorsOmitted, answer?.identitiesOmitted]).toEqual([4_935, 4_935]);
    expect(answer?.counts).toMatchObject({ refused: 1, held: 5_000 });
    const bytes = ProxiesService.listProxies.responseSerialize(answer as WireProxy).length;
    expect(bytes).toBeLessThan(4 * 1024 * 1024);
  });
});
