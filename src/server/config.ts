import { z } from 'zod';
import { onePlugin } from '../plugin-api/plugin.ts';
import { duration, parseConfig } from '../runtime/config-file.ts';
import { AppError, errorText } from '../runtime/error.ts';
import { logSettings } from '../runtime/log-settings.ts';
import { tlsSettings } from '../runtime/tls-settings.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { keyTypes } from '../x509/signature.ts';
import { type RotationTimes, requireOrder, requireRoom, timesOf } from './rotation-times.ts';

/** Upper bound of RFC 5280 §A.1. */
const nameMaxLength = 64;
const name = z.string().min(1).max(nameMaxLength);

/** Certificates count whole seconds. */
const shortestTtlMs = 1000;

function rotationTimes(what: string, ttl: string) {
  return {
    prepareBefore: duration
      .optional()
      .describe(
        `How long before the end of a ${what} its successor is made and published; at most half of \`${ttl}\`. Default: 30 days, or half of the lifetime if that is less.`,
      ),
    activateBefore: duration
      .optional()
      .describe(
        `How long before the end of a ${what} its successor takes over; at most a sixth of \`${ttl}\`, and no less than what it signs lives. Default: 7 days, or a sixth of the lifetime if that is less.`,
      ),
  };
}

const authoritySettings = z
  .strictObject({
    subject: z
      .strictObject({
        commonName: name.optional().describe('Default: the trust domain.'),
        organization: z.array(name).default(['Signet']).describe('Organizations in the subject.'),
        country: z
          .array(z.string().regex(/^[A-Za-z]{2}$/, 'expected two letters'))
          .default([])
          .describe('Two-letter country codes in the subject.'),
      })
      .prefault({})
      .describe('Subject of the CA certificates. A serial number attribute makes each one unique.'),
    caKeyType: z.enum(keyTypes).default('ec-p256').describe('Key type of the CA.'),
    caTtl: duration
      .prefault('24h')
      .describe('Lifetime of a CA certificate. It is replaced long before its end.'),
    x509SvidTtl: duration
      .prefault('1h')
      .describe('Lifetime of X.509-SVIDs whose entry names none. At most a sixth of `caTtl`.'),
    agentTtl: duration
      .prefault('1h')
      .describe("Lifetime of an agent's own SVID. At most a sixth of `caTtl`."),
    ...rotationTimes('CA certificate', 'caTtl'),
    nameConstraints: z
      .boolean()
      .default(false)
      .describe(
        'Limit the URIs below our CA certificates to the trust domain. TLS libraries exist that refuse every certificate below such a CA: rustls (rustls-webpki from 0.103.12 on), Mbed TLS, Chrome.',
      ),
  })
  .prefault({});

/** What `upstreamAuthority: { local_root: … }` takes. */
export const localRootSettings = z.strictObject({
  keyManager: onePlugin.describe('Where the key of the root is kept, such as an HSM. Not in memory.'),
  rootTtl: duration
    .prefault('1825d')
    .describe('Lifetime of the root. At least six times `caTtl`. It is replaced long before its end.'),
  keyType: z.enum(keyTypes).default('ec-p256').describe('Key type of the root.'),
  ...rotationTimes('root', 'rootTtl'),
});

/** The settings of a root of our own. */
export type LocalRootConfig = z.output<typeof localRootSettings>;

const perSecond = (usual: number) => z.int().min(0).default(usual);

const limits = z
  .strictObject({
    connections: z.int().min(0).default(20_000).describe('Open TLS connections in all. 0 = no limit.'),
    anonymousConnections: z
      .int()
      .min(0)
      .default(2_000)
      .describe(
        'Open TLS connections without a client certificate, as of agents that attest. When one more comes, the oldest of them is closed. 0 = no limit.',
      ),
    handshakes: z
      .int()
      .min(0)
      .default(1_024)
      .describe(
        'TLS handshakes at the same time. When one more comes, the oldest is dropped; while it is so, addresses with too many failures get none. 0 = no limit.',
      ),
    connectionAge: duration
      .prefault('15m')
      .describe(
        'After this a client is asked to connect anew, once its calls are done or a minute has passed. 0s = never.',
      ),
    connectionsPerIdentity: z
      .int()
      .min(0)
      .default(256)
      .describe(
        'Open TLS connections with certificates of the same SPIFFE ID. When one more comes, the oldest of them is closed. 0 = no limit.',
      ),
    streamsPerConnection: z.int().min(1).default(256).describe('Calls at the same time on one connection.'),
    messageBytes: z
      .int()
      .min(1024)
      .default(1_048_576)
      .describe(
        'Largest message that is read over `listen`, in bytes; at most 65536 from clients without a certificate. The admin socket takes 4194304.',
      ),
    signing: z
      .strictObject({
        perSecond: perSecond(500).describe(
          'X.509-SVIDs that one agent may have signed in a second, its own included; as many at once after a pause. 0 = no limit.',
        ),
        totalPerSecond: perSecond(0).describe(
          'The same for all agents together, such as what an HSM can sign: it spreads what is replaced when an authority is tainted. 0 = no limit.',
        ),
      })
      .prefault({}),
    postStatus: z
      .strictObject({
        perSecond: perSecond(10).describe('Reports of its state that one agent may send. 0 = no limit.'),
      })
      .prefault({}),
    attestation: z
      .strictObject({
        concurrent: z
          .int()
          .min(0)
          .default(256)
          .describe(
            'Attestations that the server works on at the same time, of all agents together; one that waits for its agent to answer does not count. 0 = no limit.',
          ),
        failuresPerMinute: z
          .int()
          .min(0)
          .default(60)
          .describe(
            'Failed attestations, refused certificates and broken handshakes from one address (IPv6: one /64) before it has to wait; what succeeds is not counted. 0 = no limit.',
          ),
      })
      .prefault({}),
  })
  .prefault({});

