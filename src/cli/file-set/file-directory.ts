import { mkdir, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AppError, isAppError } from '../../runtime/error.ts';
import { type DirectoryLock, lockDirectory } from '../../runtime/private-file.ts';
import type { Clock } from '../../runtime/time.ts';
import type { FileSet } from './file-plan.ts';
import { errnoOf, type FileOwner, type FileSystem, failureReason, HeldDirectory } from './file-system.ts';
import { isSetName, newSetName, setsToRemove } from './old-sets.ts';

/** The link that every reader goes through. */
export const currentLink = 'current';
/** Where sets, their lock and a link in the making lie; readers get here through `current` only. */
const storeName = '.signet';

/**
 * A directory whose files change all at once. `DIR/svid.pem` is a link to `current/svid.pem`, and `DIR/current` a
 * link to a directory below `DIR/.signet` that is complete and never changed again. A new set is a new directory; one
 * rename of `current` makes it count. So a crash at any step leaves the old set or the new one, whole; and whoever
 * resolves `current` once can open the files one after the other: a replaced set stays for a minute.
 */
export class FileDirectory {
  readonly path: string;
  readonly #held: HeldDirectory;
  /** The same directory, by what is held of it. */
  readonly #root: string;
  readonly #store: string;
  readonly #deps: FileDirectoryDeps;
  readonly #lock: DirectoryLock;
  #isClosed = false;

  private constructor(path: string, held: HeldDirectory, lock: DirectoryLock, deps: FileDirectoryDeps) {
    this.path = path;
    this.#held = held;
    this.#root = held.path;
    this.#store = join(held.path, storeName);
    this.#deps = deps;
    this.#lock = lock;
  }

  /**
   * Makes the directory when it is missing, and takes it for this process. Throws `failed-precondition` when others
   * could change what is in it, when another process has it, or when it cannot be written.
   */
  static async open(named: string, deps: FileDirectoryDeps): Promise<FileDirectory> {
    const path = await realpath(named).catch(() => named);
    const held = await steps(path, async () => {
      await mkdir(dirname(path), { recursive: true, mode: 0o755 });
      return makeOwnDirectory(path, path, deps);
    });
    try {
      const store = join(held.path, storeName);
      const shown = join(path, storeName);
      await steps(path, async () => (await makeOwnDirectory(store, shown, deps)).close());
      return new FileDirectory(path, held, await lockDirectory(store, shown), deps);
    } catch (error) {
      held.close();
      throw error;
    }
  }

