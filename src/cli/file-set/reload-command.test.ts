import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/time.ts';
import { eventually } from '../../testing/eventually.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { commandReload } from './reload-command.ts';

const never = new AbortController().signal;

function node(script: string, ...args: string[]) {
  return { command: process.execPath, args: ['-e', script, '--', ...args], timeoutMs: 30_000 };
}

/** The PID that a script has written to `file`. */
async function pidIn(file: string): Promise<number> {
  return await eventually(async () => {
    const pid = Number(await readFile(file, 'utf8'));
    expect(pid).toBeGreaterThan(0);
    return pid;
  });
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    // A zombie that nobody has reaped yet is dead.
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
};

describe('a command', () => {
  it('gets its arguments as they are: no shell looks at them', async () => {
    const file = join(tempDir(), 'args');
    const args = ['$HOME', 'a b', '; touch x', '`id`', '-s', '*', ''];
    const script = `require('fs').writeFileSync(${JSON.stringify(file)}, JSON.stringify(process.argv.slice(1)))`;
    await commandReload(node(script, ...args), systemClock).run(never);
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(args);
  });

  it.each([
    { name: 'an exit code', line: node('process.exit(3)'), says: 'command node failed: exit code 3' },
    {
      name: 'a signal',
      line: node("process.kill(process.pid, 'SIGKILL')"),
      says: 'command node failed: ended by SIGKILL',
    },
    {
      name: 'no such program',
      line: { command: '/nonexistent/secret-tool', args: ['password'], timeoutMs: 1_000 },
      says: 'cannot run command secret-tool: there is no such program',
    },
    {
      name: 'no right to run it',
      line: { command: '/etc', args: [], timeoutMs: 1_000 },
      says: 'cannot run command etc: permission denied (EACCES)',
    },
  ])('that fails says how, without its arguments: $name', async ({ line, says }) => {
    await expect(commandReload(line, systemClock).run(never)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: says,
    });
  });

  it('that takes too long is ended with all it has started', async () => {
    const dir = tempDir();
    const [own, child] = [join(dir, 'own'), join(dir, 'child')];
    const clock = new FakeClock();
    // Neither of them heeds SIGTERM.
    const deaf = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000);";
    const write = (file: string) =>
      `require('fs').writeFileSync(${JSON.stringify(file)}, String(process.pid));`;
    const script = `${deaf} require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(deaf + write(child))}]); ${write(own)}`;
    const running = commandReload(node(script), clock).run(never);
    running.catch(() => undefined);
    const pids = [await pidIn(own), await pidIn(child)];
    await clock.advance(30_000);
    expect(pids.map(isAlive)).toEqual([true, true]);
    await clock.untilSleepers(1);
    await clock.advance(5_000);
    await expect(running).rejects.toMatchObject({ code: 'deadline-exceeded' });
    await eventually(() => expect(pids.map(isAlive)).toEqual([false, false]));
  });

  it('is ended when this ends', async () => {
    const file = join(tempDir(), 'pid');
    const stop = new AbortController();
    const script = `require('fs').writeFileSync(${JSON.stringify(file)}, String(process.pid)); setInterval(() => {}, 1000)`;
    const running = commandReload(node(script), systemClock).run(stop.signal);
    running.catch(() => undefined);
    const pid = await pidIn(file);
    stop.abort();
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    expect(isAlive(pid)).toBe(false);
  });
});
