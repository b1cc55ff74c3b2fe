import type { AuthorityRecord } from '../../plugin-api/data-store.ts';
import { type RotationTimes, usualTimes } from '../rotation-times.ts';

const dayMs = 86_400_000;

/** When a signing certificate's successor is made, takes over, and must have taken over. Unix ms. */
export interface Timeline {
  readonly prepareAtMs: number;
  readonly activateAtMs: number;
  /** From here on the successor takes over even if some agents are not known to have it in their bundle. */
  readonly forceAtMs: number;
  readonly expiresAtMs: number;
}

/**
 * The timeline of one CA certificate: its successor is prepared at half of its life (at most 30 days before the
 * end), takes over when a sixth is left (at most 7 days), and by force at half of that, or as soon as what is signed
 * would outlive it.
 */
export function timelineOf(
  certificate: { readonly notBeforeMs: number; readonly notAfterMs: number },
  times: RotationTimes = usualTimes,
): Timeline {
  const { notBeforeMs, notAfterMs } = certificate;
  const lifetime = notAfterMs - notBeforeMs;
  const activateBefore = Math.min(lifetime / 6, times.activateBeforeMs);
  return {
    prepareAtMs: notAfterMs - Math.min(lifetime / 2, times.prepareBeforeMs),
    activateAtMs: notAfterMs - activateBefore,
    forceAtMs: notAfterMs - Math.min(activateBefore, Math.max(activateBefore / 2, times.longestTtlMs)),
    expiresAtMs: notAfterMs,
  };
}

/**
 * When an expired root leaves journal and bundle: a day after its end, or its own lifetime when that is shorter, so
 * that a clock that runs ahead for a while costs nothing.
 */
export function forgottenAtMs(root: { readonly notBeforeMs: number; readonly notAfterMs: number }): number {
  return root.notAfterMs + Math.min(dayMs, root.notAfterMs - root.notBeforeMs);
}

/** Whether that moment is over. */
export function isForgotten(
  root: { readonly notBeforeMs: number; readonly notAfterMs: number },
  nowMs: number,
): boolean {
  return nowMs > forgottenAtMs(root);
}

/** The authorities of each state that can really sign; of several, the one that lasts longest. */
export interface UsableAuthorities {
  readonly active: AuthorityRecord | undefined;
  readonly prepared: AuthorityRecord | undefined;
  readonly old: AuthorityRecord | undefined;
}

/**
 * Picks those whose key is at hand and whose time it is. One from the future was made while the clock was ahead: it
 * counts once its time has come, and until then no peer would accept what it signs.
 */
export function usableAuthorities(
  journal: readonly AuthorityRecord[],
  keys: { has(id: string): boolean },
  nowMs: number,
): UsableAuthorities {
  const usable = journal
    .filter(
      ({ id, certificate }) =>
        keys.has(id) && certificate.notBeforeMs <= nowMs && nowMs < certificate.notAfterMs,
    )
    .sort((a, b) => b.certificate.notAfterMs - a.certificate.notAfterMs);
  const find = (state: AuthorityRecord['state']) => usable.find((record) => record.state === state);
  return { active: find('active'), prepared: find('prepared'), old: find('old') };
}

/** The next step that the journal owes, if any. */
export type RotationStep =
  | { readonly kind: 'none' | 'prepare' | 'prepare-and-activate' }
  | { readonly kind: 'activate' | 'activate-by-force'; readonly prepared: AuthorityRecord }
  | { readonly kind: 'reactivate'; readonly old: AuthorityRecord };

/**
 * Decides the next step; pure. Without a usable active authority nothing can be signed, so another takes over at
 * once: the successor, else an old one, whose root all peers still hold, else a new one.
 */
export function nextStep(
  { active, prepared, old }: UsableAuthorities,
  nowMs: number,
  times: RotationTimes = usualTimes,
): RotationStep {
  if (active === undefined) {
    if (prepared !== undefined) return { kind: 'activate-by-force', prepared };
    return old === undefined ? { kind: 'prepare-and-activate' } : { kind: 'reactivate', old };
  }
  const timeline = timelineOf(active.certificate, times);
  if (prepared === undefined) return { kind: nowMs >= timeline.prepareAtMs ? 'prepare' : 'none' };
  if (nowMs >= timeline.forceAtMs) return { kind: 'activate-by-force', prepared };
  return nowMs >= timeline.activateAtMs ? { kind: 'activate', prepared } : { kind: 'none' };
}
