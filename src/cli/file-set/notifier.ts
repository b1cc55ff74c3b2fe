import { type AppError, errorText, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Reload } from './reload.ts';

/** After the first try; an application that restarts has its new PID by then. */
const retryAfterMs = [1_000, 2_000, 4_000, 8_000] as const;

/**
 * Tells the application of changes, one after the other and never two at a time: changes that come while it is being
 * told are told once afterwards. What fails is tried again for a while, since an application that missed a change
 * would go on with its old certificate until that expires.
 */
export class Notifier {
  readonly #deps: { readonly clock: Clock; readonly log: Logger };
  readonly #reloads: readonly Reload[];
  readonly #changes = new Observable(0);

  constructor(deps: { readonly clock: Clock; readonly log: Logger }, reloads: readonly Reload[]) {
    this.#deps = deps;
    this.#reloads = reloads;
  }

  /** Has `run` tell of a change soon. */
  request(): void {
    this.#changes.set(this.#changes.value + 1);
  }

  /** Tells of each change until `signal` aborts. Never throws: what fails is logged. */
  async run(signal: AbortSignal): Promise<void> {
    for await (const change of this.#changes.watch(signal)) {
      if (change === 0) continue;
      await Promise.all(this.#reloads.map((reload) => this.#tell(reload, change, signal)));
    }
  }

  /** Tells of one change, once; throws the first failure. */
  async once(signal: AbortSignal): Promise<void> {
    for (const reload of this.#reloads) await this.#try(reload, signal);
  }

  async #tell(reload: Reload, change: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    for (let tries = 0; !signal.aborted; tries += 1) {
      try {
        return await this.#try(reload, signal);
      } catch (error) {
        if (!isAppError(error)) throw error;
        if (signal.aborted) return;
        const waitMs = retryAfterMs[tries];
        this.#report(reload, error, { isFirst: tries === 0, isLast: waitMs === undefined });
        if (waitMs === undefined) return;
        await clock.sleep(waitMs, signal);
        // There is news to tell in its place.
        if (this.#changes.value !== change) return;
      }
    }
  }

  async #try(reload: Reload, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    const startedAtMs = clock.monotonic();
    await reload.run(signal);
    const durationMs = Math.round(clock.monotonic() - startedAtMs);
    log.info({ reload: reload.name, durationMs }, 'application told of the new files');
  }

  #report(reload: Reload, error: AppError, { isFirst, isLast }: { isFirst: boolean; isLast: boolean }): void {
    const { log } = this.#deps;
    const fields = { reload: reload.name, problem: errorText(error) };
    const isNobody = error.code === 'not-found';
    if (isLast && isNobody) {
      log.warn(fields, 'nobody to tell of the new files; the application reads them when it starts');
    } else if (isLast) {
      log.error(
        fields,
        'application not told of the new files: it has the old certificate until the next change',
      );
    } else {
      const level = !isFirst ? 'debug' : isNobody ? 'info' : 'warn';
      log[level](fields, 'application not told of the new files yet; it is tried again');
    }
  }
}
