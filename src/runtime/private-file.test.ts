import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startNode } from '../testing/child-process.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { ensurePrivateDirectory, lockDirectory, readPrivateFile, writePrivateFile } from './private-file.ts';

const isRoot = process.geteuid?.() === 0;
const modeOf = (path: string) => statSync(path).mode & 0o777;
const privateFileUrl = JSON.stringify(new URL('./private-file.ts', import.meta.url).href);

describe('a private directory', () => {
  it('is made with mode 0700, its parents so that others can pass', async () => {
    const path = join(tempDir(), 'lib', 'signet', 'server');
    await ensurePrivateDirectory(path);
    expect(modeOf(path)).toBe(0o700);
    expect(modeOf(join(path, '..'))).toBe(0o755);
    await ensurePrivateDirectory(path);
  });

  it.each([0o755, 0o710, 0o701, 0o770, 0o1777])(
    'is refused with mode %o, with the command that helps',
    async (mode) => {
      const path = join(tempDir(), "it's here");
      mkdirSync(path);
      chmodSync(path, mode);
      const error = (await ensurePrivateDirectory(path).catch((e: unknown) => e)) as Error;
      expect(error).toMatchObject({ code: 'failed-precondition' });
      // The command is meant to be pasted: it must work as it stands.
      const command = error.message.split('run: ')[1] ?? 'false';
      expect(spawnSync('sh', ['-c', command]).status).toBe(0);
      await ensurePrivateDirectory(path);
    },
  );

  it.runIf(isRoot)('is refused when it belongs to another user', async () => {
    const path = join(tempDir(), 'theirs');
    mkdirSync(path, { mode: 0o700 });
    chownSync(path, 12345, 12345);
    await expect(ensurePrivateDirectory(path)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: `directory "${path}" belongs to uid 12345 and this is uid 0; run: chown 0 ${path}`,
    });
  });

  it('is refused when a file is in its place, or in the place of a parent', async () => {
    const file = join(tempDir(), 'file');
    writeFileSync(file, '', { mode: 0o600 });
    await expect(ensurePrivateDirectory(file)).rejects.toMatchObject({ code: 'failed-precondition' });
    await expect(ensurePrivateDirectory(join(file, 'below'))).rejects.toMatchObject({
      code: 'failed-precondition',
    });
  });
});

describe('a private file', () => {
  it('is written with mode 0600 and read back', async () => {
    const path = join(tempDir(), 'key.pem');
    await writePrivateFile(path, 'first');
    await writePrivateFile(path, new Uint8Array([1, 2, 255]));
    expect(await readPrivateFile(path)).toEqual(Buffer.from([1, 2, 255]));
    expect(modeOf(path)).toBe(0o600);
  });

  it('can be written with another mode, whatever the umask', async () => {
    const path = join(tempDir(), 'bundle.pem');
    await writePrivateFile(path, 'x', 0o644);
    expect(modeOf(path)).toBe(0o644);
  });

  it('replaces a file that was open to others, mode and all', async () => {
    const path = join(tempDir(), 'key.pem');
    writeFileSync(path, 'old', { mode: 0o644 });
    await writePrivateFile(path, 'new');
    expect(modeOf(path)).toBe(0o600);
  });

  it('leaves nothing else in the directory', async () => {
    const directory = tempDir();
    await Promise.all(Array.from({ length: 10 }, (_, i) => writePrivateFile(join(directory, 'f'), `${i}`)));
    expect(readdirSync(directory)).toEqual(['f']);
    expect(readFileSync(join(directory, 'f'), 'utf8')).toMatch(/^\d$/);
  });

  it('stays as it was when the new one cannot be put in its place', async () => {
    const directory = tempDir();
    const path = join(directory, 'taken');
    mkdirSync(path);
    await expect(writePrivateFile(path, 'x')).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(readdirSync(directory)).toEqual(['taken']);
    await expect(writePrivateFile(join(directory, 'none', 'f'), 'x')).rejects.toMatchObject({
      code: 'failed-precondition',
    });
  });

  it('is undefined when it does not exist', async () => {
    expect(await readPrivateFile(join(tempDir(), 'none'))).toBeUndefined();
  });

  it.each([0o640, 0o604, 0o620, 0o601, 0o644])('is not read with mode %o', async (mode) => {
    const path = join(tempDir(), 'key.pem');
    writeFileSync(path, 'secret');
    chmodSync(path, mode);
    await expect(readPrivateFile(path)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining(`run: chmod 600 ${path}`),
    });
  });

  it('is not read when it is no regular file, and that without waiting', async () => {
    const directory = tempDir();
    const fifo = join(directory, 'fifo');
    expect(spawnSync('mkfifo', ['-m', '600', fifo]).status).toBe(0);
    await expect(readPrivateFile(fifo)).rejects.toMatchObject({ code: 'failed-precondition' });
    await expect(readPrivateFile(directory)).rejects.toMatchObject({ code: 'failed-precondition' });
  });

  it('holds a whole version when its writer is killed at any moment, and can be written again', async () => {
    const path = join(tempDir(), 'state');
    for (let round = 0; round < 4; round += 1) {
      const writer = startNode(`
        import { writePrivateFile } from ${privateFileUrl};
        for (let i = 0; ; i += 1) {
          await writePrivateFile(${JSON.stringify(path)}, String.fromCharCode(97 + (i % 26)).repeat(300_000));
          console.log(i);
        }`);
      for (let line = -1; line < round; ) line = Number(await writer.nextLine());
      await writer.kill('SIGKILL');
      const text = (await readPrivateFile(path))?.toString() ?? '';
      expect(text).toHaveLength(300_000);
      expect(new Set(text).size).toBe(1);
    }
    await writePrivateFile(path, 'after');
    expect(String(await readPrivateFile(path))).toBe('after');
    const others = readdirSync(join(path, '..')).filter((name) => name !== 'state');
    expect(others.filter((name) => !/^\.state\.[0-9a-f]{16}\.tmp$/.test(name))).toEqual([]);
    for (const name of others) expect(modeOf(join(path, '..', name))).toBe(0o600);
  });
});

