import { AppError } from './error.ts';
import type { Logger } from './log.ts';
import { type Clock, systemClock } from './time.ts';

/** One long-running part of a role, such as a listener or a sync loop. */
export interface Service {
  readonly name: string;
  /** Calls `ready()` once it serves; resolves after `signal` aborted and it has stopped; rejects when it fails. */
  run(signal: AbortSignal, ready: () => void): Promise<void>;
}

const defaultStopTimeoutMs = 10_000;

/**
 * Starts the services in order, each after the one before is ready, and runs them until `signal` aborts. The first
 * failure stops all, in reverse order, and is rethrown; a service that ends by itself has failed (`internal`). One
 * that takes longer than `stopTimeoutMs` to stop is left behind and reported (`deadline-exceeded`).
 */
export async function runServices(
  services: readonly Service[],
  options: {
    readonly signal: AbortSignal;
    readonly log: Logger;
    readonly stopTimeoutMs?: number;
    readonly onReady?: () => void;
    readonly clock?: Clock;
  },
): Promise<void> {
  const { signal, log } = options;
  const outcome = new Outcome();
  const onAbort = () => outcome.end();
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) outcome.end();
  const running: RunningService[] = [];
  try {
    for (const service of services) {
      if (outcome.isEnded) break;
      log.debug({ service: service.name }, 'service starting');
      const started = new RunningService(service, outcome);
      running.push(started);
      await Promise.race([started.ready, outcome.ended]);
    }
    if (!outcome.isEnded) options.onReady?.();
    await outcome.ended;
  } catch (error) {
    outcome.end(error);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
  for (const service of running.reverse()) await stop(service, outcome, options);
  outcome.throwFailure();
}

/** Ends once, at the first failure or request to stop; later failures are only remembered when there was none. */
class Outcome {
  readonly ended: Promise<void>;
  isEnded = false;
  #failure: { readonly error: unknown } | undefined;
  #resolve: () => void = () => undefined;

  constructor() {
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Returns true when `error` is the failure that `throwFailure` will throw. */
  end(...failure: readonly [] | readonly [error: unknown]): boolean {
    this.isEnded = true;
    this.#resolve();
    if (failure.length === 0 || this.#failure !== undefined) return false;
    this.#failure = { error: failure[0] };
    return true;
  }

  throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}

class RunningService {
  readonly name: string;
  readonly ready: Promise<void>;
  /** Resolves, never rejects, when `run` is over; with the failure while stopping, if any. */
  readonly over: Promise<{ readonly error: unknown } | undefined>;
  readonly #abort = new AbortController();

  constructor(service: Service, outcome: Outcome) {
    this.name = service.name;
    let markReady: () => void = () => undefined;
    this.ready = new Promise((resolve) => {
      markReady = resolve;
    });
    this.over = this.#run(service, outcome, markReady);
  }

  requestStop(): void {
    this.#abort.abort();
  }

  async #run(
    service: Service,
    outcome: Outcome,
    ready: () => void,
  ): ReturnType<() => RunningService['over']> {
    try {
      await service.run(this.#abort.signal, ready);
    } catch (error) {
      return outcome.end(error) ? undefined : { error };
    }
    if (!this.#abort.signal.aborted)
      outcome.end(new AppError('internal', `service "${this.name}" ended by itself`));
    return undefined;
  }
}

async function stop(
  service: RunningService,
  outcome: Outcome,
  options: { readonly log: Logger; readonly stopTimeoutMs?: number; readonly clock?: Clock },
): Promise<void> {
  const { log, stopTimeoutMs = defaultStopTimeoutMs, clock = systemClock } = options;
  log.debug({ service: service.name }, 'service stopping');
  service.requestStop();
  const timer = new AbortController();
  const result = await Promise.race([
    service.over.then((failure) => ({ failure })),
    clock.sleep(stopTimeoutMs, timer.signal).then(() => 'late' as const),
  ]);
  timer.abort();
  if (result === 'late') {
    const message = `service "${service.name}" did not stop within ${stopTimeoutMs} ms`;
    if (!outcome.end(new AppError('deadline-exceeded', message)))
      log.error({ service: service.name }, message);
  } else if (result.failure !== undefined) {
    log.error(
      { service: service.name, error: result.failure.error },
      'service failed while another one stopped all',
    );
  }
}
