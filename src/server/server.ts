import type { DataStore } from '../plugin-api/data-store.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import { GrpcListener, type ListenerLimits } from '../rpc/grpc-server.ts';
import { type HealthCheck, healthApi } from '../rpc/health-api.ts';
import { listenerService } from '../rpc/listener-service.ts';
import { AppError } from '../runtime/error.ts';
import { findHostPort, type HostPort, hostPortRule } from '../runtime/host-port.ts';
import { runServices, type Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import { SpiffeId, type TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { Access } from './api/access.ts';
import { agentApi } from './api/agent-api.ts';
import { bundleApi } from './api/bundle-api.ts';
import { entryApi } from './api/entry-api.ts';
import { svidApi } from './api/svid-api.ts';
import { NodeAttestation } from './attestation/node-attestation.ts';
import { Authority } from './authority/authority.ts';
import { timelineOf } from './authority/authority-states.ts';
import { AuthorityRotation } from './authority/rotation.ts';
import { BundleKeeper } from './bundles/bundle-keeper.ts';
import { authoritySubjectOf, type ServerConfig } from './config.ts';
import { Entries } from './registration/entries.ts';
import { EntryIndex } from './registration/entry-index.ts';
import { ServerIdentity } from './server-identity.ts';

/** Expired tokens are kept this long, so that their late use is told from an unknown token. */
const tokenMemorySeconds = 86_400;
const pruneEveryMs = 600_000;
/** Administrators create entries by the hundred in one call. */
const adminMessageBytes = 4 * 1024 * 1024;

/** What the composition root has built from plugins. */
export interface ServerParts {
  readonly trustDomain: TrustDomain;
  readonly store: DataStore;
  readonly keyManager: KeyManager;
  readonly attestors: ReadonlyMap<string, ServerNodeAttestor>;
  /** Makes a join token of 256 bits. */
  readonly newJoinToken: () => string;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Where a running server can be reached. */
export interface ServerAddresses {
  readonly listen: string;
  readonly adminSocket: string;
}

/** Runs a server until `signal` aborts; `onReady` is called once it serves. Throws what made it stop. */
export async function runServer(
  config: ServerConfig,
  parts: ServerParts,
  options: { readonly signal: AbortSignal; readonly onReady: (addresses: ServerAddresses) => void },
): Promise<void> {
  const { trustDomain, store, clock, log } = parts;
  await requireSameTrustDomain(parts);
  const index = new EntryIndex(trustDomain);
  const entries = new Entries({ trustDomain, store: store.entries, index });
  await entries.load();
  const bundles = await BundleKeeper.load({ trustDomain, store: store.bundles, log });
  const authority = new Authority({ trustDomain, clock, log });
  const rotation = rotationOf(config, parts, { authority, bundles });
  const identity = new ServerIdentity(
    { authority, bundles, clock, log },
    { keyType: 'ec-p256', ttlMs: config.authority.agentTtl },
  );
  const access = new Access({
    trustDomain,
    agents: store.agents,
    index,
    bundles,
    adminIds: config.adminIds.map((id) => SpiffeId.parse(id)),
    clock,
  });
  const attestation = new NodeAttestation(
    { trustDomain, attestors: parts.attestors, agents: store.agents, authority, entries, log },
    config.authority.agentTtl,
  );
  const startedAtMs = clock.now();
  const services = [
    agentApi({
      trustDomain,
      attestation,
      tokens: store.tokens,
      agents: store.agents,
      newToken: parts.newJoinToken,
      clock,
    }),
    entryApi({ entries, index, access, clock }),
    svidApi({ trustDomain, authority, index, access, clock, defaultTtlMs: config.authority.x509SvidTtl }),
    bundleApi({ bundles, access, clock }),
    healthApi({
      role: 'server',
      trustDomain: trustDomain.name,
      startedAtMs,
      checks: async () => checks({ authority, rotation, store, entries: index.size, clock }),
    }),
  ];
  const common = { services, authorize: access.authorize.bind(access), log, clock };
  const addresses = { listen: '', adminSocket: config.adminSocket };
  await runServices(
    [
      rotation,
      identity,
      adminListener(config, common),
      listenerService('listener', async () => {
        const listener = await GrpcListener.tls({
          ...common,
          ...listenAddress(config),
          limits: listenerLimits(config),
          identity: identity.tls,
          verifyClient: clientVerifier(bundles, clock),
        });
        addresses.listen = listener.address;
        return listener;
      }),
      pruning(store, clock, log),
    ],
    { signal: options.signal, log, onReady: () => options.onReady(addresses) },
  );
}

function adminListener(
  config: ServerConfig,
  common: Pick<Parameters<typeof GrpcListener.unix>[0], 'services' | 'authorize' | 'log' | 'clock'>,
): Service {
  return listenerService('admin socket', () =>
    GrpcListener.unix({
      ...common,
      path: config.adminSocket,
      mode: 0o600,
      peerOf: 'local',
      limits: { ...listenerLimits(config), maxReceiveBytes: adminMessageBytes },
    }),
  );
}

function listenerLimits({ limits }: ServerConfig): Partial<ListenerLimits> {
  return {
    maxConnections: limits.connections,
    maxAnonymousConnections: limits.anonymousConnections,
    maxStreamsPerConnection: limits.streamsPerConnection,
    maxReceiveBytes: limits.messageBytes,
  };
}

function rotationOf(
  config: ServerConfig,
  parts: ServerParts,
  { authority, bundles }: { authority: Authority; bundles: BundleKeeper },
): AuthorityRotation {
  const { trustDomain, store, keyManager, clock, log } = parts;
  const { caKeyType, caTtl } = config.authority;
  return new AuthorityRotation(
    { trustDomain, journal: store.authorities, keyManager, bundles, authority, clock, log },
    {
      keyType: caKeyType,
      caTtlMs: caTtl,
      subject: authoritySubjectOf(config),
    },
  );
}

/** A database belongs to one trust domain for ever: what it signed carries the name. */
async function requireSameTrustDomain({ store, trustDomain }: ServerParts): Promise<void> {
  const foreign = (await store.authorities.list())
    .flatMap(({ certificate }) => certificate.uris)
    .find((uri) => uri !== trustDomain.id);
  if (foreign === undefined) return;
  throw new AppError(
    'failed-precondition',
    `trustDomain is "${trustDomain}", but the data directory is that of "${foreign}"; set it back, or choose an empty dataDir`,
  );
}

/** Clients are accepted under our own roots only. */
function clientVerifier(bundles: BundleKeeper, clock: Clock) {
  return (chain: readonly Certificate[]): SpiffeId =>
    verifyX509Svid({
      chain,
      bundles: () => bundles.own.value,
      nowMs: clock.now(),
    }).id;
}

function pruning(store: DataStore, clock: Clock, log: Logger): Service {
  return {
    name: 'pruning',
    async run(signal, ready) {
      ready();
      while (!signal.aborted) {
        await clock.sleep(pruneEveryMs, signal);
        if (signal.aborted) break;
        await store.tokens
          .prune(Math.floor(clock.now() / 1000) - tokenMemorySeconds)
          .catch((error: unknown) => log.warn({ error }, 'expired join tokens could not be pruned'));
      }
    },
  };
}

async function checks(parts: {
  authority: Authority;
  rotation: AuthorityRotation;
  store: DataStore;
  entries: number;
  clock: Clock;
}): Promise<readonly HealthCheck[]> {
  const slot = parts.authority.active.value;
  const found: HealthCheck[] = [];
  if (slot === undefined) {
    found.push({
      name: 'authority',
      state: 'not-ready',
      message: 'there is no active signing certificate yet',
    });
  } else {
    const { prepareAtMs, expiresAtMs } = timelineOf(slot.certificate);
    found.push({
      name: 'authority',
      state: parts.rotation.lastFailure === undefined ? 'ok' : 'degraded',
      message:
        parts.rotation.lastFailure ??
        `root expires ${new Date(expiresAtMs).toISOString()}, successor due ${new Date(prepareAtMs).toISOString()}`,
    });
  }
  const agents = await parts.store.agents.list().catch(() => undefined);
  found.push(
    agents === undefined
      ? {
          name: 'data store',
          state: 'not-ready',
          message: 'the database cannot be read',
          nextStep: 'see the server log',
        }
      : { name: 'data store', state: 'ok', message: `${agents.length} agents, ${parts.entries} entries` },
  );
  return found;
}

/** Throws `invalid-argument`. */
function listenAddress({ listen }: ServerConfig): HostPort {
  const address = findHostPort(listen);
  if (address !== undefined) return address;
  throw new AppError('invalid-argument', `listen: ${hostPortRule}, found "${listen}"`);
}