  /**
   * Puts `set` in place of all that is there. Throws `failed-precondition` when it cannot be written, or when
   * something that is not ours has the name of one of the files; the set that was there stays readable then.
   */
  async replace(set: FileSet): Promise<void> {
    await steps(this.path, async () => {
      if (!this.#held.isThere)
        throw unusable(`"${this.path}" is no longer the directory that it was; run this command again`);
      for (const { name } of set) await this.#requireOurs(name, linkTarget(name));
      const name = newSetName(this.#deps.clock.now());
      await this.#fill(name, set);
      // Before the swap: a new name leads nowhere until its whole set is there.
      for (const file of set) await this.#link(file.name);
      await this.#swap(name);
      await this.#removeLinks((known) => set.every((file) => file.name !== known));
    });
  }

  /** Takes the files away, all at once, and then what they were. Throws `failed-precondition`. */
  async clear(): Promise<void> {
    const { files } = this.#deps;
    await steps(this.path, async () => {
      await this.#current();
      await files.removeLink(join(this.#root, currentLink));
      await files.syncDirectory(this.#root);
      for (const name of await files.list(this.#store)) {
        if (isSetName(name)) await files.removeDirectory(join(this.#store, name));
      }
      await this.#removeLinks(() => true);
    });
  }

  /** Removes sets that were replaced a minute ago or more. Throws `failed-precondition`. */
  async prune(): Promise<void> {
    const { files, clock } = this.#deps;
    await steps(this.path, async () => {
      const names = await files.list(this.#store);
      for (const name of setsToRemove(names, await this.#current(), clock.now())) {
        await files.removeDirectory(join(this.#store, name));
      }
    });
  }

  /** Lets other processes have the directory; the files stay. */
  async close(): Promise<void> {
    await this.#lock.release();
    if (!this.#isClosed) this.#held.close();
    this.#isClosed = true;
  }

  /** A directory that nobody can read until all of it is on the disk. */
  async #fill(name: string, set: FileSet): Promise<void> {
    const { files, owner } = this.#deps;
    const path = join(this.#store, name);
    try {
      await files.makeDirectory(path, 0o700);
      for (const file of set) {
        await files.writeNewFile(join(path, file.name), file.content, { mode: file.mode, owner });
      }
      await files.setMode(path, 0o755);
      await files.syncDirectory(path);
    } catch (error) {
      // On a full disk it would be in the way of the next try.
      await files.removeDirectory(path).catch(() => undefined);
      throw error;
    }
  }

  /** The one step that counts is a rename, which is atomic; a link cannot be changed in place. */
  async #swap(name: string): Promise<void> {
    const { files } = this.#deps;
    const made = join(this.#store, 'current.new');
    await this.#current();
    await files.removeLink(made);
    await files.makeLink(join(storeName, name), made);
    await files.syncDirectory(this.#store);
    await files.rename(made, join(this.#root, currentLink));
    await files.syncDirectory(this.#root);
  }

  /** The name of the current set; undefined when there is none. */
  async #current(): Promise<string | undefined> {
    const target = await this.#requireOurs(currentLink, `${storeName}/…`);
    return target === undefined ? undefined : target.slice(storeName.length + 1);
  }

  async #link(name: string): Promise<void> {
    const path = join(this.#root, name);
    const target = linkTarget(name);
    if ((await this.#requireOurs(name, target)) === undefined) await this.#deps.files.makeLink(target, path);
  }

  async #removeLinks(isObsolete: (name: string) => boolean): Promise<void> {
    const { files } = this.#deps;
    for (const name of await files.list(this.#root)) {
      if (name === storeName || name === currentLink || !isObsolete(name)) continue;
      const found = await files.look(join(this.#root, name));
      if (typeof found === 'object' && found.link === linkTarget(name)) {
        await files.removeLink(join(this.#root, name));
      }
    }
  }

  /** Where the link leads; undefined when there is nothing. Throws when somebody else has put something there. */
  async #requireOurs(name: string, expected: string): Promise<string | undefined> {
    const found = await this.#deps.files.look(join(this.#root, name));
    if (found === 'nothing') return undefined;
    const isOurs = name === currentLink ? isSetLink : (link: string) => link === expected;
    if (found !== 'something else' && isOurs(found.link)) return found.link;
    throw new AppError(
      'failed-precondition',
      `"${join(this.path, name)}" exists already and is not a link to ${expected}: it is not overwritten; move it away, or name ` +
        'another directory with --write-to or another file with --cert-name, --key-name or --bundle-name',
    );
  }
}

/** What a directory of files works with. */
export interface FileDirectoryDeps {
  readonly files: FileSystem;
  readonly clock: Clock;
  /** Undefined leaves new files to the user who runs this. */
  readonly owner: FileOwner | undefined;
}

function linkTarget(name: string): string {
  return `${currentLink}/${name}`;
}

function isSetLink(link: string): boolean {
  return link.startsWith(`${storeName}/`) && isSetName(link.slice(storeName.length + 1));
}

/** Whoever can write the directory can put certificates of his own in place of ours. `shown` is its name in errors. */
async function makeOwnDirectory(
  path: string,
  shown: string,
  deps: FileDirectoryDeps,
): Promise<HeldDirectory> {
  try {
    await deps.files.makeDirectory(path, 0o755);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
  const held = holdDirectory(path, shown);
  const problem = ownershipProblem(held, shown);
  if (problem === undefined) return held;
  held.close();
  throw unusable(problem);
}

function holdDirectory(path: string, shown: string): HeldDirectory {
  try {
    return new HeldDirectory(path);
  } catch (error) {
    const isOther = ['ENOTDIR', 'ELOOP'].includes(errnoOf(error) ?? '');
    throw isOther ? unusable(`"${shown}" must be a directory`) : error;
  }
}

function ownershipProblem({ uid, mode }: HeldDirectory, path: string): string | undefined {
  const own = process.geteuid?.() ?? uid;
  if (uid !== own && uid !== 0) {
    return (
      `directory "${path}" belongs to uid ${uid}, who could replace the files; this is uid ${own}: ` +
      `run this command as uid ${uid}, or name another directory`
    );
  }
  if ((mode & 0o022) === 0) return undefined;
  return (
    `directory "${path}" can be written by others (mode ${mode.toString(8).padStart(4, '0')}), who could ` +
    `replace the files; name a directory in it, which is made then, such as "${join(path, 'svid')}", ` +
    'or take the right away with chmod go-w'
  );
}

/** Runs steps on the directory; what the system refuses comes out as an error without the paths of single files. */
async function steps<T>(path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (isAppError(error)) throw error;
    throw unusable(`cannot write files into "${path}": ${failureReason(error)}`);
  }
}

function unusable(message: string): AppError {
  return new AppError('failed-precondition', message);
}
