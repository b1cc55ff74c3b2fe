import { errorText, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Backoff, type Clock } from '../../runtime/time.ts';
import type { FileDirectory } from './file-directory.ts';
import { type FileSet, isSameSet } from './file-plan.ts';
import type { Notifier } from './notifier.ts';

/** What the files are to be. */
export interface WantedFiles {
  readonly files: FileSet;
  /** When the certificate in them is no good any more; undefined when there is none. */
  readonly expiresAtMs: number | undefined;
  /** Fields for the log line. */
  readonly about: object;
}

/** An update of the Workload API as files; undefined = this process may not have them (any more). */
export type Wanted = WantedFiles | undefined;

/** What happens to files whose identity is withdrawn. */
export const withdrawals = ['keep', 'remove'] as const;

/** An agent that has just started may not have all identities at first. */
const withdrawnAfterMs = 30_000;
/** How often is looked whether a set is to be removed or a certificate has expired. */
const lookEveryMs = 10_000;

/**
 * Keeps a directory as the Workload API says, until it is told to stop. Once a first set has been written nothing but
 * that ends it: what cannot be written is tried again, what was written stays meanwhile.
 */
export class FileKeeper {
  readonly #deps: FileKeeperDeps;
  readonly #backoff = new Backoff({ baseMs: 500, capMs: 30_000 });
  /** The last update. */
  #wanted: Wanted | 'unknown' = 'unknown';
  #wantedSinceMs = 0;
  /** Whether what is wanted has not been done yet. */
  #isDue = false;
  #written: FileSet | undefined;
  #expiresAtMs: number | undefined;
  #problem: string | undefined;
  #wake = new AbortController();

  /** `expiresAtMs` is that of the certificate which lies in the directory already. */
  constructor(deps: FileKeeperDeps, expiresAtMs: number | undefined) {
    this.#deps = deps;
    this.#expiresAtMs = expiresAtMs;
  }

  /** Throws what the updates throw, and what prevents the first set from being written. */
  async run(updates: (signal: AbortSignal) => AsyncIterable<Wanted>, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const both = AbortSignal.any([signal, stop.signal]);
    const tasks = [this.#follow(updates(both)), this.#keep(both), this.#deps.notifier.run(both)];
    const outcomes = await Promise.allSettled(tasks.map((task) => task.finally(() => stop.abort())));
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
  }

  async #follow(updates: AsyncIterable<Wanted>): Promise<void> {
    for await (const wanted of updates) {
      // An identity that is still away is no news: the time it has been away counts from the first update.
      if (wanted === undefined && this.#wanted === undefined) continue;
      this.#wanted = wanted;
      this.#wantedSinceMs = this.#deps.clock.monotonic();
      this.#isDue = true;
      this.#wake.abort();
    }
  }

  async #keep(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    while (!signal.aborted) {
      // Before looking: what comes from here on wakes the sleep below.
      this.#wake = new AbortController();
      const againMs = await this.#catchUp();
      await this.#prune();
      this.#warnOfExpiry();
      await clock.sleep(Math.min(againMs, lookEveryMs), AbortSignal.any([signal, this.#wake.signal]));
    }
  }

  /** Does what is due; how long to wait before the next look. */
  async #catchUp(): Promise<number> {
    const wanted = this.#wanted;
    if (!this.#isDue || wanted === 'unknown') return lookEveryMs;
    const leftMs = this.#wantedSinceMs + withdrawnAfterMs - this.#deps.clock.monotonic();
    if (wanted === undefined && leftMs > 0) return leftMs;
    try {
      if (wanted === undefined) await this.#withdraw();
      else await this.#write(wanted);
    } catch (error) {
      if (!isAppError(error) || this.#written === undefined) throw error;
      this.#complain(error);
      return this.#backoff.nextMs();
    }
    this.#backoff.reset();
    this.#problem = undefined;
    if (this.#wanted === wanted) this.#isDue = false;
    return lookEveryMs;
  }

  async #write(wanted: WantedFiles): Promise<void> {
    const { directory, notifier, log } = this.#deps;
    // The agent may have news of other identities only.
    if (this.#written !== undefined && isSameSet(this.#written, wanted.files)) return;
    await directory.replace(wanted.files);
    this.#written = wanted.files;
    this.#expiresAtMs = wanted.expiresAtMs;
    log.info({ directory: directory.path, ...wanted.about }, 'files written');
    // The first time in any case: an earlier run may have ended before the application was told.
    notifier.request();
  }

  async #withdraw(): Promise<void> {
    const { directory, notifier, log, onWithdraw } = this.#deps;
    const expires = this.#expiresAtMs === undefined ? undefined : new Date(this.#expiresAtMs);
    if (onWithdraw === 'keep') {
      log.warn(
        { directory: directory.path, certificateExpires: expires },
        'this process may not have the identity (any more); files that are there stay',
      );
      return;
    }
    await directory.clear();
    this.#written = this.#written === undefined ? undefined : [];
    this.#expiresAtMs = undefined;
    log.warn(
      { directory: directory.path },
      'this process may not have the identity (any more); files removed',
    );
    notifier.request();
  }

  async #prune(): Promise<void> {
    try {
      await this.#deps.directory.prune();
    } catch (error) {
      if (!isAppError(error)) throw error;
      // A disk that is no good is said once, when something is to be written.
      this.#deps.log.debug({ problem: errorText(error) }, 'old files not removed');
    }
  }

  #complain(error: Error): void {
    const { log } = this.#deps;
    const problem = errorText(error);
    log[problem === this.#problem ? 'debug' : 'error'](
      { problem },
      'new files cannot be written; the old ones stay, and it is tried again',
    );
    this.#problem = problem;
  }

  /** Once for each certificate: whoever reads the files cannot use it any more. */
  #warnOfExpiry(): void {
    const { clock, log, directory } = this.#deps;
    if (this.#expiresAtMs === undefined || clock.now() <= this.#expiresAtMs) return;
    log.warn(
      { directory: directory.path, expired: new Date(this.#expiresAtMs) },
      'the certificate in the files has expired',
    );
    this.#expiresAtMs = undefined;
  }
}

interface FileKeeperDeps {
  readonly directory: FileDirectory;
  readonly notifier: Notifier;
  readonly clock: Clock;
  readonly log: Logger;
  readonly onWithdraw: (typeof withdrawals)[number];
}
