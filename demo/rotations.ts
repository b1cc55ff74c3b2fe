import { setTimeout as sleep } from 'node:timers/promises';
import { type Mesh, type Party, svidLifetimeSeconds, type Traffic } from './mesh.ts';
import type { Terminal } from './terminal.ts';

/** One that holds an SVID, as it was when last looked at. */
interface Watched {
  readonly party: Party;
  serial: string;
  rotations: number;
  changedAt: number;
  /** Says how many requests there were since it was called last. */
  readonly requests: () => string;
}

/** How long an SVID may stay the same before the demo has failed: then it has expired. */
const patienceMs = svidLifetimeSeconds * 1_000;
const intervalMs = 200;

/**
 * Prints each certificate that is replaced by the next and each request that fails, until `signal` aborts or every
 * party has got `goal` new ones. Returns how many there were in all; throws when one is not replaced in time.
 */
export async function watchRotations(
  mesh: Mesh,
  traffic: Traffic,
  options: {
    readonly goal: number;
    readonly terminal: Terminal;
    readonly signal: AbortSignal;
    /** Called all the time; throws when something has ended that should run. */
    readonly check: () => void;
  },
): Promise<number> {
  const { goal, terminal, signal, check } = options;
  const watched = await Promise.all(mesh.parties.map((party) => firstLook(party, traffic)));
  const failures = failuresSince(traffic);
  while (!signal.aborted && watched.some(({ rotations }) => rotations < goal)) {
    check();
    for (const one of watched) {
      const before = one.serial;
      if (!(await lookAgain(one))) continue;
      terminal.good(
        'rotated',
        `${one.party.name.padEnd(8)}  ${short(before)} → ${short(one.serial)}  ${one.requests()}`,
      );
    }
    for (const line of failures()) terminal.bad('failed', line);
    await sleep(intervalMs, undefined, { signal }).catch(() => undefined);
  }
  return watched.reduce((sum, { rotations }) => sum + rotations, 0);
}

async function firstLook(party: Party, traffic: Traffic): Promise<Watched> {
  const serial = await party.serial();
  if (serial === undefined) throw new Error(`${party.name} has no certificate`);
  return { party, serial, rotations: 0, changedAt: performance.now(), requests: countSince(traffic) };
}

/** True when there is another certificate than before. */
async function lookAgain(one: Watched): Promise<boolean> {
  const serial = await one.party.serial();
  const now = performance.now();
  if (serial === undefined || serial === one.serial) {
    if (now - one.changedAt < patienceMs) return false;
    throw new Error(
      `the certificate of ${one.party.name} was not replaced within its ${patienceMs / 1_000} s`,
    );
  }
  Object.assign(one, { serial, rotations: one.rotations + 1, changedAt: now });
  return true;
}

function countSince(traffic: Traffic): () => string {
  let seen = { succeeded: 0, failed: 0 };
  return () => {
    const now = { succeeded: traffic.succeeded, failed: traffic.failures.length };
    const failed = now.failed - seen.failed;
    const count = now.succeeded - seen.succeeded + failed;
    seen = now;
    return `${String(count).padStart(4)} requests since, ${failed} failed`;
  };
}

/** A function that tells of the failures since it did so last: at most once a second, for each may fail. */
function failuresSince(traffic: Traffic): () => readonly string[] {
  let seen = 0;
  let toldAt = 0;
  return () => {
    const [first, ...more] = traffic.failures.slice(seen);
    if (first === undefined || performance.now() - toldAt < 1_000) return [];
    seen += 1 + more.length;
    toldAt = performance.now();
    const others = more.length === 0 ? '' : ` (and ${more.length} more)`;
    return [`a request: ${first.reason.trim()}${others}`];
  };
}

/** The beginning of a serial number: enough to tell one from the next. */
function short(serial: string): string {
  return `${serial.slice(0, 8)}…`;
}
