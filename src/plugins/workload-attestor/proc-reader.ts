import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open, readFile, readlink, stat } from 'node:fs/promises';

/** What /proc/PID/status says of a process (proc_pid_status(5)). */
export interface ProcessStatus {
  readonly effectiveUid: number;
  readonly effectiveGid: number;
  /** Supplementary groups, in the kernel's order. */
  readonly groups: readonly number[];
}

/** Reads /proc/PID/status; throws the file system's error, or an Error when the file has another shape. */
export async function readProcessStatus(pid: number): Promise<ProcessStatus> {
  return parseProcessStatus(await readFile(`/proc/${pid}/status`, 'latin1'));
}

/** Parses the text of /proc/PID/status; throws an Error when a line that is needed is missing, doubled or odd. */
export function parseProcessStatus(text: string): ProcessStatus {
  const fields = new Map<string, string>();
  // At \n only, never with a multi-line regular expression: a process chooses its own name, and with a name of
  // "\rUid:\t0\t0\t0\t0" (the kernel escapes no \r) it would choose its uid too.
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon);
    if (colon === -1 || !neededFields.has(name)) continue;
    if (fields.has(name)) throw new Error(`two lines "${name}" in the status of the process`);
    fields.set(name, line.slice(colon + 1));
  }
  return {
    effectiveUid: effectiveId('Uid', fields),
    effectiveGid: effectiveId('Gid', fields),
    groups: numbers('Groups', fields),
  };
}

const neededFields: ReadonlySet<string> = new Set(['Uid', 'Gid', 'Groups']);

/** The four are: real, effective, saved, file system. */
function effectiveId(name: string, fields: ReadonlyMap<string, string>): number {
  const ids = numbers(name, fields);
  const effective = ids[1];
  if (ids.length !== 4 || effective === undefined) {
    throw new Error(`four ids were expected in line "${name}" of the status of the process`);
  }
  return effective;
}

function numbers(name: string, fields: ReadonlyMap<string, string>): readonly number[] {
  const text = fields.get(name);
  if (text === undefined) throw new Error(`no line "${name}" in the status of the process`);
  const words = text.split(/[\t ]/).filter((word) => word !== '');
  if (!words.every((word) => /^[0-9]{1,10}$/.test(word))) {
    throw new Error(`line "${name}" of the status of the process has something that is no number`);
  }
  return words.map(Number);
}

/** The program that a process runs, held open: one and the same file, even if the process goes on to another. */
export interface Program {
  readonly file: FileHandle;
  readonly facts: BigIntStats;
}

/** Not in Node's constants; the same on all Linux architectures that Node runs on (open(2)). */
const O_PATH = 0o10_000_000;

/**
 * Opens the program of a process through /proc/PID/exe: right also inside containers and after a deletion. To be
 * read, or only to be looked at, which works for programs that nobody may read.
 */
export async function openProgram(pid: number, purpose: 'read' | 'look'): Promise<Program> {
  const file = await open(`/proc/${pid}/exe`, purpose === 'read' ? constants.O_RDONLY : O_PATH);
  try {
    return { file, facts: await file.stat({ bigint: true }) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The facts of the file that the process runs right now. */
export function statProgram(pid: number): Promise<BigIntStats> {
  return stat(`/proc/${pid}/exe`, { bigint: true });
}

/** Equal for the same content: a file cannot be written while it runs, and no program can set a ctime. */
export function fingerprintOf(facts: BigIntStats): string {
  return [facts.dev, facts.ino, facts.mtimeNs, facts.ctimeNs, facts.size].join(':');
}

/**
 * Equal while a process runs the same program. Without ctime: a running file cannot be written, but anybody may link
 * it, and an upgrade unlinks it, and neither makes it another program.
 */
export function runningProgramOf(facts: BigIntStats): string {
  return [facts.dev, facts.ino, facts.mtimeNs, facts.size].join(':');
}

/**
 * The path of an open program, or undefined when that path leads to another file, or to none, in the agent's own
 * root. The kernel tells the path as of the mount namespace of the process, and any user can make one (in a user
 * namespace) where a file of theirs is mounted over `/usr/bin/envoy`. So programs of containers, whose files are
 * their own, have no path; nor have those whose file was deleted or replaced, or whose path is not UTF-8.
 */
export async function findProgramPath({ file, facts }: Program): Promise<string | undefined> {
  // Of our own descriptor: /proc/PID/exe may have become another program since it was opened.
  const bytes = await readlink(`/proc/self/fd/${file.fd}`, 'buffer');
  const path = bytes.toString('utf8');
  if (!path.startsWith('/') || !Buffer.from(path).equals(bytes)) return undefined;
  const own = await stat(path, { bigint: true }).catch(() => undefined);
  return own?.dev === facts.dev && own.ino === facts.ino ? path : undefined;
}
