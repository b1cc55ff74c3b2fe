import type { HealthCheck } from '../rpc/health-api.ts';
import type { SpiffeId } from '../spiffe/spiffe-id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import type { SharedRefusal } from './shared-refusals.ts';
import type { SyncStatus } from './sync.ts';

/** What an agent knows of itself at one moment. */
export interface AgentStatus {
  readonly nowMs: number;
  readonly intervalMs: number;
  readonly svid: X509Svid | undefined;
  readonly identityProblem: string | undefined;
  /** Who an administrator has banned. */
  readonly bannedId: SpiffeId | undefined;
  readonly sync: SyncStatus;
  /** Of the newest connection to the server, such as `X25519MLKEM768`. */
  readonly keyExchange: string | undefined;
  /** Registered for this node, and of these with a certificate. */
  readonly entries: number;
  readonly held: number;
  /** Versions of secrets that more than one proxy refuses. */
  readonly sharedRefusals: readonly SharedRefusal[];
  readonly peerIdentification: 'SO_PEERPIDFD' | 'pidfd_open';
}

/** The health report of an agent. */
export function healthChecks(status: AgentStatus): readonly HealthCheck[] {
  return [
    identityCheck(status),
    serverCheck(status),
    svidCheck(status),
    ...federationCheck(status),
    ...proxiesCheck(status),
    callerCheck(status),
  ];
}

function identityCheck({ svid, identityProblem, bannedId, nowMs }: AgentStatus): HealthCheck {
  if (bannedId !== undefined) {
    return {
      name: 'identity',
      state: 'not-ready',
      message: withProblem(`${bannedId} was banned by an administrator`, identityProblem),
      nextStep: `if that was a mistake: \`signet agent evict ${bannedId}\` on the server lets this node attest again`,
    };
  }
  const isValid = svid !== undefined && svid.notAfterMs > nowMs;
  const known =
    svid === undefined
      ? 'not attested yet'
      : `${svid.id}, valid until ${new Date(svid.notAfterMs).toISOString()}`;
  return {
    name: 'identity',
    state: isValid ? (identityProblem === undefined ? 'ok' : 'degraded') : 'not-ready',
    message: withProblem(known, identityProblem),
    nextStep: isValid ? '' : 'see the agent log; a spent join token is replaced with `signet token create`',
  };
}

function serverCheck({ sync, keyExchange, nowMs, intervalMs }: AgentStatus): HealthCheck {
  const { lastSyncMs, problems } = sync;
  const isFresh = lastSyncMs !== undefined && nowMs - lastSyncMs < 3 * intervalMs + 5_000;
  const isConnected = isFresh && problems.sync === undefined;
  const over = isConnected && keyExchange !== undefined ? `, key exchange ${keyExchange}` : '';
  const known =
    lastSyncMs === undefined
      ? 'never in sync with the server'
      : `last in sync ${Math.max(0, Math.round((nowMs - lastSyncMs) / 1000))} s ago${over}`;
  return {
    name: 'server',
    state: isFresh ? 'ok' : lastSyncMs === undefined ? 'not-ready' : 'degraded',
    message: withProblem(known, problems.sync),
  };
}

function svidCheck({ entries, held, sync }: AgentStatus): HealthCheck {
  return {
    name: 'identities',
    state: sync.problems.signing === undefined ? 'ok' : 'degraded',
    message: withProblem(
      `${entries} registered for this node, ${held} with a certificate`,
      sync.problems.signing,
    ),
  };
}

/** Nothing where no entry federates. */
function federationCheck({ sync }: AgentStatus): readonly HealthCheck[] {
  const { wanted, held, problems } = sync.federation;
  if (wanted === 0) return [];
  const [first] = [...problems].map(([name, problem]) => `${name}: ${problem}`);
  return [
    {
      name: 'federation',
      state: first === undefined ? 'ok' : 'degraded',
      message: withProblem(`${held} of ${wanted} federated bundles`, first),
      nextStep: first === undefined ? '' : 'see `signet bundle list` at the server',
    },
  ];
}

/** Nothing as long as no secret is refused by more than one proxy: of a single one the fault may be its own. */
function proxiesCheck({ sharedRefusals }: AgentStatus): readonly HealthCheck[] {
  const [first] = sharedRefusals;
  if (first === undefined) return [];
  const { name, version, pids, error } = first;
  const more = sharedRefusals.length > 1 ? `; and ${sharedRefusals.length - 1} more such secrets` : '';
  return [
    {
      name: 'proxies refuse a secret',
      state: 'degraded',
      message: `${pids.length} proxies refuse "${name}" (version ${version}): ${error}${more}`,
      nextStep:
        'see `signet proxy list --refused` for which, and `signet proxy show PID`; they keep the last good version',
    },
  ];
}

/** Not degraded on an older kernel: it cannot be mended here, and `requirePeerPidfd` is there for who wants none of it. */
function callerCheck({ peerIdentification }: AgentStatus): HealthCheck {
  return {
    name: 'caller identification',
    state: 'ok',
    message:
      peerIdentification === 'SO_PEERPIDFD'
        ? 'the kernel names callers without a race (SO_PEERPIDFD)'
        : 'pidfd_open and start times, since this kernel has no SO_PEERPIDFD; Linux 6.5 closes a narrow race',
  };
}

function withProblem(known: string, problem: string | undefined): string {
  return problem === undefined ? known : `${known}: ${problem}`;
}
