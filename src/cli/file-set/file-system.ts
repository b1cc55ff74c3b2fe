import { closeSync, constants, fstatSync, lstatSync, openSync } from 'node:fs';
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
  unlink,
} from 'node:fs/promises';

/** Numeric user and group; -1 leaves one as it is. */
export interface FileOwner {
  readonly uid: number;
  readonly gid: number;
}

/** What is at a path, without following it. */
export type PathContent = { readonly link: string } | 'nothing' | 'something else';

/** The steps on a file system that sets of files are made of. Each throws Node's errors. */
export interface FileSystem {
  makeDirectory(path: string, mode: number): Promise<void>;
  /** Of a directory. */
  setMode(path: string, mode: number): Promise<void>;
  /** A new file, on the disk when this resolves; never one that is there, never through a link. */
  writeNewFile(
    path: string,
    content: string,
    as: { readonly mode: number; readonly owner: FileOwner | undefined },
  ): Promise<void>;
  /** Brings the names in a directory to the disk. */
  syncDirectory(path: string): Promise<void>;
  makeLink(target: string, path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or link; one that is not there is no error. */
  removeLink(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
  list(path: string): Promise<readonly string[]>;
  look(path: string): Promise<PathContent>;
}

/** The real one. */
export const nodeFileSystem: FileSystem = {
  async makeDirectory(path, mode) {
    await mkdir(path, { mode });
    // What mkdir is given is cut by the umask.
    await this.setMode(path, mode);
  },
  setMode: (path, mode) => inDirectory(path, (directory) => directory.chmod(mode)),
  async writeNewFile(path, content, { mode, owner }) {
    const file = await open(path, 'wx', 0o600);
    try {
      if (owner !== undefined) await file.chown(owner.uid, owner.gid);
      await file.chmod(mode);
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
  },
  syncDirectory: (path) => inDirectory(path, (directory) => directory.sync()),
  makeLink: (target, path) => symlink(target, path),
  rename,
  async removeLink(path) {
    try {
      await unlink(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  },
  removeDirectory: (path) => rm(path, { recursive: true, force: true }),
  list: (path) => readdir(path),
  async look(path) {
    try {
      return { link: await readlink(path) };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return 'nothing';
      if (errnoOf(error) === 'EINVAL') return 'something else';
      throw error;
    }
  },
};

/** Never through a link: whoever can write the directory above could put one there to have root change another file. */
async function inDirectory(path: string, act: (directory: FileHandle) => Promise<void>): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    await act(directory);
  } finally {
    await directory.close();
  }
}

/**
 * A directory that is held open. Whoever owns one above it can put another in its place at any moment, but not have
 * us, who may be root, write and delete in that one.
 */
export class HeldDirectory {
  /** Leads here whatever becomes of the name. */
  readonly path: string;
  readonly uid: number;
  /** Permission bits. */
  readonly mode: number;
  readonly #named: string;
  // A bare descriptor: a FileHandle that nobody closed is an error when it is collected.
  readonly #fd: number;

  /** Never through a link. Throws Node's errors. */
  constructor(named: string) {
    this.#named = named;
    this.#fd = openSync(named, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    const { uid, mode } = fstatSync(this.#fd);
    // What is in /proc is a link, its "." is not.
    this.path = `/proc/self/fd/${this.#fd}/.`;
    this.uid = uid;
    this.mode = mode & 0o7777;
  }

  /** False once the name leads elsewhere, or nowhere. */
  get isThere(): boolean {
    const held = fstatSync(this.#fd);
    const found = lstatSync(this.#named, { throwIfNoEntry: false });
    return found?.ino === held.ino && found.dev === held.dev;
  }

  /** Once only. */
  close(): void {
    closeSync(this.#fd);
  }
}

const reasons: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  ENOTDIR: 'a part of the path is not a directory',
  ENOENT: 'the directory is gone',
  EIO: 'the disk failed',
};

/** Why a step failed, in words and without the path in it, which may be that of a key. */
export function failureReason(error: unknown): string {
  const code = errnoOf(error);
  const reason = reasons[code ?? ''];
  if (code === undefined) return error instanceof Error ? error.message : String(error);
  return reason === undefined ? code : `${reason} (${code})`;
}

/** The errno name of a Node error; undefined for other errors. */
export function errnoOf(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}
