import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { eventually } from '../../testing/eventually.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { FileDirectory } from './file-directory.ts';
import type { FileSet } from './file-plan.ts';
import { type FileOwner, type FileSystem, nodeFileSystem } from './file-system.ts';
import { keepReplacedMs } from './old-sets.ts';

const isRoot = process.getuid?.() === 0;

interface Opening {
  readonly clock?: FakeClock;
  readonly files?: FileSystem;
  readonly owner?: FileOwner;
}

function open(path: string, { clock = new FakeClock(), files = nodeFileSystem, owner }: Opening = {}) {
  return FileDirectory.open(path, { clock, files, owner });
}

/** Files of one generation: whoever reads two generations at once sees it. */
function setOf(
  generation: number,
  names: readonly string[] = ['svid.pem', 'svid_key.pem', 'bundle.pem'],
): FileSet {
  return names.map((name) => ({
    name,
    content: `${name} ${generation}\n`,
    mode: name === 'svid_key.pem' ? 0o600 : 0o644,
  }));
}

/** What an application can open in the directory, by name. */
function readable(path: string): Record<string, string> {
  const names = readdirSync(path).filter((name) => name !== '.signet' && name !== 'current');
  const found = names.filter((name) => existsSync(join(path, name)));
  return Object.fromEntries(found.map((name) => [name, readFileSync(join(path, name), 'utf8')]));
}

function asRead(set: FileSet): Record<string, string> {
  return Object.fromEntries(set.map(({ name, content }) => [name, content]));
}

const setsIn = (path: string) => readdirSync(join(path, '.signet')).filter((name) => name.startsWith('set-'));

describe('a directory of files', () => {
  it('is made with its parents, and holds what was written last', async () => {
    const path = join(tempDir(), 'a', 'b');
    const directory = await open(path);
    expect(readable(path)).toEqual({});
    await directory.replace(setOf(1));
    expect(readable(path)).toEqual(asRead(setOf(1)));
    await directory.replace(setOf(2));
    expect(readable(path)).toEqual(asRead(setOf(2)));
    await directory.close();
    expect(readable(path)).toEqual(asRead(setOf(2)));
  });

  it('has the modes asked for, whatever the umask', async () => {
    const path = join(tempDir(), 'svid');
    const before = process.umask(0o077);
    try {
      const directory = await open(path);
      await directory.replace([...setOf(1), { name: 'group.pem', content: '', mode: 0o640 }]);
    } finally {
      process.umask(before);
    }
    const mode = (name: string) => statSync(join(path, name)).mode & 0o777;
    expect(['svid.pem', 'svid_key.pem', 'group.pem', '.', 'current/'].map(mode)).toEqual([
      0o644, 0o600, 0o640, 0o755, 0o755,
    ]);
  });

  it.runIf(isRoot)('gives the files to their owner, and nothing else', async () => {
    const path = join(tempDir(), 'svid');
    const directory = await open(path, { owner: { uid: 1234, gid: 5678 } });
    await directory.replace(setOf(1));
    const owner = (name: string) => [statSync(join(path, name)).uid, statSync(join(path, name)).gid];
    expect(['svid_key.pem', 'svid.pem'].map(owner)).toEqual([
      [1234, 5678],
      [1234, 5678],
    ]);
    expect(owner('current/')).toEqual([0, 0]);
  });

  it('drops the names that a new set does not have', async () => {
    const path = tempDir();
    const directory = await open(path);
    await directory.replace(setOf(1, ['svid.pem', 'federated.a.pem']));
    await directory.replace(setOf(2, ['svid.pem', 'federated.b.pem']));
    expect(readdirSync(path).sort()).toEqual(['.signet', 'current', 'federated.b.pem', 'svid.pem']);
  });

  it('keeps a replaced set for a minute, for those who are reading it', async () => {
    const clock = new FakeClock();
    const path = tempDir();
    const directory = await open(path, { clock });
    await directory.replace(setOf(1));
    const resolved = realpathSync(join(path, 'current'));
    await clock.advance(1_000);
    await directory.replace(setOf(2));
    await clock.advance(keepReplacedMs - 1);
    await directory.prune();
    expect(readFileSync(join(resolved, 'svid_key.pem'), 'utf8')).toBe('svid_key.pem 1\n');
    await clock.advance(1);
    await directory.prune();
    expect(existsSync(resolved)).toBe(false);
    expect(readable(path)).toEqual(asRead(setOf(2)));
  });

  it('is emptied at once, keys first of all', async () => {
    const path = tempDir();
    const directory = await open(path);
    await directory.replace(setOf(1));
    await directory.replace(setOf(2));
    await directory.clear();
    expect(readdirSync(path)).toEqual(['.signet']);
    expect(setsIn(path)).toEqual([]);
    await directory.replace(setOf(3));
    expect(readable(path)).toEqual(asRead(setOf(3)));
  });

  it('belongs to one process at a time', async () => {
    const path = tempDir();
    const first = await open(path);
    await expect(open(path)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining(`process ${process.pid}`),
    });
    await first.close();
    await (await open(path)).close();
  });

  it('may be named by a link', async () => {
    const parent = tempDir();
    mkdirSync(join(parent, 'real'));
    symlinkSync('real', join(parent, 'link'));
    const directory = await open(join(parent, 'link'));
    await directory.replace(setOf(1));
    expect(readable(join(parent, 'real'))).toEqual(asRead(setOf(1)));
  });
});