describe('a locked directory', () => {
  const lockModule = (path: string) => `
    import { lockDirectory } from ${privateFileUrl};
    process.stdin.resume();
    const lock = await lockDirectory(${JSON.stringify(path)}).catch((error) => error);
    if (lock instanceof Error) console.log(lock.code + ': ' + lock.message);
    else {
      console.log('locked');
      process.stdin.once('data', () => lock.release().then(() => console.log('released')));
    }`;

  it('refuses another process and names the one that holds it', async () => {
    const path = tempDir();
    const holder = startNode(lockModule(path));
    expect(await holder.nextLine()).toBe('locked');
    const error = { code: 'failed-precondition', message: `"${path}" is in use by process ${holder.pid}` };
    await expect(lockDirectory(path)).rejects.toMatchObject(error);
    // The refused attempt has taken nothing away from the holder.
    expect(await startNode(lockModule(path)).nextLine()).toBe(`failed-precondition: ${error.message}`);
  });

  it('is free again once released', async () => {
    const path = tempDir();
    const holder = startNode(lockModule(path));
    expect(await holder.nextLine()).toBe('locked');
    holder.writeLine('release');
    expect(await holder.nextLine()).toBe('released');
    const lock = await lockDirectory(path);
    await lock.release();
    await lock.release();
  });

  it('is free again once the holder was killed', async () => {
    const path = tempDir();
    const holder = startNode(lockModule(path));
    expect(await holder.nextLine()).toBe('locked');
    await holder.kill('SIGKILL');
    const lock = await lockDirectory(path);
    expect(readFileSync(join(path, 'lock'), 'utf8')).toBe(`${process.pid}\n`);
    await lock.release();
  });

  it('refuses the same process, too', async () => {
    const path = tempDir();
    const lock = await lockDirectory(path);
    await expect(lockDirectory(path)).rejects.toMatchObject({
      message: expect.stringContaining(`${process.pid}`),
    });
    await lock.release();
    await (await lockDirectory(path)).release();
  });

  it('does not follow a link that somebody put in the place of the lock', async () => {
    const path = tempDir();
    const victim = join(tempDir(), 'victim');
    writeFileSync(victim, 'precious');
    symlinkSync(victim, join(path, 'lock'));
    await expect(lockDirectory(path)).rejects.toMatchObject({ code: 'failed-precondition' });
    expect(readFileSync(victim, 'utf8')).toBe('precious');
  });
});
