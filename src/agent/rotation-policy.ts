import type { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { KeyType } from '../x509/signature.ts';
import { distrustedUrgency, isDistrusted } from './tainted-svids.ts';
import type { HeldSvid } from './workload-view.ts';

/** A part of a lifetime, as shares from 0 to 1 counted from issuance. */
export type RenewalWindow = readonly [from: number, to: number];

/** When SVIDs are renewed. The first window is wide because first SVIDs come in bulk and would all be due at once. */
export interface RenewalWindows {
  readonly first: RenewalWindow;
  readonly later: RenewalWindow;
}

/**
 * Draws the moment (Unix ms) from which an SVID is due for renewal, uniformly from its window. To be stored with the
 * SVID and never drawn again: repeated draws would pile up at the window's early end.
 */
export function drawRenewalMs(options: {
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
  readonly isFirst: boolean;
  readonly windows: RenewalWindows;
  /** From 0 up to 1. */
  readonly random?: () => number;
}): number {
  const { issuedAtMs, notAfterMs, isFirst, windows, random = Math.random } = options;
  const [from, to] = isFirst ? windows.first : windows.later;
  const lifetimeMs = Math.max(0, notAfterMs - issuedAtMs);
  return issuedAtMs + lifetimeMs * (from + (to - from) * random());
}

/**
 * `missing`: never signed, or expired; `changed`: the entry says something else now; `distrusted`: what signed it is
 * tainted, or gone from the bundle; `renewal`: its time has come.
 */
export type DueReason = 'missing' | 'changed' | 'distrusted' | 'renewal';

/** An SVID to be signed. */
export interface DueSvid {
  readonly entry: RegistrationEntry;
  readonly keyType: KeyType;
  readonly reason: DueReason;
}

/** What is known of the SVID of one entry with one kind of key. */
export interface SvidState {
  readonly entry: RegistrationEntry;
  readonly keyType: KeyType;
  /** True for another kind of key than the usual one. */
  readonly isVariant: boolean;
  readonly held: HeldSvid | undefined;
  /** Whether a connected workload is entitled to it. */
  readonly isWatched: boolean;
  /** How many connected workloads are. */
  readonly users: number;
}

/**
 * The SVIDs to sign now, most urgent first: those a workload waits for (variants, which some callers want several of,
 * behind), then those below an authority that `bundle` distrusts, the most used first, then by expiry, the earliest
 * first; last the ones that are only made in advance.
 */
export function dueSvids(
  states: Iterable<SvidState>,
  nowMs: number,
  bundle: Bundle | undefined,
): readonly DueSvid[] {
  const due: (DueSvid & { readonly urgency: number; readonly endMs: number })[] = [];
  for (const state of states) {
    const reason = dueReason(state, nowMs, bundle);
    if (reason === undefined) continue;
    const { entry, keyType, held } = state;
    const endMs = held?.svid.notAfterMs ?? 0;
    due.push({ entry, keyType, reason, urgency: urgencyOf(state, reason), endMs });
  }
  due.sort((a, b) => a.urgency - b.urgency || a.endMs - b.endMs);
  return due.map(({ entry, keyType, reason }) => ({ entry, keyType, reason }));
}

function dueReason(
  { entry, held, isWatched }: SvidState,
  nowMs: number,
  bundle: Bundle | undefined,
): DueReason | undefined {
  if (entry.storeSvid) return undefined;
  const isValid = held !== undefined && held.svid.notAfterMs > nowMs;
  // Also what nobody uses now: the authority cannot be revoked while it is there.
  if (isValid && isDistrusted(held.svid, bundle, nowMs)) return 'distrusted';
  if (entry.disableX509SvidPrefetch && !isWatched) return undefined;
  if (!isValid) return 'missing';
  if (saysSomethingElse(held.entry, entry)) return 'changed';
  return held.renewAtMs <= nowMs ? 'renewal' : undefined;
}

function urgencyOf({ held, isWatched, isVariant, users }: SvidState, reason: DueReason): number {
  if (reason === 'distrusted') return distrustedUrgency(users);
  if (reason !== 'missing' && held !== undefined) return held.svid.notAfterMs;
  if (!isWatched) return Number.MAX_SAFE_INTEGER;
  return isVariant ? 1 : 0;
}

/** Whether a certificate signed for `then` lacks something that `now` wants in it. */
function saysSomethingElse(then: RegistrationEntry, now: RegistrationEntry): boolean {
  if (then === now) return false;
  return (
    !then.spiffeId.equals(now.spiffeId) ||
    then.x509SvidTtlSeconds !== now.x509SvidTtlSeconds ||
    then.dnsNames.length !== now.dnsNames.length ||
    then.dnsNames.some((name, index) => name !== now.dnsNames[index])
  );
}
