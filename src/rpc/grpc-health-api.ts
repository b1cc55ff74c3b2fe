import {
  type HealthCheckResponse,
  HealthService,
  HealthCheckResponse_ServingStatus as Status,
} from '../gen/grpc/health/v1/health.ts';
import { AppError } from '../runtime/error.ts';
import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import { type CallContext, type GrpcService, serverStream, serviceOf, unary } from './handlers.ts';
import type { HealthCheck } from './health-api.ts';
import { nameOf } from './service-name.ts';

/** How old an answer may be, and how often one who watches is looked after. */
const freshMs = 1_000;

interface Deps {
  /** What the socket serves; a client may ask for each by its name, or for all with the empty name. */
  readonly services: readonly GrpcService[];
  readonly checks: () => Promise<readonly HealthCheck[]>;
  readonly clock: Clock;
  /** Counts a caller's watch; throws when it has too many. */
  readonly openWatch?: (context: CallContext) => { close(): void };
}

/**
 * `grpc.health.v1.Health`, for load balancers and probes: not serving while a check is not ready. Whoever asks how
 * often, the checks run at most once in a second.
 */
export function grpcHealthApi({ services, checks, clock, openWatch }: Deps): GrpcService {
  const names = ['', ...services.map(nameOf), nameOf({ definition: HealthService })];
  const serving = new Serving(checks, clock);
  return serviceOf(HealthService, {
    check: unary(async ({ service }) => {
      if (!names.includes(service)) throw new AppError('not-found', 'unknown service');
      return { status: await serving.now() };
    }),
    watch: serverStream(async function* ({ service }, context): AsyncGenerator<HealthCheckResponse> {
      const lease = openWatch?.(context);
      try {
        if (names.includes(service)) {
          for await (const status of serving.watch(context.signal)) yield { status };
        } else {
          // The protocol has it that the stream stays, in case the service comes; here none does.
          yield { status: Status.SERVICE_UNKNOWN };
          await aborted(context.signal);
        }
      } finally {
        lease?.close();
      }
    }),
    list: unary(async () => {
      const status = await serving.now();
      return { statuses: Object.fromEntries(names.map((name) => [name, { status }])) };
    }),
  });
}

/** One answer for all who ask, found out anew when it is old and, while somebody watches, regularly. */
class Serving {
  readonly #checks: Deps['checks'];
  readonly #clock: Clock;
  readonly #status = new Observable<Status>(Status.UNKNOWN);
  #known: { readonly atMs: number; readonly status: Promise<Status> } | undefined;
  #watchers = 0;
  #isLooking = false;
  #wakeUp: () => void = () => undefined;

  constructor(checks: Deps['checks'], clock: Clock) {
    this.#checks = checks;
    this.#clock = clock;
  }

  now(): Promise<Status> {
    const nowMs = this.#clock.monotonic();
    if (this.#known === undefined || nowMs - this.#known.atMs >= freshMs) {
      this.#known = { atMs: nowMs, status: this.#find() };
    }
    return this.#known.status;
  }

  /** The status at once, and whenever it changes. */
  async *watch(signal: AbortSignal): AsyncGenerator<Status> {
    this.#watchers += 1;
    if (!this.#isLooking) void this.#look();
    try {
      let said = await this.now();
      yield said;
      for await (const status of this.#status.watch(signal)) {
        if (status === Status.UNKNOWN || status === said) continue;
        said = status;
        yield status;
      }
    } finally {
      this.#watchers -= 1;
      if (this.#watchers === 0) this.#wakeUp();
    }
  }

  async #look(): Promise<void> {
    this.#isLooking = true;
    while (this.#watchers > 0) {
      const status = await this.now();
      if (status !== this.#status.value) this.#status.set(status);
      const unwatched = new AbortController();
      this.#wakeUp = () => unwatched.abort();
      if (this.#watchers > 0) await this.#clock.sleep(freshMs, unwatched.signal);
    }
    this.#isLooking = false;
  }

  async #find(): Promise<Status> {
    try {
      const isReady = (await this.#checks()).every(({ state }) => state !== 'not-ready');
      return isReady ? Status.SERVING : Status.NOT_SERVING;
    } catch {
      return Status.NOT_SERVING;
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
