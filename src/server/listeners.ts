import { FailureBudget } from '../rpc/failure-budget.ts';
import { GrpcListener, type ListenerLimits } from '../rpc/grpc-server.ts';
import type { GrpcService } from '../rpc/handlers.ts';
import { listenerService } from '../rpc/listener-service.ts';
import { AppError } from '../runtime/error.ts';
import { findHostPort, type HostPort, hostPortRule } from '../runtime/host-port.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { CallLimiter } from './api/call-limits.ts';
import { missingMethods } from './api/missing-methods.ts';
import type { BundleKeeper } from './bundles/bundle-keeper.ts';
import type { ServerConfig } from './config.ts';
import type { ServerRooms } from './rooms.ts';

/** Administrators create entries by the hundred in one call. */
const adminMessageBytes = 4 * 1024 * 1024;

interface Deps {
  readonly config: ServerConfig;
  readonly rooms: Pick<ServerRooms, 'access' | 'bundles' | 'identity'>;
  readonly services: readonly GrpcService[];
  readonly clock: Clock;
  readonly log: Logger;
}

/** The admin socket: whoever can open it is an administrator, and is not limited. */
export function adminListener(deps: Deps): Service {
  const { config } = deps;
  return listenerService('admin socket', () =>
    GrpcListener.unix({
      ...commonOptions(deps),
      path: config.adminSocket,
      mode: 0o600,
      peerOf: 'local',
      limits: { ...listenerLimits(config), maxReceiveBytes: adminMessageBytes },
    }),
  );
}

/** The TLS listener for agents and remote administrators; `onListening` gets it once it is open. */
export function tlsListener(deps: Deps, onListening: (listener: GrpcListener) => void): Service {
  const { config, rooms, clock } = deps;
  const { failuresPerMinute: perMinute } = config.limits.attestation;
  const limiter = new CallLimiter(config.limits, {
    clock,
    failures: new FailureBudget(clock, { perMinute }),
  });
  return listenerService('listener', async () => {
    const listener = await GrpcListener.tls({
      ...commonOptions(deps),
      ...listenAddress(config),
      admit: limiter.admit,
      // Of their own: a port scanner or a plain-text health check must not keep the agents of its address from attesting.
      failures: new FailureBudget(clock, { perMinute }),
      limits: { ...listenerLimits(config), maxConnectionAgeMs: config.limits.connectionAge },
      identity: rooms.identity.tls,
      postQuantum: config.tls.postQuantum,
      verifyClient: clientVerifier(rooms.bundles, clock),
    });
    onListening(listener);
    return listener;
  });
}

function commonOptions({ services, rooms, clock, log }: Deps) {
  const authorize = rooms.access.authorize.bind(rooms.access);
  return { services, authorize, missing: missingMethods, log, clock };
}

function listenerLimits({ limits }: ServerConfig): Partial<ListenerLimits> {
  return {
    maxConnections: limits.connections,
    maxAnonymousConnections: limits.anonymousConnections,
    maxConnectionsPerIdentity: limits.connectionsPerIdentity,
    maxHandshakes: limits.handshakes,
    maxStreamsPerConnection: limits.streamsPerConnection,
    maxReceiveBytes: limits.messageBytes,
  };
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

/** Throws `invalid-argument`. */
function listenAddress({ listen }: ServerConfig): HostPort {
  const address = findHostPort(listen);
  if (address !== undefined) return address;
  throw new AppError('invalid-argument', `listen: ${hostPortRule}, found "${listen}"`);
}
