import { onTestFinished, vi } from 'vitest';

/** What this process writes from now on, kept from the terminal until the current test ends. */
export class CapturedOutput {
  readonly #texts = { stdout: '', stderr: '' };

  constructor() {
    for (const name of ['stdout', 'stderr'] as const) {
      const spy = vi.spyOn(process[name], 'write').mockImplementation((chunk) => {
        this.#texts[name] += String(chunk);
        return true;
      });
      onTestFinished(() => spy.mockRestore());
    }
  }

  get stdout(): string {
    return this.#texts.stdout;
  }

  get stderr(): string {
    return this.#texts.stderr;
  }

  /** Forgets what was written so far. */
  clear(): void {
    this.#texts.stdout = '';
    this.#texts.stderr = '';
  }
}
