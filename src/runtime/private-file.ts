import { randomBytes } from 'node:crypto';
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { type FileHandle, mkdir, open, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AppError } from './error.ts';
import { nativeAddon } from './native.ts';

/** Permission bits of everybody but the owner. */
const othersMask = 0o077;

/**
 * Makes `path` a directory that only this user can enter (0700), with its parents as they come. One that exists and
 * is open to others, or that belongs to another user, is refused (`failed-precondition`) with the command that helps.
 */
export async function ensurePrivateDirectory(path: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
    await mkdir(path, { mode: 0o700 });
  } catch (cause) {
    if (codeOf(cause) !== 'EEXIST') throw unusable(`cannot create directory "${path}"`, cause);
  }
  const found = await stat(path).catch((cause: unknown) => {
    throw unusable(`cannot use directory "${path}"`, cause);
  });
  if (!found.isDirectory()) throw unusable(`"${path}" must be a directory`);
  const uid = process.geteuid?.() ?? found.uid;
  if (found.uid !== uid) {
    const fix = `chown ${uid} ${shellWord(path)}`;
    throw unusable(`directory "${path}" belongs to uid ${found.uid} and this is uid ${uid}; run: ${fix}`);
  }
  if ((found.mode & othersMask) !== 0) throw unusable(openToOthers('directory', path, found.mode, '700'));
}

/**
 * Replaces the file at `path` as a whole: after a crash at any moment it holds the old or the new data, and once
 * this resolves the new data is on the disk. A crash may leave a file `.NAME.*.tmp` behind, which nothing reads.
 */
export async function writePrivateFile(path: string, data: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(8).toString('hex')}.tmp`);
  try {
    const file = await open(temporary, 'wx', mode);
    try {
      // The mode given to open() is cut by the umask.
      await file.chmod(mode);
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (cause) {
    await unlink(temporary).catch(() => undefined);
    throw unusable(`cannot write "${path}"`, cause);
  }
}

/** The file's content, or undefined when there is none; refuses one that others can read or write. */
export async function readPrivateFile(path: string): Promise<Buffer | undefined> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK, opening a FIFO put in place of the file would hang for ever.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') return undefined;
    throw unusable(`cannot read "${path}"`, cause);
  }
  try {
    // Asked of the open file, not of its name: the name may mean another file a moment later.
    const found = await file.stat();
    if (!found.isFile()) throw unusable(`"${path}" must be a regular file`);
    if ((found.mode & othersMask) !== 0) throw unusable(openToOthers('file', path, found.mode, '600'));
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/** Held until `release()`, or until the process is gone. */
export interface DirectoryLock {
  release(): Promise<void>;
}

/**
 * Takes the directory for this process by flock on `PATH/lock`; when another holds it, throws
 * `failed-precondition` with that process's PID. The file itself means nothing and stays. `shown` is the directory's
 * name in errors.
 */
export async function lockDirectory(path: string, shown = path): Promise<DirectoryLock> {
  const lockPath = join(path, 'lock');
  // A bare descriptor: a FileHandle would be closed by the garbage collector, and the lock would go with it.
  const fd = openLockFile(lockPath, shown);
  try {
    if (!nativeAddon().lockFile(fd)) throw unusable(`"${shown}" is in use by ${holderOf(lockPath)}`);
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid}\n`, 0);
  } catch (error) {
    closeSync(fd);
    throw error instanceof AppError ? error : unusable(`cannot lock "${join(shown, 'lock')}"`, error);
  }
  let isHeld = true;
  return {
    async release() {
      // Once only: the number may be another file's by the second call.
      if (isHeld) closeSync(fd);
      isHeld = false;
    },
  };
}

function openLockFile(lockPath: string, shown: string): number {
  try {
    return openSync(lockPath, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  } catch (cause) {
    throw unusable(`cannot lock "${join(shown, 'lock')}"`, cause);
  }
}

function holderOf(lockPath: string): string {
  const pid = readFileSync(lockPath, 'utf8').trim();
  return /^\d+$/.test(pid) ? `process ${pid}` : 'another process';
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function openToOthers(what: string, path: string, mode: number, wanted: string): string {
  const found = (mode & 0o7777).toString(8).padStart(4, '0');
  return `${what} "${path}" is open to others (mode ${found}); run: chmod ${wanted} ${shellWord(path)}`;
}

function shellWord(text: string): string {
  return /^[\w./@+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function codeOf(error: unknown): unknown {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
}

function unusable(message: string, cause?: unknown): AppError {
  return new AppError('failed-precondition', message, { cause });
}
