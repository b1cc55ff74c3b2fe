import type { AuthorityRecord, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { RotationTimes } from '../rotation-times.ts';
import { forgottenAtMs, timelineOf } from './authority-states.ts';
import type { IssuedSvids, SvidsInUse } from './issued-svids.ts';
import type { KeptBundle } from './kept-bundle.ts';

/** One CA certificate, as `signet authority x509 show` has it. */
export interface ReportedAuthority {
  readonly record: AuthorityRecord;
  readonly isInBundle: boolean;
  /** Of a root: of all that is below it. */
  readonly inUse: SvidsInUse;
}

/** Something that is to come. */
export interface AuthorityEvent {
  readonly atMs: number;
  readonly authorityId: string;
  readonly what: string;
}

/** What is active, until when, what happens next and when. */
export interface AuthorityReport {
  /** Signing certificates first; of each role the active one, the prepared, and the old ones, the newest first. */
  readonly authorities: readonly ReportedAuthority[];
  readonly next: readonly AuthorityEvent[];
  readonly agentsBehind: number;
}

interface Deps {
  readonly journal: Pick<AuthorityStore, 'list'>;
  readonly bundles: Pick<KeptBundle, 'holds' | 'agentsBehind'>;
  readonly issued: Pick<IssuedSvids, 'inUse'>;
  readonly times: { readonly signing: RotationTimes; readonly root: RotationTimes | undefined };
}

const stateOrder = ['active', 'prepared', 'old'] as const satisfies readonly AuthorityState[];

/** Reads the journal and tells what it means. */
export async function reportAuthorities(deps: Deps, nowMs: number): Promise<AuthorityReport> {
  const records = await deps.journal.list();
  const agentsBehind = deps.bundles.agentsBehind(nowMs);
  const rank = ({ role, state }: AuthorityRecord) => (role === 'root' ? 3 : 0) + stateOrder.indexOf(state);
  const ordered = [...records].sort((a, b) => rank(a) - rank(b) || b.preparedAtMs - a.preparedAtMs);
  const authorities = ordered.map((record) => reportOne(record, records, { ...deps, nowMs }));
  const next = authorities
    .flatMap((one) => eventsOf(one, records, { times: deps.times, agentsBehind }))
    .sort((a, b) => a.atMs - b.atMs);
  return { authorities, next, agentsBehind };
}

function reportOne(
  record: AuthorityRecord,
  records: readonly AuthorityRecord[],
  { bundles, issued, nowMs }: Deps & { readonly nowMs: number },
): ReportedAuthority {
  const below = record.role === 'root' ? records.filter((r) => r.upstreamKeyId === record.id) : [record];
  const { upstreamKeyId, certificate } = record;
  const isInBundle = bundles.holds(
    upstreamKeyId === '' ? { fingerprint: certificate.fingerprint } : { subjectKeyId: upstreamKeyId },
  );
  return { record, isInBundle, inUse: issued.inUse(below, nowMs) };
}

function eventsOf(
  { record, isInBundle, inUse }: ReportedAuthority,
  records: readonly AuthorityRecord[],
  { times, agentsBehind }: { readonly times: Deps['times']; readonly agentsBehind: number },
): readonly AuthorityEvent[] {
  const authorityId = record.id;
  const { role, state, certificate, taintedAtMs } = record;
  const event = (atMs: number, what: string): AuthorityEvent => ({ atMs, authorityId, what });
  const chosen = times[role];
  if (state === 'active' && chosen !== undefined) {
    const { prepareAtMs, activateAtMs, forceAtMs, expiresAtMs } = timelineOf(certificate, chosen);
    const successor = records.find((one) => one.role === role && one.state === 'prepared');
    const waits = successor !== undefined && agentsBehind > 0 ? ` (${agentsBehind} do not yet)` : '';
    const latest = new Date(forceAtMs).toISOString().replace(/\.\d+Z$/, 'Z');
    return [
      ...(successor === undefined ? [event(prepareAtMs, 'its successor is prepared and published')] : []),
      event(
        activateAtMs,
        `${successor === undefined ? 'the successor' : successor.id} takes over once all connected agents hold its root${waits}, at the latest at ${latest}`,
      ),
      event(expiresAtMs, 'it expires'),
    ];
  }
  const isRoot = record.upstreamKeyId === '';
  if (state === 'prepared' || !isRoot || !isInBundle) return [];
  const leaves = event(forgottenAtMs(certificate), 'it leaves the trust bundle');
  if (taintedAtMs === undefined) return [leaves];
  const { svids, isIncomplete, endByMs } = inUse;
  const revocation =
    svids === 0 && !isIncomplete
      ? event(taintedAtMs, `nothing of it is in use: it can be revoked`)
      : event(endByMs, `${svids} SVIDs of it are in use, none longer than this; then it can be revoked`);
  return [revocation, leaves];
}
