import { describe, expect, it } from 'vitest';
import { parseConfig } from '../runtime/config-file.ts';
import { agentConfigSchema } from './config.ts';

/** The least that an agent needs. */
const least = {
  trustDomain: 'example.org',
  dataDir: '/var/lib/signet/agent',
  server: 'signet.internal:8081',
  trustBundle: { file: 'bundle.pem' },
  nodeAttestor: { join_token: {} },
};
const parse = (changes: Readonly<Record<string, unknown>> = {}) =>
  parseConfig({ ...least, ...changes }, agentConfigSchema, 'agent.yaml');

describe('an agent configuration', () => {
  it('needs five settings and has a default for each other', () => {
    expect(parse()).toEqual({
      ...least,
      insecureBootstrap: false,
      workloadSocket: '/run/signet/agent/api.sock',
      adminSocket: '/run/signet/agent-admin/admin.sock',
      tls: { postQuantum: 'prefer' },
      keyManager: { disk: {} },
      workloadAttestors: { unix: {} },
      requirePeerPidfd: false,
      syncInterval: 5_000,
      svid: { keyType: 'ec-p256', renewWindow: [0.4, 0.6], firstWindow: [0.1, 0.6] },
      sds: {
        names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
        aliases: {},
        fileRoots: {},
        unknownNames: 'hold',
        validator: 'spiffe',
        onWithdraw: 'keep',
        ackTimeout: 30_000,
        closeStalled: false,
      },
      limits: {
        connections: 10_000,
        connectionsPerUid: 1_000,
        streamsPerConnection: 2_048,
        streamsPerUid: 10_000,
        namesPerStream: 1_024,
        nameBytesPerUid: 33_554_432,
        messageBytes: 131_072,
      },
      log: { level: 'info' },
    });
  });

  it.each([
    { name: 'a fingerprint', changes: { trustBundle: { fingerprint: `sha256:${'0a'.repeat(32)}` } } },
    { name: 'blind belief', changes: { trustBundle: undefined, insecureBootstrap: true } },
    { name: 'an IPv6 server', changes: { server: '[::1]:8081' } },
    { name: 'a whole lifetime as window', changes: { svid: { renewWindow: [0, 1] } } },
    { name: 'the shortest interval', changes: { syncInterval: '100ms' } },
    { name: 'the longest interval', changes: { syncInterval: '30s' } },
    {
      name: 'no limits',
      changes: { limits: { connections: 0, connectionsPerUid: 0, streamsPerUid: 0 } },
    },
  ])('accepts $name', ({ changes }) => {
    expect(parse(changes)).toMatchObject({ trustDomain: 'example.org' });
  });

  const mistakes: readonly { name: string; changes: Record<string, unknown>; at: string }[] = [
    { name: 'no trust domain', changes: { trustDomain: undefined }, at: 'trustDomain: missing' },
    { name: 'a trust domain in capitals', changes: { trustDomain: 'Example.org' }, at: 'trustDomain' },
    { name: 'a trust domain with scheme', changes: { trustDomain: 'spiffe://a' }, at: 'trustDomain' },
    { name: 'no data directory', changes: { dataDir: '' }, at: 'dataDir' },
    { name: 'a server without a port', changes: { server: 'signet.internal' }, at: 'server' },
    { name: 'a server as URL', changes: { server: 'https://signet.internal:8081' }, at: 'server' },
    { name: 'an IPv6 server without brackets', changes: { server: '::1:8081' }, at: 'server' },
    { name: 'nothing to trust', changes: { trustBundle: undefined }, at: 'trustBundle' },
    { name: 'trust and blind belief', changes: { insecureBootstrap: true }, at: 'trustBundle' },
    {
      name: 'two ways to trust',
      changes: { trustBundle: { file: 'a', fingerprint: `sha256:${'0'.repeat(64)}` } },
      at: 'trustBundle',
    },
    {
      name: 'a fingerprint without its kind',
      changes: { trustBundle: { fingerprint: '0'.repeat(64) } },
      at: 'trustBundle.fingerprint',
    },
    {
      name: 'two node attestors',
      changes: { nodeAttestor: { join_token: {}, x509pop: {} } },
      at: 'nodeAttestor',
    },
    { name: 'no node attestor', changes: { nodeAttestor: {} }, at: 'nodeAttestor' },
    {
      name: 'a window that ends before it starts',
      changes: { svid: { renewWindow: [0.6, 0.4] } },
      at: 'svid.renewWindow',
    },
    {
      name: 'a window beyond the life',
      changes: { svid: { firstWindow: [0.5, 1.5] } },
      at: 'svid.firstWindow[1]',
    },
    { name: 'an interval without unit', changes: { syncInterval: '5' }, at: 'syncInterval' },
    { name: 'an interval as number', changes: { syncInterval: 5 }, at: 'syncInterval' },
    { name: 'no interval', changes: { syncInterval: '0s' }, at: 'syncInterval' },
    {
      name: 'an interval so long that a new root is missed',
      changes: { syncInterval: '1m' },
      at: 'syncInterval',
    },
    { name: 'an unknown key type', changes: { svid: { keyType: 'dsa' } }, at: 'svid.keyType' },
    { name: 'an empty SDS name', changes: { sds: { names: { ownBundle: '' } } }, at: 'sds.names.ownBundle' },
    { name: 'an alias that is a list', changes: { sds: { aliases: { a: [] } } }, at: 'sds.aliases.a' },
    { name: 'another way to withdraw', changes: { sds: { onWithdraw: 'kill' } }, at: 'sds.onWithdraw' },
    { name: 'no time to acknowledge', changes: { sds: { ackTimeout: '0s' } }, at: 'sds.ackTimeout' },
    { name: 'a day to acknowledge', changes: { sds: { ackTimeout: '24h' } }, at: 'sds.ackTimeout' },
    { name: 'an unknown key', changes: { sds: { nmes: {} } }, at: 'sds.nmes: unknown key' },
    { name: 'a negative limit', changes: { limits: { connections: -1 } }, at: 'limits.connections' },
  ];
  it.each(mistakes)('refuses $name, with its path', ({ changes, at }) => {
    expect(() => parse(changes)).toThrow(
      expect.objectContaining({
        code: 'invalid-argument',
        message: expect.stringMatching(new RegExp(`^agent\\.yaml: ${at.replaceAll(/[.[\]]/g, '\\$&')}`)),
      }),
    );
  });
});
