import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from './checkout.ts';

/** Compiles the preloaded library into `dir`. */
export function compileSteppedClock(dir: string): string {
  const library = join(dir, 'stepped-clock.so');
  const source = `${checkout}src/testing/stepped-clock.c`;
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source]);
  return library;
}

/** The time of day of the processes that are started with `env`: it can be set while they run. */
export class SteppedClock {
  readonly env: Readonly<Record<string, string>>;
  readonly #path: string;
  #offsetMs = 0;

  constructor(dir: string, library: string) {
    this.#path = join(dir, 'clock');
    writeFileSync(this.#path, Buffer.alloc(8));
    this.env = { LD_PRELOAD: library, STEPPED_CLOCK: this.#path };
  }

  /** Their time of day, Unix ms. */
  now(): number {
    return Date.now() + this.#offsetMs;
  }

  /** Sets it forward, or back. */
  step(seconds: number): void {
    this.#offsetMs += seconds * 1_000;
    const bytes = Buffer.alloc(8);
    const offset = BigInt(this.#offsetMs / 1_000);
    new BigInt64Array(bytes.buffer, bytes.byteOffset, 1)[0] = offset;
    // In place: the file is mapped, and must never be shorter.
    const file = openSync(this.#path, 'r+');
    writeSync(file, bytes);
    closeSync(file);
  }
}
