import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { type PostQuantum, postQuantumModes } from '../runtime/tls-settings.ts';
import { until } from '../testing/grpc-listener.ts';
import {
  call,
  h2,
  portOf,
  rawTls,
  root,
  serverId,
  serving,
  startTls,
  tlsChannelTo,
  tlsOf,
  validity,
} from '../testing/tls-listener.ts';
import { findNegotiatedGroup, KeyExchange } from './key-exchange.ts';

const hybrid = 'X25519MLKEM768';

describe('a channel and a listener', () => {
  it.each<{ client: PostQuantum; server: PostQuantum; group: string }>([
    { client: 'prefer', server: 'prefer', group: hybrid },
    { client: 'prefer', server: 'require', group: hybrid },
    { client: 'prefer', server: 'off', group: 'X25519' },
    { client: 'require', server: 'prefer', group: hybrid },
    { client: 'require', server: 'require', group: hybrid },
    { client: 'off', server: 'prefer', group: 'X25519' },
    { client: 'off', server: 'off', group: 'X25519' },
  ])('settle on $group when the client says $client and the server $server', async (both) => {
    const { listener } = await startTls({ postQuantum: both.server });
    const groups: unknown[] = [];
    const onKeyExchange = (group: unknown) => groups.push(group);
    const channel = tlsChannelTo(listener.address, { postQuantum: both.client, onKeyExchange });
    expect(await call(channel)).toEqual(serving);
    expect(groups).toEqual([both.group]);
  });

  it.each<{ client: PostQuantum; server: PostQuantum; advice: string; log: string }>([
    {
      client: 'off',
      server: 'require',
      advice: '(tls.postQuantum: off; X25519, P-256, P-384, P-521); set tls.postQuantum: prefer here',
      log: 'set tls.postQuantum: prefer in agent.yaml, or update the client',
    },
    {
      client: 'require',
      server: 'off',
      advice: 'set tls.postQuantum: prefer here or at the server, or update the server',
      log: 'set tls.postQuantum: prefer here or in agent.yaml',
    },
  ])('say both what to do when the client says $client and the server $server', async (both) => {
    const { listener, callers, lines } = await startTls({ postQuantum: both.server });
    const channel = tlsChannelTo(listener.address, { postQuantum: both.client });
    await expect(call(channel)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringMatching(/TLS handshake failed: the server accepts no key exchange of ours /),
    });
    await expect(call(channel)).rejects.toThrow(both.advice);
    expect(callers).toEqual([]);
    expect(lines[0]).toMatchObject({
      level: 'info',
      message: 'TLS client refused',
      address: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
      error: {
        message: expect.stringMatching(
          new RegExp(`^the client offers .* \\(tls\\.postQuantum: ${both.server}; `),
        ),
      },
    });
    expect(lines[0]).toMatchObject({ error: { message: expect.stringContaining(both.log) } });
  });
});

describe('a listener that requires post-quantum key exchange', () => {
  it('still does with a new certificate', async () => {
    const { listener, identity } = await startTls({ postQuantum: 'require' });
    const renewed = await root.issue(serverId, validity);
    identity.set(tlsOf(renewed));
    await expect(call(tlsChannelTo(listener.address, { postQuantum: 'off' }))).rejects.toMatchObject({
      code: 'unavailable',
    });
    expect(await call(tlsChannelTo(listener.address))).toEqual(serving);
  });

  it.each(['X25519MLKEM768', 'SecP384r1MLKEM1024', 'SecP256r1MLKEM768'])(
    'takes a client that has %s alone',
    async (group) => {
      const { listener } = await startTls({ postQuantum: 'require' });
      const socket = rawTls(listener.address, { ...h2(), ecdhCurve: group });
      await once(socket, 'secureConnect');
      expect(findNegotiatedGroup(socket)).toBe(group);
    },
  );

  it('refuses OpenSSL with classical groups, and takes it with a hybrid where it has one', async () => {
    const { listener, lines } = await startTls({ postQuantum: 'require' });
    const refused = await sClient(listener.address, 'X25519:P-256:P-384');
    expect(refused).toMatch(/alert handshake failure/);
    await until(() => lines.some(({ message }) => message === 'TLS client refused'), 'a line in the log');
    const modern = await sClient(listener.address, hybrid);
    // OpenSSL before 3.5 does not know the group.
    expect(modern).toMatch(/CONNECTION ESTABLISHED|SSL_CONF_cmd\(-groups/);
  });
});

describe('a listener that prefers post-quantum key exchange', () => {
  it.each([
    { name: 'that sends the key of another group first', ecdhCurve: `X25519:${hybrid}` },
    { name: 'that would rather have another group', ecdhCurve: `P-384/P-256/${hybrid}` },
  ])('has it with every client that can, also one $name', async ({ ecdhCurve }) => {
    const { listener } = await startTls();
    const socket = rawTls(listener.address, { ...h2(), ecdhCurve });
    await once(socket, 'secureConnect');
    expect(findNegotiatedGroup(socket)).toBe(hybrid);
  });

  it.each(['X25519', 'P-256', 'P-384', 'P-521'])('takes OpenSSL with %s alone', async (group) => {
    const { listener } = await startTls();
    expect(await sClient(listener.address, group)).toMatch(/CONNECTION ESTABLISHED/);
  });
});

describe('OpenSSL without post-quantum key exchange', () => {
  it('is enough to prefer it, which says that it comes to nothing', () => {
    const lacking = new KeyExchange('prefer', false);
    expect(lacking.ecdhCurve).toBe('X25519:P-256:P-384:P-521');
    expect(`${lacking}`).toMatch(
      /^post-quantum key exchange: prefer, but OpenSSL \S+ of this Node.js has none; /,
    );
    expect(lacking.findClientRefusal({ ...alert })).toBeUndefined();
    expect(lacking.findClientRefusal(Object.assign(new Error('x'), alert))).toMatch(
      / Node\.js 24\.5 or later /,
    );
  });

  it('cannot require it, and is told before anything is opened', () => {
    expect(() => new KeyExchange('require', false)).toThrow(
      expect.objectContaining({
        code: 'failed-precondition',
        message: expect.stringMatching(/^tls\.postQuantum: require: .*; Node\.js 24\.5 or later /),
      }),
    );
  });

  it.each(postQuantumModes)('is not what runs here: %s comes to what it says', (mode) => {
    expect(`${new KeyExchange(mode)}`).toBe(`post-quantum key exchange: ${mode}`);
  });
});

const alert = { code: 'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE' };

/** What `openssl s_client` says of a connection with these groups alone. */
function sClient(address: string, groups: string): Promise<string> {
  const at = ['-connect', `127.0.0.1:${portOf(address)}`];
  return new Promise((resolve) => {
    const args = ['s_client', ...at, '-tls1_3', '-alpn', 'h2', '-brief', '-groups', groups];
    const client = execFile('openssl', args, { timeout: 10_000 }, (_error, stdout, stderr) =>
      resolve(`${stdout}${stderr}`),
    );
    client.stdin?.end();
  });
}
