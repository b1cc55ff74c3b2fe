import type { DataStore } from '../plugin-api/data-store.ts';
import { GrpcListener, type ListenerLimits } from '../rpc/grpc-server.ts';
import { listenerService } from '../rpc/listener-service.ts';
import { AppError } from '../runtime/error.ts';
import { findHostPort, type HostPort, hostPortRule } from '../runtime/host-port.ts';
import { runServices, type Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { BundleKeeper } from './bundles/bundle-keeper.ts';
import type { ServerConfig } from './config.ts';
import { openRooms, type ServerParts } from './rooms.ts';
import { serverApis } from './server-apis.ts';

/** Expired tokens are kept this long, so that their late use is told from an unknown token. */
const tokenMemorySeconds = 86_400;
const pruneEveryMs = 600_000;
/** Administrators create entries by the hundred in one call. */
const adminMessageBytes = 4 * 1024 * 1024;

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
  const { store, clock, log } = parts;
  await requireSameTrustDomain(parts);
  const rooms = await openRooms(config, parts);
  const { access, bundles, identity, rotation } = rooms;
  const services = serverApis(config, parts, rooms);
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

/** Throws `invalid-argument`. */
function listenAddress({ listen }: ServerConfig): HostPort {
  const address = findHostPort(listen);
  if (address !== undefined) return address;
  throw new AppError('invalid-argument', `listen: ${hostPortRule}, found "${listen}"`);
}
