import { describe, expect, it } from 'vitest';
import { parseConfig, parseYaml } from '../runtime/config-file.ts';
import {
  authoritySubjectOf,
  checkServerConfig,
  findLocalRoot,
  rootTimesOf,
  type ServerConfig,
  serverConfigSchema,
  signingTimesOf,
} from './config.ts';

const minimal = 'trustDomain: example.org\ndataDir: /var/lib/signet/server\n';

function read(yaml: string): ServerConfig {
  const config = parseConfig(parseYaml(yaml, 'server.yaml'), serverConfigSchema, 'server.yaml');
  checkServerConfig(config, 'server.yaml');
  return config;
}

const hourMs = 3_600_000;

describe('the configuration of a server', () => {
  it('needs a trust domain and a data directory, and has defaults for the rest', () => {
    expect(read(minimal)).toEqual({
      trustDomain: 'example.org',
      dataDir: '/var/lib/signet/server',
      listen: '0.0.0.0:8081',
      tls: { postQuantum: 'prefer' },
      adminSocket: '/run/signet/server/admin.sock',
      authority: {
        subject: { organization: ['Signet'], country: [] },
        caKeyType: 'ec-p256',
        caTtl: 24 * hourMs,
        x509SvidTtl: hourMs,
        agentTtl: hourMs,
        nameConstraints: false,
      },
      dataStore: { sqlite: {} },
      keyManager: { disk: {} },
      nodeAttestors: { join_token: {} },
      adminIds: [],
      limits: {
        connections: 20_000,
        anonymousConnections: 2_000,
        handshakes: 1_024,
        connectionsPerIdentity: 256,
        streamsPerConnection: 256,
        messageBytes: 1_048_576,
        connectionAge: 900_000,
        attestation: { concurrent: 256, failuresPerMinute: 60 },
        signing: { perSecond: 500, totalPerSecond: 0 },
        postStatus: { perSecond: 10 },
      },
      log: { level: 'info' },
    });
  });

  it('keeps the defaults beside what a section says', () => {
    const { authority, limits } = read(
      `${minimal}authority: { caKeyType: ec-p384 }\nlimits: { connections: 0 }\n`,
    );
    expect(authority).toMatchObject({ caKeyType: 'ec-p384', caTtl: 24 * hourMs });
    expect(limits).toMatchObject({ connections: 0, streamsPerConnection: 256 });
  });

  it.each([
    { name: 'exactly six times the lifetime of SVIDs', ttls: '{ caTtl: 6h }' },
    { name: 'short lifetimes throughout', ttls: '{ caTtl: 60s, x509SvidTtl: 10s, agentTtl: 5s }' },
    { name: 'lifetimes of years', ttls: '{ caTtl: 3650d, x509SvidTtl: 30d, agentTtl: 30d }' },
    { name: 'a takeover of its own', ttls: '{ prepareBefore: 12h, activateBefore: 4h }' },
    { name: 'a late takeover', ttls: '{ prepareBefore: 2h, activateBefore: 1h }' },
  ])('accepts $name', ({ ttls }) => {
    expect(() => read(`${minimal}authority: ${ttls}\n`)).not.toThrow();
  });

  it.each([
    { name: 'without a trust domain', yaml: 'dataDir: /x\n', says: /trustDomain/ },
    { name: 'without a data directory', yaml: 'trustDomain: example.org\n', says: /dataDir/ },
    {
      name: 'with a bad trust domain',
      yaml: 'trustDomain: Example.org\ndataDir: /x\n',
      says: /trustDomain: .*Example/,
    },
    {
      name: 'with a misspelt key',
      yaml: `${minimal}lissten: x\n`,
      says: /^server\.yaml: lissten: unknown key/,
    },
    {
      name: 'with a misspelt key in a section',
      yaml: `${minimal}authority: { subject: { commonNames: x } }\n`,
      says: /authority\.subject\.commonNames: unknown key/,
    },
    {
      name: 'with an unknown key type',
      yaml: `${minimal}authority: { caKeyType: ed25519 }\n`,
      says: /caKeyType/,
    },
    {
      name: 'with a lifetime that is a number',
      yaml: `${minimal}authority: { caTtl: 86400 }\n`,
      says: /caTtl.*duration/,
    },
    {
      name: 'with SVIDs that live too long for the CA',
      yaml: `${minimal}authority: { caTtl: 6h, x509SvidTtl: 61m }\n`,
      says: /x509SvidTtl: 3660 s needs a caTtl of at least 6 × 3660 = 21960 s; caTtl is 21600 s/,
    },
    {
      name: 'with agent SVIDs that do',
      yaml: `${minimal}authority: { caTtl: 359m }\n`,
      says: /(x509SvidTtl|agentTtl)/,
    },
    {
      name: 'with agent SVIDs alone that do',
      yaml: `${minimal}authority: { agentTtl: 5h }\n`,
      says: /agentTtl/,
    },
    {
      name: 'with SVIDs that are born dead',
      yaml: `${minimal}authority: { x509SvidTtl: 0s }\n`,
      says: /x509SvidTtl/,
    },
    {
      name: 'with less than a second',
      yaml: `${minimal}authority: { agentTtl: 999ms }\n`,
      says: /agentTtl.*1 s/,
    },
    {
      name: 'with a takeover that comes too late for SVIDs',
      yaml: `${minimal}authority: { activateBefore: 30m }\n`,
      says: /x509SvidTtl: 3600 s needs an activateBefore of at least 3600 s; it is 1800 s/,
    },
    {
      name: 'with a takeover that comes too early for the CA',
      yaml: `${minimal}authority: { activateBefore: 5h }\n`,
      says: /authority\.activateBefore: 18000 s needs a caTtl of at least 6 × 18000 = 108000 s; caTtl is 86400 s/,
    },
    {
      name: 'with a preparation that comes too early',
      yaml: `${minimal}authority: { prepareBefore: 13h }\n`,
      says: /authority\.prepareBefore: 46800 s needs a caTtl of at least 2 × 46800 = 93600 s/,
    },
    {
      name: 'with a preparation after the takeover',
      yaml: `${minimal}authority: { prepareBefore: 4h }\n`,
      says: /authority\.prepareBefore: 14400 s is not before the takeover, 14400 s before the end/,
    },
    {
      name: 'with a root in memory',
      yaml: `${minimal}upstreamAuthority: { local_root: { keyManager: { memory: {} } } }\n`,
      says: /upstreamAuthority\.local_root\.keyManager: a root in memory is lost/,
    },
    {
      name: 'with a root that lives too short for the CA',
      yaml: `${minimal}upstreamAuthority: { local_root: { keyManager: { disk: {} }, rootTtl: 5d } }\n`,
      says: /authority\.caTtl: 86400 s needs a rootTtl of at least 6 × 86400 = 518400 s; rootTtl is 432000 s/,
    },
    {
      name: 'with a takeover of the root that comes too late for the CA',
      yaml: `${minimal}upstreamAuthority: { local_root: { keyManager: { disk: {} }, activateBefore: 2h } }\n`,
      says: /authority\.caTtl: 86400 s needs an activateBefore of at least 86400 s; it is 7200 s/,
    },
    {
      name: 'with a misspelt setting of the root',
      yaml: `${minimal}upstreamAuthority: { local_root: { keyManager: { disk: {} }, rotTtl: 5d } }\n`,
      says: /upstreamAuthority\.local_root\.rotTtl: unknown key/,
    },
    {
      name: 'with two upstream authorities',
      yaml: `${minimal}upstreamAuthority: { disk: {}, local_root: {} }\n`,
      says: /upstreamAuthority.*exactly one/,
    },
    {
      name: 'with two data stores',
      yaml: `${minimal}dataStore: { sqlite: {}, other: {} }\n`,
      says: /exactly one/,
    },
    { name: 'with no key manager', yaml: `${minimal}keyManager: {}\n`, says: /keyManager.*exactly one/ },
    {
      name: 'with an administrator without a name',
      yaml: `${minimal}adminIds: [ops]\n`,
      says: /adminIds\[0\]/,
    },
    {
      name: 'administrators of another trust domain',
      yaml: `${minimal}adminIds: ['spiffe://example.org/ops', 'spiffe://other.org/ops']\n`,
      says: /adminIds\[1\]: "spiffe:\/\/other.org\/ops" is not of trust domain "example.org"/,
    },
    {
      name: 'with a common name that no certificate can hold',
      yaml: `${minimal}authority: { subject: { commonName: ${'a'.repeat(65)} } }\n`,
      says: /authority\.subject\.commonName/,
    },
    {
      name: 'with a country that no certificate can hold',
      yaml: `${minimal}authority: { subject: { country: [Österreich, öö] } }\n`,
      says: /authority\.subject\.country/,
    },
    {
      name: 'that allows no call at all',
      yaml: `${minimal}limits: { streamsPerConnection: 0 }\n`,
      says: /streams/,
    },
    { name: 'with a negative limit', yaml: `${minimal}limits: { connections: -1 }\n`, says: /connections/ },
    { name: 'with the same key twice', yaml: `${minimal}dataDir: /y\n`, says: /dataDir|unique/i },
  ])('is refused $name, and the text says where', ({ yaml, says }) => {
    expect(() => read(yaml)).toThrow(says);
    expect(() => read(yaml)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});

describe('the subject of CA certificates', () => {
  it.each([
    { name: 'is named after the trust domain', yaml: minimal, commonName: 'example.org' },
    {
      name: 'is cut where a long trust domain would not fit',
      yaml: `trustDomain: ${'a'.repeat(200)}\ndataDir: /x\n`,
      commonName: 'a'.repeat(64),
    },
    {
      name: 'is named as the settings say',
      yaml: `${minimal}authority: { subject: { commonName: Our CA, organization: [], country: [DE] } }\n`,
      commonName: 'Our CA',
    },
  ])('$name', ({ yaml, commonName }) => {
    expect(authoritySubjectOf(read(yaml))).toMatchObject({ commonName });
  });
});

describe('the times of rotation', () => {
  const dayMs = 24 * hourMs;
  it.each([
    { name: 'are those of SPIRE', ttls: '{}', times: [30 * dayMs, 7 * dayMs, hourMs] },
    {
      name: 'leave room for SVIDs that live longer than these',
      ttls: '{ caTtl: 3650d, x509SvidTtl: 30d }',
      times: [60 * dayMs, 30 * dayMs, 30 * dayMs],
    },
    {
      name: 'are as they are chosen',
      ttls: '{ prepareBefore: 10h, activateBefore: 3h, agentTtl: 2h }',
      times: [10 * hourMs, 3 * hourMs, 2 * hourMs],
    },
  ])('$name', ({ ttls, times }) => {
    const { prepareBeforeMs, activateBeforeMs, longestTtlMs } = signingTimesOf(
      read(`${minimal}authority: ${ttls}\n`),
    );
    expect([prepareBeforeMs, activateBeforeMs, longestTtlMs]).toEqual(times);
  });

  it('of a root leave room for the signing certificates below it', () => {
    const config = read(
      `${minimal}authority: { caTtl: 60d }\nupstreamAuthority: { local_root: { keyManager: { disk: {} } } }\n`,
    );
    const root = findLocalRoot(config, 'server.yaml')!;
    expect(root).toMatchObject({ rootTtl: 1825 * dayMs, keyType: 'ec-p256' });
    expect(rootTimesOf(root, config)).toEqual({
      prepareBeforeMs: 120 * dayMs,
      activateBeforeMs: 60 * dayMs,
      longestTtlMs: 60 * dayMs,
    });
  });
});