describe('a directory that is not ours alone', () => {
  it.each([0o775, 0o757, 0o1777])('is refused: mode %o', async (mode) => {
    const path = tempDir();
    chmodSync(path, mode);
    await expect(open(path)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringMatching(/can be written by others .*name a directory in it/),
    });
    expect(readdirSync(path)).toEqual([]);
    await (await open(join(path, 'svid'))).close();
  });

  it.runIf(isRoot)('is refused: another owner', async () => {
    const path = tempDir();
    chownSync(path, 1234, 1234);
    await expect(open(path)).rejects.toThrow(/belongs to uid 1234/);
  });

  it('is refused: a link in place of the store, which would lead root elsewhere', async () => {
    const parent = tempDir();
    const path = join(parent, 'svid');
    mkdirSync(path);
    mkdirSync(join(parent, 'elsewhere'), { mode: 0o700 });
    symlinkSync('../elsewhere', join(path, '.signet'));
    await expect(open(path)).rejects.toThrow(/must be a directory/);
    expect(lstatSync(join(parent, 'elsewhere')).mode & 0o777).toBe(0o700);
  });

  it('is left alone when it has taken the place of ours: whoever owns the one above can do that at any time', async () => {
    const clock = new FakeClock();
    const parent = tempDir();
    const path = join(parent, 'svid');
    const directory = await open(path, { clock });
    await directory.replace(setOf(1));
    await directory.replace(setOf(2));
    const elsewhere = join(parent, 'elsewhere');
    const victim = join(elsewhere, '.signet', 'set-20200101T000000000Z-0123abcd', 'file');
    mkdirSync(join(victim, '..'), { recursive: true });
    writeFileSync(victim, 'theirs');
    renameSync(path, join(parent, 'ours'));
    symlinkSync('elsewhere', path);
    await expect(directory.replace(setOf(3))).rejects.toThrow(/is no longer the directory that it was/);
    await clock.advance(keepReplacedMs);
    await directory.prune();
    await directory.clear();
    expect(readdirSync(elsewhere)).toEqual(['.signet']);
    expect(readFileSync(victim, 'utf8')).toBe('theirs');
    expect(readable(join(parent, 'ours'))).toEqual({});
    await directory.close();
  });

  it.each([
    { name: 'a file of somebody else', make: (path: string) => writeFileSync(path, 'theirs') },
    { name: 'a link of somebody else', make: (path: string) => symlinkSync('/etc/hostname', path) },
    { name: 'a directory', make: (path: string) => mkdirSync(path) },
  ])('is not overwritten: $name', async ({ make }) => {
    for (const name of ['svid.pem', 'current']) {
      const path = tempDir();
      make(join(path, name));
      const before = lstatSync(join(path, name));
      const directory = await open(path);
      await expect(directory.replace(setOf(1))).rejects.toMatchObject({
        code: 'failed-precondition',
        message: expect.stringMatching(/exists already .*move it away/),
      });
      expect(lstatSync(join(path, name)).ino).toBe(before.ino);
      expect(existsSync(join(path, 'svid_key.pem'))).toBe(false);
    }
  });

  it('says what is wrong with the disk, without the path of a key', async () => {
    const full = Object.assign(new Error('ENOSPC: no space left, write /x/svid_key.pem'), { code: 'ENOSPC' });
    const path = tempDir();
    const files: FileSystem = {
      ...nodeFileSystem,
      writeNewFile: async (file, content, as) => {
        if (file.endsWith('svid_key.pem')) throw full;
        await nodeFileSystem.writeNewFile(file, content, as);
      },
    };
    const directory = await open(path, { files });
    const failure: unknown = await directory.replace(setOf(1)).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: 'failed-precondition',
      message: `cannot write files into "${path}": the disk is full (ENOSPC)`,
    });
    expect((failure as Error).cause).toBeUndefined();
    // A full disk is not filled further.
    expect(setsIn(path)).toEqual([]);
    expect(readable(path)).toEqual({});
  });
});

class Crash extends Error {}

