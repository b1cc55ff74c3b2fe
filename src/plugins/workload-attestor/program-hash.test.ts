import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { systemClock } from '../../runtime/time.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import type { Program } from './proc-reader.ts';
import { ProgramHashes } from './program-hash.ts';

const mib = 1024 * 1024;
/** By this clock no file is too young to be remembered. */
const clock = { ...systemClock, now: () => Date.now() + 10_000 };
const [alice, bob] = [1001, 1002];

function makeHashes(options: { maxBytes?: number; maxRemembered?: number } = {}) {
  return new ProgramHashes({ clock, log: silentLogger }, { maxBytes: 256 * mib, ...options });
}

function newFiles(count: number, bytes = 4 * mib): readonly string[] {
  const directory = tempDir();
  return Array.from({ length: count }, (_, i) => {
    const path = join(directory, `program-${i}`);
    writeFileSync(path, Buffer.alloc(bytes, i));
    return path;
  });
}

async function programOf(path: string): Promise<Program> {
  const file = await open(path);
  return { file, facts: await file.stat({ bigint: true }) };
}

/**
 * Puts the programs on a disk that does one thing at a time, first come first served: who is done when depends on
 * the turns alone, not on which thread of the pool was faster.
 */
function putOnOneDisk(programs: readonly Program[]): void {
  let last: Promise<unknown> = Promise.resolve();
  const inLine =
    <A extends unknown[], R>(work: (...args: A) => Promise<R>) =>
    (...args: A): Promise<R> => {
      const result = last.then(() => work(...args));
      last = result.catch(() => undefined);
      return result;
    };
  for (const { file } of programs) {
    Object.assign(file, { read: inLine(file.read.bind(file)), stat: inLine(file.stat.bind(file)) });
  }
}

/** Asks in this order and returns who was done, in that order; a refusal as its code. */
async function race(hashes: ProgramHashes, asked: readonly { uid: number; path: string; as: string }[]) {
  const done: string[] = [];
  const programs = await Promise.all(asked.map(({ path }) => programOf(path)));
  putOnOneDisk(programs);
  await Promise.all(
    asked.map(({ uid, as }, i) =>
      hashes.hash(programs[i]!, uid).then(
        () => done.push(as),
        (error: { code: string }) => done.push(`${as}: ${error.code}`),
      ),
    ),
  );
  return done;
}

const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

describe('the hashes of programs', () => {
  it('of one user are computed one by one, and at most four wait', async () => {
    const hashes = makeHashes();
    const asked = newFiles(6).map((path, i) => ({ uid: alice, path, as: `a${i}` }));
    expect(await race(hashes, asked)).toEqual(['a5: resource-exhausted', 'a0', 'a1', 'a2', 'a3', 'a4']);
    const [last] = asked.slice(-1);
    expect(await hashes.hash(await programOf(last!.path), alice)).toBe(sha256(last!.path));
  });

  it('are computed in turns of users: one with a lot of work does not hold up another', async () => {
    const [first, second] = [newFiles(5), newFiles(3, 64 * 1024)];
    const asked = [
      ...first.map((path, i) => ({ uid: alice, path, as: `a${i}` })),
      ...second.map((path, i) => ({ uid: bob, path, as: `b${i}` })),
    ];
    const done = await race(makeHashes(), asked);
    expect(done.indexOf('b2')).toBeLessThan(done.indexOf('a2'));
    expect(done).toHaveLength(8);
  });

  it('take turns among more users than can work at a time', async () => {
    const uids = [1, 2, 3, 4, 5];
    const files = newFiles(15, mib);
    const asked = uids.flatMap((uid, i) =>
      [0, 1, 2].map((n) => ({ uid, path: files[i * 3 + n]!, as: `${n}` })),
    );
    const done = await race(makeHashes(), asked);
    expect(done.join('')).toBe('000001111122222');
  });

  it('do not wait in the line of another user who runs the same program', async () => {
    const files = newFiles(5);
    const shared = files.at(-1)!;
    const asked = files.map((path, i) => ({ uid: alice, path, as: `a${i}` }));
    const done = await race(makeHashes(), [...asked, { uid: bob, path: shared, as: 'b' }]);
    expect(done.indexOf('b')).toBeLessThan(done.indexOf('a2'));
    // It was read once: who waited for it is done at the same time.
    expect(Math.abs(done.indexOf('b') - done.indexOf('a4'))).toBe(1);
  });

  it('are not refused to one user because another one has too many', async () => {
    const [files, more] = [newFiles(6), newFiles(5)];
    const shared = files.at(-1)!;
    const lines = [
      ...files.slice(0, 5).map((path, i) => ({ uid: alice, path, as: `a${i}` })),
      ...more.map((path, i) => ({ uid: 7, path, as: `c${i}` })),
    ];
    const done = await race(makeHashes(), [
      ...lines,
      { uid: bob, path: shared, as: 'b' },
      { uid: alice, path: shared, as: 'a5' },
    ]);
    expect(done.filter((text) => text.includes(':'))).toEqual([]);
    expect(done).toHaveLength(12);
  });

  it('leave the event loop its turns', async () => {
    const [path] = newFiles(1, 32 * mib);
    let turns = 0;
    let isDone = false;
    const count = () => {
      turns += 1;
      if (!isDone) setImmediate(count);
    };
    setImmediate(count);
    await makeHashes().hash(await programOf(path!), alice);
    isDone = true;
    expect(turns).toBeGreaterThan(100);
  });

  it('are remembered as long as they are asked for now and then', async () => {
    const hashes = makeHashes({ maxRemembered: 3 });
    const files = newFiles(5, 1000);
    const ask = async (i: number) => hashes.hash(await programOf(files[i]!), alice);
    /** With another file in its place: only what is remembered is right. */
    const isRemembered = async (i: number) => {
      const { file, facts } = await programOf(files[i]!);
      await file.close();
      const found = await hashes.hash({ file: await open('/dev/null'), facts }, alice).catch(() => undefined);
      return found === sha256(files[i]!);
    };
    for (const i of [0, 1, 2]) await ask(i);
    for (const i of [3, 4]) {
      expect(await isRemembered(0)).toBe(true);
      await ask(i);
    }
    expect(await Promise.all([0, 3, 4].map(isRemembered))).toEqual([true, true, true]);
    expect(await Promise.all([1, 2].map(isRemembered))).toEqual([false, false]);
  });

  it('are none for a file that is too large', async () => {
    const [path] = newFiles(1, 2 * mib);
    expect(await makeHashes({ maxBytes: mib }).hash(await programOf(path!), alice)).toBeUndefined();
    expect(await makeHashes({ maxBytes: 2 * mib }).hash(await programOf(path!), alice)).toBe(sha256(path!));
  });
});
