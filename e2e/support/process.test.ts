import { describe, expect, it } from 'vitest';
import { RunningProcess } from './process.ts';
import { testSandbox } from './test-sandbox.ts';

const node = process.execPath;
const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe('a running process', () => {
  it('can be waited for by its output and is gone with its sandbox', async () => {
    const sandbox = await testSandbox();
    const started = await sandbox.start({
      name: 'sleeper',
      command: node,
      args: ['-e', 'console.error("up"); setInterval(() => {}, 1000)'],
    });
    expect(await started.waitForLine(/^up$/)).toBe('up');
    expect(isAlive(started.pid)).toBe(true);
    await sandbox.dispose();
    expect(isAlive(started.pid)).toBe(false);
    expect(started.exit).toEqual({ code: null, signal: 'SIGTERM' });
  });

  it('fails the waiting with its last output when it ends first', async () => {
    const sandbox = await testSandbox();
    const started = await sandbox.start({
      name: 'quitter',
      command: node,
      args: ['-e', 'console.log("because"); process.exitCode = 3'],
    });
    await expect(started.waitForLine(/^up$/)).rejects.toThrow(/quitter ended \(exit code 3\).*because/s);
  });

  it('is killed when it does not stop, and that is an error', async () => {
    const sandbox = await testSandbox();
    const started = await sandbox.start({
      name: 'stubborn',
      command: node,
      args: ['-e', 'process.on("SIGTERM", () => {}); console.log("up"); setInterval(() => {}, 1000)'],
    });
    await started.waitForLine(/^up$/);
    await expect(started.stop({ timeoutMs: 50 })).rejects.toThrow(/stubborn did not end/);
    expect(isAlive(started.pid)).toBe(false);
  });

  it('says what cannot be started', async () => {
    const starting = RunningProcess.start({ name: 'nothing', command: '/nonexistent/program' });
    await expect(starting).rejects.toThrow('nothing: cannot start /nonexistent/program');
  });
});