/** The settings of `signet server run` (`server.yaml`). */
export const serverConfigSchema = z.strictObject({
  trustDomain: z
    .string()
    .describe('Name of the trust domain, such as `example.org`. Cannot be changed later.'),
  dataDir: z.string().min(1).describe('Directory for the database and the keys; made with mode 0700.'),
  listen: z
    .string()
    .default('0.0.0.0:8081')
    .describe('HOST:PORT for agents and remote administrators: gRPC over TLS 1.3.'),
  tls: tlsSettings.describe('TLS of `listen`; always 1.3.'),
  adminSocket: z
    .string()
    .default('/run/signet/server/admin.sock')
    .describe('Unix socket for administrators: whoever can open it (mode 0600) is one.'),
  authority: authoritySettings.describe('The certificate authority.'),
  dataStore: onePlugin.prefault({ sqlite: {} }).describe('Where registrations are kept.'),
  keyManager: onePlugin.prefault({ disk: {} }).describe('Where the CA keys are kept.'),
  upstreamAuthority: onePlugin
    .optional()
    .describe(
      'Who signs our CA certificates. Default: they are self-signed roots. `local_root`: a long-lived root of our own, in a key manager of its own. `disk`: a CA certificate and key in files.',
    ),
  nodeAttestors: z
    .record(z.string(), z.unknown())
    .prefault({ join_token: {} })
    .describe('How agents prove which node they run on.'),
  adminIds: z
    .array(z.string())
    .default([])
    .describe(
      'SPIFFE IDs of this trust domain that may administer over `listen`, as entries with `admin` may. Those of other trust domains are not possible yet.',
    ),
  limits: limits.describe('Bounds that protect the server.'),
  log: logSettings.describe('Logging, to stderr.'),
});

/** A checked server configuration. Durations are milliseconds. */
export type ServerConfig = z.output<typeof serverConfigSchema>;

/** The rules that span several settings; throws `invalid-argument` with the arithmetic. */
export function checkServerConfig(config: ServerConfig, where: string): void {
  parseAt(`${where}: trustDomain`, () => TrustDomain.parse(config.trustDomain));
  for (const [index, id] of config.adminIds.entries()) {
    parseAt(`${where}: adminIds[${index}]`, () => requireOwn(SpiffeId.parse(id), config.trustDomain));
  }
  checkAuthority(config, where);
  const root = findLocalRoot(config, where);
  if (root !== undefined) checkLocalRoot(config, root, `${where}: upstreamAuthority.local_root`);
}

/** The settings of a root of our own, if there is to be one; throws `invalid-argument`. */
export function findLocalRoot(config: ServerConfig, where: string): LocalRootConfig | undefined {
  const settings = config.upstreamAuthority?.['local_root'];
  if (settings === undefined) return undefined;
  return parseConfig(settings, localRootSettings, `${where}: upstreamAuthority.local_root`);
}

/** When signing certificates are replaced, and what they must outlive. */
export function signingTimesOf({ authority }: ServerConfig): RotationTimes {
  return timesOf(authority, Math.max(authority.x509SvidTtl, authority.agentTtl));
}

/** When a root of our own is replaced. */
export function rootTimesOf(root: LocalRootConfig, { authority }: ServerConfig): RotationTimes {
  return timesOf(root, authority.caTtl);
}

function checkAuthority({ authority }: ServerConfig, where: string): void {
  const { caTtl, x509SvidTtl, agentTtl } = authority;
  for (const [name, ttlMs] of Object.entries({ x509SvidTtl, agentTtl })) {
    if (ttlMs < shortestTtlMs) {
      throw new AppError(
        'invalid-argument',
        `${where}: authority.${name}: ${ttlMs / 1000} s is too short; at least 1 s`,
      );
    }
    requireRoom(`${where}: authority.${name}`, ttlMs, { name: 'caTtl', ttlMs: caTtl, ...authority });
  }
  requireOrder(`${where}: authority`, { name: 'caTtl', ttlMs: caTtl, ...authority });
}

function checkLocalRoot({ authority }: ServerConfig, root: LocalRootConfig, where: string): void {
  if (Object.hasOwn(root.keyManager, 'memory')) {
    throw new AppError(
      'invalid-argument',
      `${where}.keyManager: a root in memory is lost with each restart; expected disk or pkcs11`,
    );
  }
  const issuer = { name: 'rootTtl', ttlMs: root.rootTtl, ...root };
  requireRoom(`${where}: authority.caTtl`, authority.caTtl, issuer);
  requireOrder(where, issuer);
}

/** The subject of CA certificates: without a common name, as much of the trust domain as fits into one. */
export function authoritySubjectOf(config: ServerConfig): {
  readonly commonName: string;
  readonly organization: readonly string[];
  readonly country: readonly string[];
} {
  const { subject } = config.authority;
  return { ...subject, commonName: subject.commonName ?? config.trustDomain.slice(0, nameMaxLength) };
}

/** Clients are verified by our own bundle only: another trust domain's administrators could never come in. */
function requireOwn(id: SpiffeId, trustDomain: string): void {
  if (id.trustDomain.name === trustDomain) return;
  throw new AppError(
    'invalid-argument',
    `"${id}" is not of trust domain "${trustDomain}"; administrators of other trust domains are not possible yet`,
  );
}

function parseAt(where: string, parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    throw new AppError('invalid-argument', `${where}: ${errorText(error)}`);
  }
}
