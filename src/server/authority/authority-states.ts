import type { AuthorityRecord } from '../../plugin-api/data-store.ts';

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
 * The timeline of one signing certificate: its successor is prepared at half of its life (at most 30 days before
 * the end), takes over when a sixth is left (at most 7 days), and by force when a twelfth is left.
 */
export function timelineOf(certificate: { notBeforeMs: number; notAfterMs: number }): Timeline {
  const lifetime = certificate.notAfterMs - certificate.notBeforeMs;
  return {
    prepareAtMs: certificate.notAfterMs - Math.min(lifetime / 2, 30 * dayMs),
    activateAtMs: certificate.notAfterMs - Math.min(lifetime / 6, 7 * dayMs),
    forceAtMs: certificate.notAfterMs - Math.min(lifetime / 12, 3.5 * dayMs),
    expiresAtMs: certificate.notAfterMs,
  };
}

/** The active and the prepared authority that can really sign: their key is at hand and their time is not over. */
export function usableAuthorities(
  journal: readonly AuthorityRecord[],
  keys: { has(id: string): boolean },
  nowMs: number,
): { readonly active: AuthorityRecord | undefined; readonly prepared: AuthorityRecord | undefined } {
  const find = (state: AuthorityRecord['state']) =>
    journal.find((r) => r.state === state && keys.has(r.id) && r.certificate.notAfterMs > nowMs);
  return { active: find('active'), prepared: find('prepared') };
}

/** The next step that the journal owes, if any. */
export type RotationStep =
  | { readonly kind: 'none' | 'prepare' | 'prepare-and-activate' }
  | { readonly kind: 'activate' | 'activate-by-force'; readonly prepared: AuthorityRecord };

/**
 * Decides the next step; pure. Without a usable active authority nothing can be signed, so the successor takes over
 * at once.
 */
export function nextStep(
  { active, prepared }: ReturnType<typeof usableAuthorities>,
  nowMs: number,
): RotationStep {
  if (active === undefined) {
    return prepared === undefined
      ? { kind: 'prepare-and-activate' }
      : { kind: 'activate-by-force', prepared };
  }
  const timeline = timelineOf(active.certificate);
  if (prepared === undefined) return { kind: nowMs >= timeline.prepareAtMs ? 'prepare' : 'none' };
  if (nowMs >= timeline.forceAtMs) return { kind: 'activate-by-force', prepared };
  return nowMs >= timeline.activateAtMs ? { kind: 'activate', prepared } : { kind: 'none' };
}
