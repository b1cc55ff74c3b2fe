import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import type { WorkloadAttestor } from '../plugin-api/workload-attestor.ts';
import type { Caller } from '../rpc/caller.ts';
import { grpcHealthApi } from '../rpc/grpc-health-api.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import type { GrpcService } from '../rpc/handlers.ts';
import { type HealthCheck, healthApi } from '../rpc/health-api.ts';
import { listenerService } from '../rpc/listener-service.ts';
import { loggerApi } from '../rpc/logger-api.ts';
import { withReflection } from '../rpc/reflection-api.ts';
import { AppError } from '../runtime/error.ts';
import { runServices } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import { AgentIdentity, type AgentIdentityState } from './agent-identity.ts';
import { proxiesApi } from './api/proxies-api.ts';
import { openSecretServices } from './api/secret-services.ts';
import { StreamBudget } from './api/stream-budget.ts';
import { type WorkloadApiDeps, workloadApi } from './api/workload-api.ts';
import { Bootstrap } from './bootstrap.ts';
import type { AgentConfig } from './config.ts';
import { healthChecks } from './health-checks.ts';
import { ServerConnection } from './server-connection.ts';
import { SvidCache } from './svid-cache.ts';
import { Sync } from './sync.ts';
import { WorkloadAttestation } from './workload/workload-attestation.ts';

/** What the composition root has built from plugins. */
export interface AgentParts {
  readonly trustDomain: TrustDomain;
  readonly attestorType: string;
  readonly attestor: AgentNodeAttestor;
  readonly keyManager: KeyManager;
  readonly workloadAttestors: ReadonlyMap<string, WorkloadAttestor>;
  /** How callers are identified: `SO_PEERPIDFD`, or `pidfd_open` on kernels that lack it. */
  readonly peerIdentification: 'SO_PEERPIDFD' | 'pidfd_open';
  readonly clock: Clock;
  readonly log: Logger;
}

/** Runs an agent until `signal` aborts; `onReady` is called once its sockets are open. Throws what made it stop. */
export async function runAgent(
  config: AgentConfig,
  parts: AgentParts,
  options: { readonly signal: AbortSignal; readonly onReady: () => void },
): Promise<void> {
  const { trustDomain, clock, log } = parts;
  const state = new Observable<AgentIdentityState | undefined>(undefined);
  const { server: address, tls } = config;
  const connection = new ServerConnection({ address, ...tls, trustDomain, identity: state, clock });
  const cache = new SvidCache({ clock, keyType: config.svid.keyType });
  const identity = new AgentIdentity({
    trustDomain,
    state,
    dataDir: config.dataDir,
    attestorType: parts.attestorType,
    attestor: parts.attestor,
    keyManager: parts.keyManager,
    bootstrap: new Bootstrap(trustDomain, config, clock),
    client: () => connection.client(),
    onBanned: () => {
      cache.setEntries([]);
      connection.close();
    },
    clock,
    log,
  });
  const sync = new Sync(
    { client: () => connection.client(), identity, state, cache, clock, log },
    {
      intervalMs: config.syncInterval,
      windows: { first: config.svid.firstWindow, later: config.svid.renewWindow },
    },
  );
  const attestation = new WorkloadAttestation({ attestors: parts.workloadAttestors, log, clock });
  const { streamsPerUid, nameBytesPerUid, namesPerStream } = config.limits;
  const budget = new StreamBudget({ streams: streamsPerUid, nameBytes: nameBytesPerUid });
  const sources = { attestation, cache, budget, clock, log };
  const secrets = openSecretServices(config.sds, { ...sources, limits: { maxNames: namesPerStream } });
  const agentId = () => state.value?.svid.id;
  const proxies = proxiesApi({ ...secrets, trustDomain, agentId });
  const startedAtMs = clock.now();
  const checks = async () =>
    healthChecks({
      nowMs: clock.now(),
      intervalMs: config.syncInterval,
      svid: state.value?.svid,
      identityProblem: identity.problem,
      bannedId: identity.bannedId,
      sync: sync.status,
      keyExchange: connection.keyExchange,
      entries: cache.entries.size,
      held: [...cache.entries.keys()].filter((id) => cache.findSvid(id) !== undefined).length,
      sharedRefusals: secrets.book.sharedRefusals(),
      peerIdentification: parts.peerIdentification,
    });
  try {
    await runServices(
      [
        identity,
        sync,
        secrets.fileRoots,
        secrets.book,
        listenerService('workload socket', () =>
          listenForWorkloads(config, { ...sources, secrets: secrets.services, checks }),
        ),
        listenerService('admin socket', () =>
          listenForAdministrators(config, { proxies, checks, startedAtMs, clock, log }),
        ),
      ],
      { signal: options.signal, log, onReady: options.onReady },
    );
  } finally {
    connection.close();
  }
}

/** Both sockets are open to whoever reaches them: file mode guards one, the kernel's word on the caller the other. */
const anybody = (): void => undefined;

type Checks = () => Promise<readonly HealthCheck[]>;

function listenForAdministrators(
  config: AgentConfig,
  deps: {
    readonly proxies: GrpcService;
    readonly checks: Checks;
    readonly startedAtMs: number;
    readonly clock: Clock;
    readonly log: Logger;
  },
): Promise<GrpcListener> {
  const { log } = deps;
  const services = [
    healthApi({ role: 'agent', trustDomain: config.trustDomain, ...deps }),
    loggerApi('agent', log),
    deps.proxies,
  ];
  return GrpcListener.unix({
    path: config.adminSocket,
    mode: 0o600,
    peerOf: 'local',
    services: withReflection([...services, grpcHealthApi({ services, ...deps })]),
    authorize: anybody,
    log,
  });
}

function listenForWorkloads(
  config: AgentConfig,
  deps: WorkloadApiDeps & {
    readonly secrets: readonly GrpcService[];
    readonly checks: Checks;
    readonly log: Logger;
  },
): Promise<GrpcListener> {
  const { limits } = config;
  const { budget, secrets } = deps;
  const services = [...secrets, workloadApi(deps)];
  return GrpcListener.unix({
    path: config.workloadSocket,
    mode: 0o666,
    peerOf: 'process',
    requirePeerPidfd: config.requirePeerPidfd,
    services: [
      ...services,
      grpcHealthApi({ ...deps, services, openWatch: ({ caller }) => budget.open(uidOf(caller)) }),
    ],
    authorize: anybody,
    limits: {
      maxConnections: limits.connections,
      maxConnectionsPerUid: limits.connectionsPerUid,
      maxStreamsPerConnection: limits.streamsPerConnection,
      maxReceiveBytes: limits.messageBytes,
    },
    log: deps.log,
  });
}

function uidOf(caller: Caller): number {
  if (caller.kind === 'process') return caller.peer.uid;
  throw new AppError('permission-denied', 'the kernel did not name the calling process');
}
