import { generateKeyPairSync } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../../testing/temp-dir.ts';
import { describeKeyManager } from './conformance.ts';
import { DiskKeyManager } from './disk.ts';

const open = (dataDir: string) => DiskKeyManager.open({ dataDir });

describeKeyManager('disk', async () => {
  const dataDir = tempDir();
  return { open: () => open(dataDir), isDurable: true, isExportable: true };
});

describe('keys on disk', () => {
  it('are there again after a restart, and those deleted are not', async () => {
    const dataDir = tempDir();
    const before = await open(dataDir);
    const kept = await before.generateKey('kept', 'ec-p256');
    await before.generateKey('gone', 'ec-p256');
    await before.deleteKey('gone');
    const after = await open(dataDir);
    expect((await after.listKeys()).map((key) => key.id)).toEqual(['kept']);
    const found = await after.findKey('kept');
    expect(Buffer.from(found!.publicKey)).toEqual(Buffer.from(kept.publicKey));
    expect(await after.exportKey('kept')).toBe(await before.exportKey('kept'));
  });

  it('lie in files of mode 0600 in a directory of mode 0700', async () => {
    const dataDir = tempDir();
    await (await open(dataDir)).generateKey('k', 'ec-p256');
    const mode = async (path: string) => (await stat(path)).mode & 0o7777;
    expect(await mode(join(dataDir, 'keys'))).toBe(0o700);
    expect(await mode(join(dataDir, 'keys', 'k.pem'))).toBe(0o600);
    expect(await readdir(join(dataDir, 'keys'))).toEqual(['k.pem']);
  });

  it('of two written for one id at the same time, file and memory hold the same one', async () => {
    const dataDir = tempDir();
    const manager = await open(dataDir);
    await Promise.all(Array.from({ length: 4 }, () => manager.generateKey('k', 'ec-p256')));
    expect(await readFile(join(dataDir, 'keys', 'k.pem'), 'utf8')).toBe(await manager.exportKey('k'));
  });

  it('are refused when the file is open to others, with the command that helps', async () => {
    const dataDir = tempDir();
    await (await open(dataDir)).generateKey('k', 'ec-p256');
    const path = join(dataDir, 'keys', 'k.pem');
    await chmod(path, 0o640);
    await expect(open(dataDir)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining(`chmod 600 ${path}`),
    });
  });

  it('leave no part of a key behind that a crash interrupted', async () => {
    const dataDir = tempDir();
    await mkdir(join(dataDir, 'keys'), { mode: 0o700 });
    await writeFile(join(dataDir, 'keys', '.k.pem.0123456789abcdef.tmp'), 'half a key', { mode: 0o600 });
    await writeFile(join(dataDir, 'keys', 'README'), 'not a key', { mode: 0o600 });
    expect(await (await open(dataDir)).listKeys()).toEqual([]);
    expect(await readdir(join(dataDir, 'keys'))).toEqual(['README']);
  });

  const pem = (type: 'pkcs8' | 'sec1') =>
    generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type, format: 'pem' }).toString();
  const weak = () =>
    generateKeyPairSync('rsa', { modulusLength: 1024 })
      .privateKey.export({ type: 'pkcs8', format: 'pem' })
      .toString();

  it.each<{ name: string; content: () => string; says: string }>([
    { name: 'nothing', content: () => '', says: 'PKCS#8' },
    { name: 'noise', content: () => '\0\xff noise', says: 'PKCS#8' },
    { name: 'half a key', content: () => pem('pkcs8').slice(0, 100), says: 'PKCS#8' },
    {
      name: 'a key with a flipped byte',
      content: () => pem('pkcs8').replace(/MI../, 'AAAA'),
      says: 'PKCS#8',
    },
    { name: 'two keys', content: () => pem('pkcs8') + pem('pkcs8'), says: 'PKCS#8' },
    { name: 'a key in another format', content: () => pem('sec1'), says: 'PKCS#8' },
    { name: 'a weak key', content: weak, says: 'RSA-1024' },
  ])('are refused when a file holds $name, by the name of the file', async ({ content, says }) => {
    const dataDir = tempDir();
    await mkdir(join(dataDir, 'keys'), { mode: 0o700 });
    const text = content();
    await writeFile(join(dataDir, 'keys', 'x509-ca-a.pem'), text, { mode: 0o600 });
    const refusal = await open(dataDir).catch((error: Error) => error);
    expect(refusal).toMatchObject({ code: 'failed-precondition' });
    const { message } = refusal as Error;
    expect(message).toContain(join(dataDir, 'keys', 'x509-ca-a.pem'));
    expect(message).toContain(says);
  });
});
