import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { eventually, Hopeless, type Patience } from './eventually.ts';

/** What to start. With `uid` and `gid` it runs as that user (needs root). */
export interface ProcessOptions {
  readonly name: string;
  readonly command: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
}

/** How a process ended: one of the two is null. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Longer outputs lose their first lines. */
const keptLines = 5_000;
const running = new Set<ChildProcess>();

// Whatever happens to this process, no child outlives it.
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A child process whose output lines can be waited for, and that is always ended by its PID. */
export class RunningProcess {
  readonly name: string;
  readonly pid: number;
  /** Settles when the process has ended and its output is complete. */
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #listeners = new Set<(line: string) => void>();
  #exit: Exit | undefined;

  private constructor(name: string, pid: number, child: ChildProcess) {
    this.name = name;
    this.pid = pid;
    this.#child = child;
    running.add(child);
    for (const stream of [child.stdout, child.stderr]) {
      if (stream !== null) createInterface({ input: stream }).on('line', (line) => this.#take(line));
    }
    this.exited = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        running.delete(child);
        this.#exit = { code, signal };
        resolve(this.#exit);
      });
    });
  }

  /** Starts a process; throws when the command cannot be run at all. */
  static async start({ name, command, args = [], env = {}, ...as }: ProcessOptions): Promise<RunningProcess> {
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
      ...as,
    });
    if (child.pid === undefined) {
      const [error] = await once(child, 'error');
      throw new Error(`${name}: cannot start ${command}`, { cause: error });
    }
    return new RunningProcess(name, child.pid, child);
  }

  /** Output lines of both streams so far, oldest first. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** How it ended; undefined while it runs. */
  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** Calls `listener` with each line from now on; returns what ends that. */
  onLine(listener: (line: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Waits for a condition that this process brings about; its end, or the deadline, fails with its last output. */
  async until<T>(
    what: string,
    look: () => T | Promise<T>,
    patience?: Patience,
  ): Promise<Exclude<T, undefined | false>> {
    const checked = async () => {
      if (this.#exit !== undefined)
        throw new Hopeless(`${this.name} ended (${describe(this.#exit)}) before ${what}`);
      return await look();
    };
    try {
      return await eventually<T>(`${this.name}: ${what}`, checked, patience);
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : String(error)}\n${this.tail()}`, {
        cause: error,
      });
    }
  }

  /** Waits for an output line that matches, those already there included. */
  async waitForLine(pattern: RegExp, patience?: Patience): Promise<string> {
    return await this.until(
      `a line like ${pattern}`,
      () => this.#lines.find((line) => pattern.test(line)),
      patience,
    );
  }

  /** Sends `signal` and waits for the end; after `timeoutMs` it is killed, and that is an error. */
  async stop({
    signal = 'SIGTERM',
    timeoutMs = 15_000,
  }: {
    signal?: NodeJS.Signals;
    timeoutMs?: number;
  } = {}): Promise<Exit> {
    if (this.#exit !== undefined) return this.#exit;
    this.#child.kill(signal);
    const timer = AbortSignal.timeout(timeoutMs);
    const late = once(timer, 'abort').then(() => undefined);
    const exit = await Promise.race([this.exited, late]);
    if (exit !== undefined) return exit;
    this.#child.kill('SIGKILL');
    await this.exited;
    throw new Error(`${this.name} did not end within ${timeoutMs} ms after ${signal}\n${this.tail()}`);
  }

  /** The last lines of output, for failure texts. */
  tail(count = 30): string {
    const lines = this.#lines.slice(-count).map((line) => `  ${line}`);
    return [`last output of ${this.name} (pid ${this.pid}):`, ...lines].join('\n');
  }

  #take(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length > keptLines) this.#lines.splice(0, keptLines / 10);
    for (const listener of this.#listeners) listener(line);
  }
}

/** `exit code 1`, `SIGKILL`. */
function describe({ code, signal }: Exit): string {
  return signal ?? `exit code ${code}`;
}
