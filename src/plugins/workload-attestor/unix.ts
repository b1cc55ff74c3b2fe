import type { PeerProcess, WorkloadAttestor } from '../../plugin-api/workload-attestor.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Selector } from '../../spiffe/selector.ts';
import { AccountFile } from './passwd-file.ts';
import {
  findProgramPath,
  openProgram,
  type ProcessStatus,
  type Program,
  readProcessStatus,
  runningProgramOf,
  statProgram,
} from './proc-reader.ts';
import { ProgramHashes } from './program-hash.ts';
import type { UnixConfig } from './unix-config.ts';

interface Deps {
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * What Linux knows of a process, in SPIRE's words: `unix:uid`, `user`, `gid`, `group`, `supplementary_gid`,
 * `supplementary_group`, `path`, `sha256`. uid and gid are those that the kernel noted for the socket; all else is
 * read from /proc/PID first, and only then is it asked whether the process still lives: if it does, the PID was its
 * own all the time. What cannot be read refuses the caller. `path` is of files that the agent itself sees at that very
 * path: a program has none inside a container with files of its own, nor after its file was deleted or replaced. It
 * keeps its `sha256`, of what runs.
 */
export class UnixWorkloadAttestor implements WorkloadAttestor {
  readonly #config: UnixConfig;
  readonly #users = new AccountFile('passwd');
  readonly #groups = new AccountFile('group');
  readonly #hashes: ProgramHashes;

  constructor(deps: Deps, config: UnixConfig) {
    this.#config = config;
    this.#hashes = new ProgramHashes(deps, { maxBytes: config.maxExecutableBytes });
  }

  /** Throws `permission-denied`, with a reason, for a caller that is refused. */
  async attest(
    peer: PeerProcess,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<readonly Selector[]> {
    const { program, groups } = await readingOf(peer, async () => {
      // The program first: an exec() to a setuid program between the two shows in the ids read last.
      const selectors = await this.#programSelectors(peer, signal);
      const status = await readProcessStatus(peer.pid);
      refuseOtherIds(peer, status);
      return { program: selectors, groups: status.groups };
    });
    return [...(await this.#accountSelectors(peer, groups)), ...program].map((value) => ({
      type: 'unix',
      value,
    }));
  }

  /** Throws `permission-denied` when the program cannot be seen or the process has exited. */
  async programFingerprint(peer: PeerProcess): Promise<string> {
    return readingOf(peer, async () => runningProgramOf(await statProgram(peer.pid)));
  }

  async #accountSelectors(peer: PeerProcess, groups: readonly number[]): Promise<readonly string[]> {
    const [userNames, groupNames] = await Promise.all([this.#users.names(), this.#groups.names()]);
    const values = [
      ...idAndName('uid', peer.uid, 'user', userNames),
      ...idAndName('gid', peer.gid, 'group', groupNames),
      ...groups.flatMap((gid) => idAndName('supplementary_gid', gid, 'supplementary_group', groupNames)),
    ];
    return [...new Set(values)];
  }

  /** Path and hash of one and the same program: a process that went on to another one meanwhile is refused. */
  async #programSelectors({ pid, uid }: PeerProcess, signal: AbortSignal): Promise<readonly string[]> {
    const program = await openProgram(pid, this.#config.hashExecutable ? 'read' : 'look');
    const path = await findProgramPath(program).catch(async (error: unknown) => {
      await program.file.close();
      throw error;
    });
    const hash = await this.#hashOf(program, uid, signal);
    if (runningProgramOf(await statProgram(pid)) !== runningProgramOf(program.facts)) {
      throw refused('PROGRAM_CHANGED', `the program of process ${pid} changed while it was attested`);
    }
    return [
      ...(path === undefined ? [] : [`path:${path}`]),
      ...(hash === undefined ? [] : [`sha256:${hash}`]),
    ];
  }

  /** Closes the file. A hash goes on for others who wait for it when this caller has gone. */
  async #hashOf(program: Program, uid: number, signal: AbortSignal): Promise<string | undefined> {
    if (!this.#config.hashExecutable) {
      await program.file.close();
      return undefined;
    }
    return unlessAborted(this.#hashes.hash(program, uid), signal);
  }
}

/** The result of `work`, or a `cancelled` error as soon as `signal` aborts; `work` is left to end by itself. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(new AppError('cancelled', 'the caller went away while it was attested'));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

function idAndName(
  idKey: string,
  id: number,
  nameKey: string,
  names: ReadonlyMap<number, string>,
): readonly string[] {
  const name = names.get(id);
  return name === undefined ? [`${idKey}:${id}`] : [`${idKey}:${id}`, `${nameKey}:${name}`];
}

/** Runs `read` on /proc/PID and then makes sure that all it read was the peer's. */
async function readingOf<T>(peer: PeerProcess, read: () => Promise<T>): Promise<T> {
  const { pid } = peer;
  if (!Number.isInteger(pid) || pid <= 0) {
    throw refused(
      'PROCESS_UNKNOWN',
      `the caller has PID ${pid}: it runs in a PID namespace the agent cannot see`,
    );
  }
  let result: T;
  try {
    result = await read();
  } catch (error) {
    // If it has exited, that is the reason, whatever was found in its place.
    throw peer.isAlive() ? unreadable(pid, error) : exited(pid);
  }
  if (!peer.isAlive()) throw exited(pid);
  return result;
}

/**
 * A setuid or setgid program that was given the socket by another user is neither of the two: its uid would be the
 * one's and its path the other's.
 */
function refuseOtherIds({ pid, uid, gid }: PeerProcess, status: ProcessStatus): void {
  if (status.effectiveUid === uid && status.effectiveGid === gid) return;
  throw refused(
    'OTHER_EFFECTIVE_IDS',
    `process ${pid} connected as uid ${uid}, gid ${gid}, but runs as uid ${status.effectiveUid}, ` +
      `gid ${status.effectiveGid}: setuid and setgid programs get no identity`,
  );
}

function unreadable(pid: number, error: unknown): AppError {
  if (error instanceof AppError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const why =
    code === 'EACCES' || code === 'EPERM'
      ? 'the agent may not read it; it needs CAP_SYS_PTRACE, or to run as the same user'
      : code === 'ENOENT'
        ? 'it has no program file, as kernel threads and processes about to exit have none'
        : 'reading /proc failed';
  return new AppError('permission-denied', `process ${pid} cannot be attested: ${why}`, {
    reason: 'PROCESS_UNREADABLE',
    cause: error,
  });
}

function exited(pid: number): AppError {
  return refused('PROCESS_EXITED', `process ${pid} exited before it was attested`);
}

function refused(reason: string, message: string): AppError {
  return new AppError('permission-denied', message, { reason });
}
