import { type ChildProcess, spawn } from 'node:child_process';
import { basename } from 'node:path';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import { failureReason } from './file-system.ts';
import type { Reload } from './reload.ts';

/** Between SIGTERM and SIGKILL for a command that takes too long. */
const killAfterMs = 5_000;

interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What to run: no shell looks at it. */
export interface CommandLine {
  readonly command: string;
  readonly args: readonly string[];
  /** Then it is ended with everything it has started. */
  readonly timeoutMs: number;
}

/** Runs a command and waits for its end; what it prints goes to stderr. Any end but exit code 0 is a failure. */
export function commandReload(line: CommandLine, clock: Clock): Reload {
  const name = `command ${basename(line.command)}`;
  return {
    name,
    async run(signal) {
      const child = start(line);
      const exited = ending(child);
      const over = new AbortController();
      const late = clock
        .sleep(line.timeoutMs, AbortSignal.any([signal, over.signal]))
        .then(() => 'late' as const);
      try {
        const first = await Promise.race([exited, late]);
        if (first !== 'late') return requireSuccess(name, first);
      } finally {
        over.abort();
      }
      await end(child, exited, clock);
      throw signal.aborted
        ? new AppError('cancelled', `${name} was ended with this command`)
        : new AppError(
            'deadline-exceeded',
            `${name} took longer than ${line.timeoutMs / 1000} s and was ended`,
          );
    },
  };
}

function start({ command, args }: CommandLine): ChildProcess {
  // A process group of its own, so that a timeout also ends what a script has started; stdout is for our results.
  return spawn(command, args, { detached: true, stdio: ['ignore', 2, 2] });
}

function ending(child: ChildProcess): Promise<Ending | Error> {
  return new Promise((resolve) => {
    child.once('error', resolve);
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
}

function requireSuccess(name: string, ending: Ending | Error): void {
  if (ending instanceof Error) {
    throw new AppError('failed-precondition', `cannot run ${name}: ${reasonOf(ending)}`);
  }
  if (ending.code === 0) return;
  const how = ending.signal === null ? `exit code ${ending.code}` : `ended by ${ending.signal}`;
  throw new AppError('failed-precondition', `${name} failed: ${how}`);
}

function reasonOf(error: Error): string {
  return 'code' in error && error.code === 'ENOENT' ? 'there is no such program' : failureReason(error);
}

async function end(child: ChildProcess, exited: Promise<unknown>, clock: Clock): Promise<void> {
  killGroup(child, 'SIGTERM');
  const over = new AbortController();
  const isLate = clock.sleep(killAfterMs, over.signal).then(() => true);
  if (await Promise.race([exited.then(() => false), isLate])) killGroup(child, 'SIGKILL');
  over.abort();
  await exited;
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // Gone already.
  }
}
