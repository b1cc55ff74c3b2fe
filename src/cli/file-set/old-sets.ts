import { randomBytes } from 'node:crypto';

/** For how long a set that was replaced stays: whoever resolved `current` just before can still open all of it. */
export const keepReplacedMs = 60_000;

const nameForm = /^set-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})Z-[0-9a-f]{8}$/;

/** A new name for a set's directory; names sort by time. */
export function newSetName(nowMs: number): string {
  const time = new Date(nowMs).toISOString().replaceAll(/[-:.]/g, '');
  return `set-${time}-${randomBytes(4).toString('hex')}`;
}

/** True for a name that `newSetName` may have made. */
export function isSetName(name: string): boolean {
  return nameForm.test(name);
}

/**
 * The sets to remove now: those that are not current and were replaced, or left half-written by a crash, long enough
 * ago. One from the future was made before the clock was set back: it goes too, or it might stay for ever.
 */
export function setsToRemove(
  names: readonly string[],
  current: string | undefined,
  nowMs: number,
): readonly string[] {
  const sets = names.filter(isSetName).sort();
  return sets.filter((name, index) => {
    if (name === current) return false;
    const replacedAtMs = madeAtMs(sets[index + 1] ?? name);
    return Math.abs(nowMs - replacedAtMs) >= keepReplacedMs;
  });
}

function madeAtMs(name: string): number {
  const [, year, month, day, hour, minute, second, ms] = nameForm.exec(name) ?? [];
  return Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}.${ms}Z`);
}
