import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import type { WorkloadAttestor } from '../plugin-api/workload-attestor.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import { type HealthCheck, healthApi } from '../rpc/health-api.ts';
import { listenerService } from '../rpc/listener-service.ts';
import { runServices } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import { AgentIdentity, type AgentIdentityState } from './agent-identity.ts';
import { sdsApi } from './api/sds-api.ts';
import { type WorkloadApiDeps, workloadApi } from './api/workload-api.ts';
import { Bootstrap } from './bootstrap.ts';
import type { AgentConfig } from './config.ts';
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
  const connection = new ServerConnection({ address: config.server, trustDomain, identity: state, clock });
  const identity = new AgentIdentity({
    trustDomain,
    state,
    dataDir: config.dataDir,
    attestorType: parts.attestorType,
    attestor: parts.attestor,
    keyManager: parts.keyManager,
    bootstrap: new Bootstrap(trustDomain, config, clock),
    client: () => connection.client(),
    clock,
    log,
  });
  const cache = new SvidCache({ clock });
  const sync = new Sync(
    { client: () => connection.client(), identity, state, cache, clock, log },
    {
      intervalMs: config.syncInterval,
      keyType: config.svid.keyType,
      windows: { first: config.svid.firstWindow, later: config.svid.renewWindow },
    },
  );
  const attestation = new WorkloadAttestation({ attestors: parts.workloadAttestors, log });
  const startedAtMs = clock.now();
  const health = healthApi({
    role: 'agent',
    trustDomain: trustDomain.name,
    startedAtMs,
    checks: async () => checks({ state, identity, sync, cache, parts, intervalMs: config.syncInterval }),
  });
  try {
    await runServices(
      [
        identity,
        sync,
        listenerService('workload socket', () =>
          listenForWorkloads(config, { attestation, cache, clock, log }),
        ),
        listenerService('admin socket', () =>
          GrpcListener.unix({
            path: config.adminSocket,
            mode: 0o600,
            peerOf: 'local',
            services: [health],
            authorize: anybody,
            log,
          }),
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

function listenForWorkloads(
  config: AgentConfig,
  deps: WorkloadApiDeps & { readonly log: Logger },
): Promise<GrpcListener> {
  const { limits, sds } = config;
  return GrpcListener.unix({
    path: config.workloadSocket,
    mode: 0o666,
    peerOf: 'process',
    requirePeerPidfd: config.requirePeerPidfd,
    services: [sdsApi({ ...deps, sds, limits: { maxNames: limits.namesPerStream } }), workloadApi(deps)],
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

async function checks(agent: {
  state: Observable<AgentIdentityState | undefined>;
  identity: AgentIdentity;
  sync: Sync;
  cache: SvidCache;
  parts: AgentParts;
  intervalMs: number;
}): Promise<readonly HealthCheck[]> {
  const { state, identity, sync, cache, parts, intervalMs } = agent;
  const svid = state.value?.svid;
  const nowMs = parts.clock.now();
  const { lastSuccessMs, problem } = sync.status;
  const isFresh = lastSuccessMs !== undefined && nowMs - lastSuccessMs < 3 * intervalMs + 5_000;
  const isValid = svid !== undefined && svid.notAfterMs > nowMs;
  const held = [...cache.entries.keys()].filter((id) => cache.findSvid(id) !== undefined).length;
  return [
    {
      name: 'identity',
      state: isValid ? (identity.problem === undefined ? 'ok' : 'degraded') : 'not-ready',
      message:
        svid === undefined
          ? `not attested${identity.problem === undefined ? ' yet' : `: ${identity.problem}`}`
          : `${svid.id}, valid until ${new Date(svid.notAfterMs).toISOString()}${identity.problem === undefined ? '' : `; ${identity.problem}`}`,
      nextStep: isValid ? '' : 'see the agent log; a spent join token is replaced with `signet token create`',
    },
    {
      name: 'server',
      state: isFresh ? 'ok' : lastSuccessMs === undefined ? 'not-ready' : 'degraded',
      message:
        lastSuccessMs === undefined
          ? `never in sync with the server${problem === undefined ? '' : `: ${problem}`}`
          : `last in sync ${Math.round((nowMs - lastSuccessMs) / 1000)} s ago${problem === undefined ? '' : `; ${problem}`}`,
    },
    {
      name: 'identities',
      state: 'ok',
      message: `${cache.entries.size} registered for this node, ${held} with a certificate`,
    },
    {
      name: 'caller identification',
      state: parts.peerIdentification === 'SO_PEERPIDFD' ? 'ok' : 'degraded',
      message:
        parts.peerIdentification === 'SO_PEERPIDFD'
          ? 'the kernel names callers without a race (SO_PEERPIDFD)'
          : 'pidfd_open and start times: this kernel has no SO_PEERPIDFD',
      nextStep: parts.peerIdentification === 'SO_PEERPIDFD' ? '' : 'Linux 6.5 or newer closes a narrow race',
    },
  ];
}
