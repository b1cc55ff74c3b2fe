import { chmodSync, chownSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startNode } from '../../testing/child-process.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { parsePid, signalReload } from './reload-signal.ts';

const isRoot = process.getuid?.() === 0;

const never = new AbortController().signal;

/** A process that says each signal it gets. */
async function listening() {
  const child = startNode(`
    for (const name of ['SIGHUP', 'SIGUSR1']) process.on(name, () => console.log(name));
    setInterval(() => {}, 1000);
    console.log('ready');
  `);
  await child.nextLine();
  return child;
}

function pidFile(content: string, mode = 0o644): string {
  const path = join(tempDir(), 'app.pid');
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

describe('a signal', () => {
  it('reaches the process that is named, or whose PID is in the file', async () => {
    const child = await listening();
    await signalReload('HUP', { pid: child.pid }).run(never);
    expect(await child.nextLine()).toBe('SIGHUP');
    // As PostgreSQL writes it.
    await signalReload('USR1', { pidFile: pidFile(`${child.pid}\n/var/lib/postgresql\n5432\n`) }).run(never);
    expect(await child.nextLine()).toBe('SIGUSR1');
  });

  it('to a process that is gone finds nobody', async () => {
    const child = await listening();
    await child.kill('SIGKILL');
    for (const target of [{ pid: child.pid }, { pidFile: pidFile(`${child.pid}\n`) }]) {
      await expect(signalReload('HUP', target).run(never)).rejects.toMatchObject({ code: 'not-found' });
    }
  });

  it.each([
    { name: 'a file that is not there yet', path: () => '/nonexistent/app.pid' },
    { name: 'a file that is just being written', path: () => pidFile('') },
  ])('finds nobody with $name', async ({ path }) => {
    await expect(signalReload('HUP', { pidFile: path() }).run(never)).rejects.toMatchObject({
      code: 'not-found',
    });
  });

  it.each([
    { name: 'what is no PID', path: () => pidFile('nginx\n'), says: /its first line is no process ID$/ },
    { name: 'every process', path: () => pidFile('-1\n'), says: /is no process ID/ },
    { name: 'our process group', path: () => pidFile('0\n'), says: /is no process ID/ },
    { name: 'this process', path: () => pidFile(`${process.pid}`), says: /names this very process/ },
    {
      name: 'a file that anybody can write',
      path: () => pidFile('4\n', 0o666),
      says: /others .* can write it/,
    },
    { name: 'a directory', path: () => tempDir(), says: /not a regular file/ },
    {
      name: 'the PID of another one through a link',
      path: () => {
        const link = join(tempDir(), 'app.pid');
        symlinkSync(pidFile('1\n'), link);
        return link;
      },
      says: /it is a link/,
    },
    { name: 'a device', path: () => '/dev/zero', says: /not a regular file/ },
  ])('is not sent because of a file with $name', async ({ path, says }) => {
    await expect(signalReload('HUP', { pidFile: path() }).run(never)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringMatching(says),
    });
  });

  it.runIf(isRoot)("is not sent by root to a process of root because of another user's file", async () => {
    const child = await listening();
    const path = pidFile(`${child.pid}\n`);
    chownSync(path, 1234, 1234);
    await expect(signalReload('HUP', { pidFile: path }).run(never)).rejects.toThrow(
      /belongs to uid 1234 and names process \d+ of uid 0/,
    );
  });
});

describe('a process ID', () => {
  it.each(['1', '4194304'])('is %s', (text) => expect(parsePid(text)).toBe(Number(text)));

  it.each(['', '0', '-1', '1.5', '01', '4194305', '99999999999', '1 2', 'self', String(process.pid)])(
    'is not %j',
    (text) => {
      expect(() => parsePid(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    },
  );
});
