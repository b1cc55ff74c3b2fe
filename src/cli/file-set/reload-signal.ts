import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { AppError, isAppError } from '../../runtime/error.ts';
import { errnoOf, failureReason } from './file-system.ts';
import type { Reload } from './reload.ts';

/** What programs take as "read your files again", or at least survive being told once. */
export const reloadSignals = ['HUP', 'INT', 'QUIT', 'TERM', 'USR1', 'USR2', 'WINCH'] as const;
export type ReloadSignal = (typeof reloadSignals)[number];

/** Whom to signal: a fixed process, or the one whose PID is in a file at the time. */
export type SignalTarget = { readonly pid: number } | { readonly pidFile: string };

const maxPidFileBytes = 4096;

/** Sends a signal to a process. */
export function signalReload(signal: ReloadSignal, target: SignalTarget): Reload {
  return {
    name: `signal ${signal}`,
    async run() {
      send(signal, 'pid' in target ? target.pid : await pidFromFile(target.pidFile));
    },
  };
}

/** Parses a PID; throws `invalid-argument` for what is none, and for this very process. */
export function parsePid(text: string): number {
  const pid = /^[1-9]\d{0,9}$/.test(text) ? Number(text) : 0;
  if (pid < 1 || pid > 2 ** 22)
    throw new AppError('invalid-argument', `expected a process ID, got ${JSON.stringify(text)}`);
  if (pid === process.pid) throw new AppError('invalid-argument', `process ${pid} is this one`);
  return pid;
}

function send(signal: ReloadSignal, pid: number): void {
  try {
    process.kill(pid, `SIG${signal}`);
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') throw new AppError('not-found', `there is no process ${pid}`);
    const hint = errnoOf(error) === 'EPERM' ? '; run this command as the same user, or as root' : '';
    throw new AppError(
      'failed-precondition',
      `cannot send SIG${signal} to process ${pid}: ${failureReason(error)}${hint}`,
    );
  }
}

/** The first line counts: PostgreSQL writes more than its PID. */
async function pidFromFile(path: string): Promise<number> {
  const { text, uid } = await readPidFile(path);
  const pid = pidIn(text.split('\n')[0]?.trim() ?? '', path);
  await requireSameUser(pid, uid, path);
  return pid;
}

async function readPidFile(path: string): Promise<{ readonly text: string; readonly uid: number }> {
  try {
    // Not through a link: a user's could lead root to the PID file of another. Without O_NONBLOCK, opening a FIFO put
    // in its place would hang for ever.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    try {
      const found = await file.stat();
      if (!found.isFile()) throw refused(path, 'it is not a regular file');
      if ((found.mode & 0o022) !== 0)
        throw refused(path, 'others than its owner can write it; run: chmod go-w');
      const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(maxPidFileBytes), position: 0 });
      return { text: buffer.toString('latin1', 0, bytesRead), uid: found.uid };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isAppError(error)) throw error;
    if (errnoOf(error) === 'ENOENT') throw new AppError('not-found', `there is no PID file "${path}"`);
    if (errnoOf(error) === 'ELOOP') throw refused(path, 'it is a link; name the file that it leads to');
    throw refused(path, failureReason(error));
  }
}

function pidIn(line: string, path: string): number {
  // It may be about to be written.
  if (line === '') throw new AppError('not-found', `the PID file "${path}" is empty`);
  try {
    return parsePid(line);
  } catch (error) {
    // Its text would quote the line, and the file may not be one of PIDs at all but one of secrets.
    const why =
      line === String(process.pid) ? 'it names this very process' : 'its first line is no process ID';
    throw isAppError(error) ? refused(path, why) : error;
  }
}

/** A user's file must not make root signal a process that is not that user's, as systemd has it for PIDFile=. */
async function requireSameUser(pid: number, fileUid: number, path: string): Promise<void> {
  if (fileUid === 0 || fileUid === process.geteuid?.()) return;
  const owner = await stat(`/proc/${pid}`).catch(() => undefined);
  if (owner === undefined) throw new AppError('not-found', `there is no process ${pid}`);
  if (owner.uid === fileUid) return;
  throw refused(path, `it belongs to uid ${fileUid} and names process ${pid} of uid ${owner.uid}`);
}

function refused(path: string, why: string): AppError {
  return new AppError('failed-precondition', `cannot use the PID file "${path}": ${why}`);
}
