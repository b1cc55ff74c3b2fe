import { createHash } from 'node:crypto';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import { fingerprintOf, type Program } from './proc-reader.ts';

const chunkBytes = 262_144;
/** Two at a time leave the disk and the thread pool to others; more than `maxWaiting` is an attack or a broken node. */
const maxRunning = 2;
const maxWaiting = 128;
const maxRemembered = 1024;
/** A file as young as this may change again within the same tick of the file system's clock. */
const youngMs = 2000;

interface Deps {
  readonly clock: Clock;
  readonly log: Logger;
}

/** SHA-256 of programs: each file is read once, however many callers run it, until it changes. */
export class ProgramHashes {
  readonly #deps: Deps;
  readonly #maxBytes: number;
  /** Undefined = too large. */
  readonly #known = new Map<string, string | undefined>();
  readonly #running = new Map<string, Promise<string>>();
  readonly #waiting: (() => void)[] = [];
  #free = maxRunning;

  constructor(deps: Deps, options: { readonly maxBytes: number }) {
    this.#deps = deps;
    this.#maxBytes = options.maxBytes;
  }

  /**
   * The hash in lower-case hex, or undefined when the file is too large. Takes over `program.file` and closes it.
   * Throws `resource-exhausted` when too many wait, `aborted` when the file changed meanwhile.
   */
  async hash(program: Program): Promise<string | undefined> {
    const key = fingerprintOf(program.facts);
    const isTooLarge = program.facts.size > this.#maxBytes;
    if (isTooLarge && !this.#known.has(key)) this.#noteTooLarge(program, key);
    if (this.#known.has(key) || this.#running.has(key)) {
      await program.file.close();
      return this.#known.get(key) ?? this.#running.get(key);
    }
    const running = this.#start(program, key).finally(() => this.#running.delete(key));
    this.#running.set(key, running);
    return running;
  }

  async #start(program: Program, key: string): Promise<string> {
    try {
      await this.#enter();
      try {
        const hash = await this.#read(program, key);
        if (this.#isSettled(program)) this.#remember(key, hash);
        return hash;
      } finally {
        this.#leave();
      }
    } finally {
      await program.file.close();
    }
  }

  async #read({ file }: Program, key: string): Promise<string> {
    const digest = createHash('sha256');
    const buffer = Buffer.allocUnsafe(chunkBytes);
    for (let position = 0; position <= this.#maxBytes; ) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
      if (bytesRead === 0) break;
      digest.update(buffer.subarray(0, bytesRead));
      position += bytesRead;
    }
    if (fingerprintOf(await file.stat({ bigint: true })) !== key) {
      throw new AppError('aborted', 'the program file changed while it was read');
    }
    return digest.digest('hex');
  }

  /** A file that changes twice within one tick of the clock has the same times twice: too young to remember. */
  #isSettled({ facts }: Program): boolean {
    return this.#deps.clock.now() - Number(facts.ctimeMs) > youngMs;
  }

  #remember(key: string, hash: string | undefined): void {
    const oldest = this.#known.size >= maxRemembered ? this.#known.keys().next().value : undefined;
    if (oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(key, hash);
  }

  async #enter(): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    if (this.#waiting.length >= maxWaiting) {
      throw new AppError('resource-exhausted', 'too many programs wait to be hashed; try again');
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #leave(): void {
    // The place goes straight to the next one, so that nobody comes in between.
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }

  /** Said once for each file. */
  #noteTooLarge({ facts }: Program, key: string): void {
    this.#remember(key, undefined);
    this.#deps.log.warn(
      { bytes: Number(facts.size), maxExecutableBytes: this.#maxBytes },
      'program is too large to hash; its processes get no unix:sha256 selector',
    );
  }
}
