import { z } from 'zod';
import { onePlugin } from '../plugin-api/plugin.ts';
import { duration } from '../runtime/config-file.ts';
import { errorText } from '../runtime/error.ts';
import { findHostPort, hostPortRule } from '../runtime/host-port.ts';
import { logSettings } from '../runtime/log-settings.ts';
import { tlsSettings } from '../runtime/tls-settings.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { keyTypes } from '../x509/signature.ts';

/** The server takes an agent for connected that has called within a minute; far below it, roots are known in time. */
const syncIntervalBounds = { least: 100, most: 30_000 } as const;

/** An Envoy answers within milliseconds; a busy one, or one that is being debugged, within a minute. */
const ackTimeoutBounds = { least: 1_000, most: 3_600_000 } as const;

const trustDomain = z.string().superRefine((name, context) => {
  try {
    TrustDomain.parse(name);
  } catch (error) {
    context.addIssue({ code: 'custom', message: errorText(error) });
  }
});

const trustBundle = z.union([
  z.strictObject({ file: z.string().min(1).describe('PEM file with the root certificates of the server.') }),
  z.strictObject({
    fingerprint: z
      .string()
      .regex(/^sha256:[0-9a-f]{64}$/, 'expected sha256: and 64 lower-case hex digits')
      .describe('SHA-256 of the DER of one root certificate; shown by `signet bundle show`.'),
  }),
]);

const window = z
  .tuple([z.number().min(0).max(1), z.number().min(0).max(1)])
  .refine(([from, to]) => from <= to, 'expected the earlier share of the lifetime first');

const svid = z
  .strictObject({
    keyType: z.enum(keyTypes).default('ec-p256').describe('Key type of workload keys.'),
    renewWindow: window
      .default([0.4, 0.6])
      .describe('Renewals are due at a moment drawn once per SVID from this part of its lifetime.'),
    firstWindow: window
      .default([0.1, 0.6])
      .describe('The same for the first SVID of an entry, spread wider.'),
  })
  .prefault({});

const sds = z
  .strictObject({
    names: z
      .strictObject({
        defaultSvid: z
          .string()
          .min(1)
          .default('default')
          .describe("SDS name of the workload's first identity."),
        ownBundle: z.string().min(1).default('ROOTCA').describe("SDS name of the own trust domain's bundle."),
        allBundles: z
          .string()
          .min(1)
          .default('ALL')
          .describe('SDS name of all bundles the workload may use.'),
      })
      .prefault({}),
    aliases: z
      .record(z.string(), z.string())
      .default({})
      .describe(
        'More names: each stands for the certificate of a SPIFFE ID or the bundle of a trust-domain ID. See docs/sds.md.',
      ),
    fileRoots: z
      .record(z.string(), z.string())
      .default({})
      .describe(
        'Names such as `file-root:system` with the PEM file whose certificates they serve; no other file is.',
      ),
    unknownNames: z
      .enum(['hold', 'fail'])
      .default('hold')
      .describe(
        'What a name that nobody is ever served does: wait in vain, or end the stream as SPIRE does.',
      ),
    validator: z
      .enum(['spiffe', 'x509'])
      .default('spiffe')
      .describe(
        'Form of validation contexts: the SPIFFE validator of Envoy, or plain trusted_ca for one domain.',
      ),
    onWithdraw: z
      .enum(['keep', 'block'])
      .default('keep')
      .describe(
        'What a proxy that loses its entitlement is told: nothing, so that it keeps what it has until that expires, or to trust nobody.',
      ),
    ackTimeout: duration
      .refine((ms) => ms >= ackTimeoutBounds.least && ms <= ackTimeoutBounds.most, 'expected 1s to 1h')
      .prefault('30s')
      .describe('How long a proxy may take to answer a secret before it counts as stalled: 1s to 1h.'),
    closeStalled: z
      .boolean()
      .default(false)
      .describe('End the stream of a stalled proxy, so that it connects anew.'),
  })
  .prefault({});

const limits = z
  .strictObject({
    connections: z
      .int()
      .min(0)
      .default(10_000)
      .describe('Open connections on the workload socket in all. 0 = no limit.'),
    connectionsPerUid: z.int().min(0).default(1_000).describe('Open connections of one user. 0 = no limit.'),
    streamsPerConnection: z
      .int()
      .min(1)
      .default(2_048)
      .describe('Streams at the same time on one connection.'),
    streamsPerUid: z
      .int()
      .min(0)
      .default(10_000)
      .describe('Streams of one user at the same time, on all its connections. 0 = no limit.'),
    namesPerStream: z.int().min(1).default(1_024).describe('Secret names one SDS stream may ask for.'),
    nameBytesPerUid: z
      .int()
      .min(65_536)
      .default(33_554_432)
      .describe('Bytes of the secret names that all streams of one user hold.'),
    messageBytes: z.int().min(65_536).default(131_072).describe('Largest message that is read, in bytes.'),
  })
  .prefault({});

/** The settings of `signet agent run` (`agent.yaml`). */
export const agentConfigSchema = z
  .strictObject({
    trustDomain: trustDomain.describe('Name of the trust domain, such as `example.org`.'),
    dataDir: z
      .string()
      .min(1)
      .describe("Directory for the agent's own identity and key; made with mode 0700."),
    server: z
      .string()
      .refine((text) => (findHostPort(text)?.port ?? 0) > 0, hostPortRule)
      .describe('HOST:PORT of the server.'),
    tls: tlsSettings.describe('TLS to the server; always 1.3.'),
    trustBundle: trustBundle.optional().describe('How the server is trusted at the first contact.'),
    insecureBootstrap: z
      .boolean()
      .default(false)
      .describe('Believe any server at the first contact. For trying out only.'),
    workloadSocket: z
      .string()
      .default('/run/signet/agent/api.sock')
      .describe('Unix socket for workloads and Envoy: Workload API and SDS together (mode 0666).'),
    adminSocket: z
      .string()
      .default('/run/signet/agent-admin/admin.sock')
      .describe('Unix socket for administrators of the agent (mode 0600).'),
    nodeAttestor: onePlugin.describe('How the agent proves which node it runs on.'),
    keyManager: onePlugin.prefault({ disk: {} }).describe("Where the agent's own key is kept."),
    workloadAttestors: z
      .record(z.string(), z.unknown())
      .prefault({ unix: {} })
      .describe('What is found out about callers of the workload socket.'),
    requirePeerPidfd: z
      .boolean()
      .default(false)
      .describe(
        'Refuse to run where the kernel cannot name the calling process race-free (Linux before 6.5).',
      ),
    syncInterval: duration
      .refine(
        (ms) => ms >= syncIntervalBounds.least && ms <= syncIntervalBounds.most,
        'expected 100ms to 30s',
      )
      .prefault('5s')
      .describe('How often the server is asked for changes: 100ms to 30s.'),
    svid: svid.describe('Keys and renewal of workload SVIDs.'),
    sds: sds.describe('Envoy secret discovery.'),
    limits: limits.describe('Bounds that protect the agent.'),
    log: logSettings.describe('Logging, to stderr.'),
  })
  .refine((config) => (config.trustBundle !== undefined) !== config.insecureBootstrap, {
    path: ['trustBundle'],
    message:
      'expected one of trustBundle: { file: … }, trustBundle: { fingerprint: … } or insecureBootstrap: true',
  });

/** A checked agent configuration. Durations are milliseconds. */
export type AgentConfig = z.output<typeof agentConfigSchema>;
