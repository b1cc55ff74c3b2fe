import { createHash } from 'node:crypto';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import { FairQueue } from './fair-queue.ts';
import { fingerprintOf, type Program } from './proc-reader.ts';

const chunkBytes = 262_144;
/** Two at a time leave the disk and the thread pool to others, and one user cannot take both. */
const queueLimits = { running: 2, runningPerUid: 1, waiting: 512, waitingPerUid: 4 } as const;
const maxRemembered = 1024;
/** A file as young as this may change again within the same tick of the file system's clock. */
const youngMs = 2000;

interface Deps {
  readonly clock: Clock;
  readonly log: Logger;
}

/** A file to be hashed, for all who run it. */
interface Job {
  readonly key: string;
  readonly result: PromiseWithResolvers<string>;
  /** Who has a place in the queue for it; the first to get its turn reads the file. */
  readonly uids: Set<number>;
  isRunning: boolean;
}

/**
 * SHA-256 of programs: each file is read once, however many callers run it, until it changes. Users get their turns
 * one after another, so that nobody's large programs keep others from their identities.
 */
export class ProgramHashes {
  readonly #deps: Deps;
  readonly #maxBytes: number;
  readonly #maxRemembered: number;
  /** Least recently used first. Undefined = too large. */
  readonly #known = new Map<string, string | undefined>();
  readonly #jobs = new Map<string, Job>();
  readonly #queue = new FairQueue(queueLimits);

  constructor(deps: Deps, options: { readonly maxBytes: number; readonly maxRemembered?: number }) {
    this.#deps = deps;
    this.#maxBytes = options.maxBytes;
    this.#maxRemembered = options.maxRemembered ?? maxRemembered;
  }

  /**
   * The hash in lower-case hex, or undefined when the file is too large. Takes over `program.file` and closes it.
   * Throws `resource-exhausted` when too many of the user's wait, `aborted` when the file changed meanwhile.
   */
  async hash(program: Program, uid: number): Promise<string | undefined> {
    const key = fingerprintOf(program.facts);
    const isTooLarge = program.facts.size > this.#maxBytes;
    if (isTooLarge && !this.#known.has(key)) this.#noteTooLarge(program, key);
    if (this.#known.has(key)) {
      const known = this.#known.get(key);
      this.#remember(key, known);
      await program.file.close();
      return known;
    }
    const job = this.#jobs.get(key) ?? this.#newJob(key);
    // Also when the file waits in another user's line, who may have put it behind a lot of work.
    if (job.isRunning || job.uids.has(uid)) await program.file.close();
    else void this.#run(job, program, uid);
    return job.result.promise;
  }

  #newJob(key: string): Job {
    const job = { key, result: Promise.withResolvers<string>(), uids: new Set<number>(), isRunning: false };
    this.#jobs.set(key, job);
    return job;
  }

  /** Settles the job, unless another does. Never throws. */
  async #run(job: Job, program: Program, uid: number): Promise<void> {
    job.uids.add(uid);
    try {
      const leave = await this.#queue.enter(uid);
      try {
        if (!job.isRunning) await this.#runNow(job, program);
      } finally {
        leave();
      }
    } catch (error) {
      // No place for this user: fine as long as another one has one.
      if (job.uids.size === 1) this.#settle(job, () => job.result.reject(error));
    } finally {
      job.uids.delete(uid);
      await program.file.close().catch(() => undefined);
    }
  }

  async #runNow(job: Job, program: Program): Promise<void> {
    job.isRunning = true;
    try {
      const hash = await this.#read(program, job.key);
      if (this.#isSettled(program)) this.#remember(job.key, hash);
      this.#settle(job, () => job.result.resolve(hash));
    } catch (error) {
      this.#settle(job, () => job.result.reject(error));
    }
  }

  #settle(job: Job, settle: () => void): void {
    this.#jobs.delete(job.key);
    settle();
  }

  /** Each read goes through the thread pool, so that between two chunks the event loop has its turn. */
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
    this.#known.delete(key);
    const oldest = this.#known.size >= this.#maxRemembered ? this.#known.keys().next().value : undefined;
    if (oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(key, hash);
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
