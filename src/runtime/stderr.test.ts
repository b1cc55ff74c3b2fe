import { type ChildProcess, execFileSync, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { describe, expect, it, onTestFinished } from 'vitest';
import { tempDir } from '../testing/temp-dir.ts';

const url = JSON.stringify(new URL('./log.ts', import.meta.url).href);

/** A process that logs to its stderr with `log`. */
function startLogging(body: string, stderr: 'pipe' | number): ChildProcess {
  const module = `
    import { createLogger } from ${url};
    const log = createLogger({ level: 'info', format: 'json' });
    ${body}`;
  const stdio: StdioOptions = ['pipe', 'pipe', stderr];
  const child = spawn(process.execPath, ['--input-type=module', '--eval', module], { stdio });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

/** A named pipe that holds 64 KiB until somebody reads. */
function fifo(): { readonly fd: number; read(): string } {
  const path = join(tempDir(), 'stderr');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, 'r+');
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  onTestFinished(() => {
    closeSync(fd);
    closeSync(reader);
  });
  const buffer = Buffer.alloc(1024 * 1024);
  return {
    fd,
    read() {
      try {
        return buffer.toString('utf8', 0, readSync(reader, buffer));
      } catch {
        return '';
      }
    },
  };
}

const messages = (lines: string): Record<string, unknown>[] =>
  lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** 200 bytes and more a line: 8,000 of them are far more than a pipe and the writer hold. */
const flood = `for (let i = 0; i < 8_000; i += 1) log.info({ i, text: 'x'.repeat(150) }, 'line');`;

describe('a process that logs', () => {
  it.each([
    { name: 'exits at once', body: 'process.exit(3);', code: 3 },
    { name: 'crashes', body: `throw new Error('crash');`, code: 1 },
    { name: 'has nothing more to do', body: '', code: 0 },
  ])('gets all lines out when it $name', async ({ body, code }) => {
    const child = startLogging(`for (let i = 0; i < 500; i += 1) log.info({ i }, 'line'); ${body}`, 'pipe');
    const [output, [exitCode]] = await Promise.all([text(child.stderr as never), once(child, 'exit')]);
    expect(exitCode).toBe(code);
    expect(output.match(/"message":"line"/g)).toHaveLength(500);
  });

  it.each(['pipe', 'socket'] as const)('goes on when nobody reads its %s, and tells later', async (kind) => {
    const pipe = kind === 'pipe' ? fifo() : undefined;
    const child = startLogging(
      `${flood}
      process.stdin.on('data', () => console.log('alive'));
      console.log('serving');`,
      pipe?.fd ?? 'pipe',
    );
    const answers = createInterface({ input: child.stdout as never })[Symbol.asyncIterator]();
    expect((await answers.next()).value).toBe('serving');
    child.stdin?.write('?');
    expect((await answers.next()).value).toBe('alive');
    let output = '';
    if (pipe === undefined) child.stderr?.on('data', (bytes) => (output += String(bytes)));
    while (!output.includes('"lost"')) {
      output += pipe?.read() ?? '';
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const lines = messages(output);
    const last = lines.at(-1);
    expect(last).toMatchObject({ level: 'warn', message: expect.stringMatching(/^log lines were lost/) });
    // Whole lines, in order, and none without account.
    expect(lines.slice(0, -1).every(({ i }, index) => i === index)).toBe(true);
    expect(lines.length - 1 + Number(last?.['lost'])).toBe(8_000);
  });

  it('ends in time although nobody reads', async () => {
    const child = startLogging(`${flood} process.exit(4);`, fifo().fd);
    const startedAt = performance.now();
    expect(await once(child, 'exit')).toEqual([4, null]);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });
});
