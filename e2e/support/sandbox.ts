import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ProcessOptions, RunningProcess } from './process.ts';

/** A temporary folder and everything started in it; `dispose` ends and deletes all of it. */
export class Sandbox {
  readonly dir: string;
  readonly #cleanups: (() => unknown)[] = [];
  readonly #processes: RunningProcess[] = [];

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async create(): Promise<Sandbox> {
    // A short path: names of Unix sockets may have 107 bytes only.
    const dir = await mkdtemp(join(tmpdir(), 'signet-'));
    // Proxies run under other users and must get to the agent's socket; what is private below has its own mode.
    await chmod(dir, 0o755);
    return new Sandbox(dir);
  }

  /** Processes started here, the ended ones included. */
  get processes(): readonly RunningProcess[] {
    return this.#processes;
  }

  /** Starts a process that ends with the sandbox. */
  async start(options: ProcessOptions): Promise<RunningProcess> {
    const started = await RunningProcess.start(options);
    this.#processes.push(started);
    this.onDispose(() => started.stop());
    return started;
  }

  /** Has `cleanup` run by `dispose`, before those registered earlier. */
  onDispose(cleanup: () => unknown): void {
    this.#cleanups.push(cleanup);
  }

  /** Undoes everything, newest first, and goes on after failures; throws the first of them. */
  async dispose(): Promise<void> {
    const failures: unknown[] = [];
    for (let cleanup = this.#cleanups.pop(); cleanup !== undefined; cleanup = this.#cleanups.pop()) {
      try {
        await cleanup();
      } catch (error) {
        failures.push(error);
      }
    }
    await rm(this.dir, { recursive: true, force: true });
    if (failures.length > 0) throw failures[0];
  }
}