/** A process that dies at the `at`-th step: nothing it does afterwards happens any more, no cleaning up either. */
function dyingAt(at: number) {
  const state = { steps: 0 };
  const step =
    <A extends readonly unknown[], R>(
      act: (...args: A) => Promise<R>,
      onDeath?: (...args: A) => Promise<unknown>,
    ) =>
    async (...args: A): Promise<R> => {
      state.steps += 1;
      if (state.steps === at) await onDeath?.(...args);
      if (state.steps >= at) throw new Crash();
      return act(...args);
    };
  const files: FileSystem = {
    makeDirectory: step((path, mode) => nodeFileSystem.makeDirectory(path, mode)),
    setMode: step(nodeFileSystem.setMode),
    // Half of it has got to the disk.
    writeNewFile: step(nodeFileSystem.writeNewFile, (path, content) =>
      writeFile(path, content.slice(0, content.length / 2)),
    ),
    syncDirectory: step(nodeFileSystem.syncDirectory),
    makeLink: step(nodeFileSystem.makeLink),
    rename: step(nodeFileSystem.rename),
    removeLink: step(nodeFileSystem.removeLink),
    removeDirectory: step(nodeFileSystem.removeDirectory),
    list: step(nodeFileSystem.list),
    look: step(nodeFileSystem.look),
  };
  return { files, state };
}

describe('a crash', () => {
  const names = fc.subarray(['svid.pem', 'svid_key.pem', 'bundle.pem', 'federated.a.pem'], { minLength: 1 });
  const action = fc.oneof(
    { weight: 5, arbitrary: names },
    { weight: 1, arbitrary: fc.constant('clear' as const) },
  );

  it('at any step leaves one set, whole, and the next process goes on', async () => {
    const arrange = fc.tuple(fc.array(action, { minLength: 1, maxLength: 3 }), action, fc.nat());
    await fc.assert(
      fc.asyncProperty(arrange, async ([before, last, seed]) => {
        const clock = new FakeClock();
        const path = tempDir();
        const act = async (directory: FileDirectory, what: typeof last, generation: number) => {
          await clock.advance(10);
          const set = what === 'clear' ? [] : setOf(generation, what);
          if (what === 'clear') await directory.clear();
          else await directory.replace(set);
          return asRead(set);
        };
        const good = await open(path, { clock });
        let old: Record<string, string> = {};
        for (const [index, what] of before.entries()) old = await act(good, what, index);
        await good.close();

        const { files } = dyingAt(1 + (seed % 40));
        const outcome = await open(path, { clock, files })
          .then(async (directory) => {
            await act(directory, last, 99).finally(() => directory.close());
            return 'done';
          })
          .catch((error: unknown) => error);
        const wanted = asRead(last === 'clear' ? [] : setOf(99, last));
        const found = readable(path);
        if (outcome === 'done') expect(found).toEqual(wanted);
        else expect([old, wanted]).toContainEqual(found);

        const next = await open(path, { clock });
        const final = await act(next, ['svid.pem', 'svid_key.pem'], 100);
        expect(readable(path)).toEqual(final);
        await clock.advance(keepReplacedMs);
        await next.prune();
        expect(setsIn(path)).toEqual([readlinkSync(join(path, 'current')).replace('.signet/', '')]);
        expect(readdirSync(path).sort()).toEqual(['.signet', 'current', 'svid.pem', 'svid_key.pem']);
        await next.close();
      }),
      { numRuns: 60 },
    );
  });

  it('is tried at every step there is', async () => {
    const { files, state } = dyingAt(1_000);
    const directory = await open(tempDir(), { files });
    await directory.replace(setOf(1, ['svid.pem', 'svid_key.pem', 'bundle.pem', 'federated.a.pem']));
    // The property above counts to 40.
    expect(state.steps).toBeLessThan(40);
    expect(state.steps).toBeGreaterThan(20);
  });
});

describe('readers while sets are replaced', () => {
  it('see the key of their certificate, by resolving `current` once or with a single file', async () => {
    const clock = new FakeClock();
    const path = tempDir();
    const directory = await open(path, { clock });
    const names = ['svid.pem', 'svid_key.pem', 'all.pem'];
    await directory.replace(setOf(0, names));
    let isOver = false;
    const seen = new Set<string>();
    const rounds = [0, 0, 0];
    const generationIn = async (file: string) => (await readFile(file, 'utf8')).split(' ')[1];
    const reader = async (_: number, i: number) => {
      while (!isOver) {
        const set = await realpath(join(path, 'current'));
        const [cert, key] = [
          await generationIn(join(set, 'svid.pem')),
          await generationIn(join(set, 'svid_key.pem')),
        ];
        expect(key).toBe(cert);
        // Nothing is ever missing or half there.
        seen.add((await generationIn(join(path, 'all.pem')))!);
        expect(await generationIn(join(path, 'svid_key.pem'))).toMatch(/^\d+\n$/);
        rounds[i]! += 1;
      }
    };
    const all = Promise.all(rounds.map(reader));
    // Else a reader that the machine holds up would find its set removed, as after a minute it may be.
    const eachHasRead = (before: readonly number[]) =>
      eventually(() => expect(rounds.every((round, i) => round > before[i]!)).toBe(true));
    for (let generation = 1; generation <= 40; generation += 1) {
      const before = [...rounds];
      await clock.advance(5_000);
      await directory.replace(setOf(generation, names));
      await directory.prune();
      await Promise.race([all, eachHasRead(before)]);
    }
    isOver = true;
    await all;
    expect(seen.size).toBeGreaterThan(10);
    expect(setsIn(path).length).toBeLessThan(15);
  });
});
