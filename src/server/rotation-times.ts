import { AppError } from '../runtime/error.ts';

const dayMs = 86_400_000;

/** When a successor is made and takes over, counted back from the end of a certificate. */
export interface RotationTimes {
  /** At most half of its life. */
  readonly prepareBeforeMs: number;
  /** At most a sixth of its life. */
  readonly activateBeforeMs: number;
  /** Of what it signs: the successor takes over by force before the certificate is too short for it. */
  readonly longestTtlMs: number;
}

/** SPIRE's. */
export const usualTimes: RotationTimes = {
  prepareBeforeMs: 30 * dayMs,
  activateBeforeMs: 7 * dayMs,
  longestTtlMs: 0,
};

/** What settings say of it. Milliseconds. */
interface ChosenTimes {
  readonly prepareBefore?: number | undefined;
  readonly activateBefore?: number | undefined;
}

/** A certificate that signs others: the name of the setting with its lifetime, and when it is replaced. */
interface Issuer extends ChosenTimes {
  readonly name: string;
  readonly ttlMs: number;
}

/** The times that were chosen, else those that leave room for what is signed. */
export function timesOf({ prepareBefore, activateBefore }: ChosenTimes, longestTtlMs: number): RotationTimes {
  const activateBeforeMs = activateBefore ?? Math.max(usualTimes.activateBeforeMs, longestTtlMs);
  const prepareBeforeMs = prepareBefore ?? Math.max(usualTimes.prepareBeforeMs, 2 * activateBeforeMs);
  return { prepareBeforeMs, activateBeforeMs, longestTtlMs };
}

/**
 * Refuses a lifetime that could not be kept until the issuer's successor takes over, when a sixth of its life is left
 * or as chosen: what is signed until then must end before it. Throws `invalid-argument` with the arithmetic.
 */
export function requireRoom(where: string, ttlMs: number, issuer: Issuer): void {
  const { name, activateBefore } = issuer;
  if (ttlMs * 6 > issuer.ttlMs) {
    const needed = `6 × ${ttlMs / 1000} = ${(ttlMs * 6) / 1000} s`;
    throw refusal(
      `${where}: ${ttlMs / 1000} s needs a ${name} of at least ${needed}; ${name} is ${issuer.ttlMs / 1000} s`,
    );
  }
  if (activateBefore === undefined || ttlMs <= activateBefore) return;
  throw refusal(
    `${where}: ${ttlMs / 1000} s needs an activateBefore of at least ${ttlMs / 1000} s; it is ${activateBefore / 1000} s`,
  );
}

/** Refuses times that do not fit into the life of the certificate, or not behind each other; as `requireRoom`. */
export function requireOrder(where: string, issuer: Issuer): void {
  const { name, ttlMs, prepareBefore, activateBefore } = issuer;
  const limits = [
    ['prepareBefore', prepareBefore, 2],
    ['activateBefore', activateBefore, 6],
  ] as const;
  for (const [setting, beforeMs, share] of limits) {
    if (beforeMs === undefined || beforeMs * share <= ttlMs) continue;
    const needed = `${share} × ${beforeMs / 1000} = ${(beforeMs * share) / 1000} s`;
    throw refusal(
      `${where}.${setting}: ${beforeMs / 1000} s needs a ${name} of at least ${needed}; ${name} is ${ttlMs / 1000} s`,
    );
  }
  const takeoverMs = Math.min(ttlMs / 6, activateBefore ?? usualTimes.activateBeforeMs);
  if (prepareBefore === undefined || prepareBefore > takeoverMs) return;
  throw refusal(
    `${where}.prepareBefore: ${prepareBefore / 1000} s is not before the takeover, ${takeoverMs / 1000} s before the end`,
  );
}

function refusal(message: string): AppError {
  return new AppError('invalid-argument', message);
}
