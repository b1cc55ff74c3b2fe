import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { onTestFinished } from 'vitest';

/** Another Node process that a test talks to by lines. */
export interface TestProcess {
  readonly pid: number;
  /** The next line of its stdout; rejects when it ends before one comes. */
  nextLine(): Promise<string>;
  writeLine(line: string): void;
  /** Sends the signal and resolves when the process is gone and reaped. */
  kill(signal: NodeJS.Signals): Promise<void>;
}

/** Runs the text of an ES module (which may import `.ts` files by URL) in a process of its own until the test ends. */
export function startNode(module: string): TestProcess {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', module], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`cannot start ${process.execPath}`);
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const kill = async (signal: NodeJS.Signals) => {
    if (!hasExited(child)) child.kill(signal);
    await exited;
  };
  onTestFinished(() => kill('SIGKILL'));
  return {
    pid,
    async nextLine() {
      const { done, value } = await lines.next();
      if (done) throw new Error(`process ${pid} ended without a further line`);
      return value;
    },
    writeLine: (line) => void child.stdin.write(`${line}\n`),
    kill,
  };
}

function hasExited(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}
