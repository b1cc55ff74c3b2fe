import { spawnSync } from 'node:child_process';
import { mkdir, rename, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../testing/temp-dir.ts';
import { AppError } from './error.ts';
import { ReloadedFile } from './reloaded-file.ts';

/** A file whose content is read as text, unless it says "bad". */
function startFile() {
  const path = join(tempDir(), 'file');
  const parsed: string[] = [];
  const file = new ReloadedFile('x.setting', path, (bytes) => {
    parsed.push(bytes.toString());
    if (parsed.at(-1) === 'bad') throw new AppError('invalid-argument', 'it is bad');
    return bytes.toString();
  });
  const replace = async (text: string) => {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  };
  return { path, file, parsed, replace };
}

describe('a file that is replaced while we run', () => {
  it('is read once, and again only when it is another', async () => {
    const { path, file, parsed, replace } = startFile();
    await replace('one');
    for (let i = 0; i < 3; i += 1) expect(await file.read()).toBe('one');
    await replace('two');
    expect(await Promise.all([file.read(), file.read(), file.read()])).toEqual(['two', 'two', 'two']);
    // In place and with its old time.
    const then = new Date(1_000_000);
    await utimes(path, then, then);
    await file.read();
    await writeFile(path, 'three');
    await utimes(path, then, then);
    expect(await file.read()).toBe('three');
    expect(parsed.filter((text, i) => text !== parsed[i - 1])).toEqual(['one', 'two', 'three']);
  });

  it('fails with one and the same error until it is mended', async () => {
    const { file, replace } = startFile();
    const missing = await file.read().catch((error: unknown) => error);
    expect(missing).toMatchObject({
      code: 'failed-precondition',
      message: expect.stringMatching(/^x\.setting: cannot use ".*\/file": ENOENT/),
    });
    expect(await file.read().catch((error: unknown) => error)).toBe(missing);
    await replace('bad');
    const bad = await file.read().catch((error: unknown) => error);
    expect(bad).toMatchObject({ message: expect.stringContaining('it is bad') });
    expect(await file.read().catch((error: unknown) => error)).toBe(bad);
    await replace('good');
    expect(await file.read()).toBe('good');
    await replace('bad');
    await expect(file.read()).rejects.toThrow('it is bad');
  });

  it('must be a regular file of bounded size', async () => {
    const { path, file, replace } = startFile();
    await mkdir(path);
    await expect(file.read()).rejects.toThrow(/regular file|EISDIR/);
    await rm(path, { recursive: true });
    spawnSync('mkfifo', [path]);
    await expect(file.read()).rejects.toThrow('it must be a regular file');
    await rm(path);
    await replace('');
    await truncate(path, 8 * 1024 * 1024 + 1);
    await expect(file.read()).rejects.toThrow('at most 8388608');
  });
});
