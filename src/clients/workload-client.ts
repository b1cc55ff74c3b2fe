import { SpiffeWorkloadAPIService } from '../gen/workloadapi.ts';
import {
  type CallOptions,
  type ClientChannel,
  type ClientMethod,
  callServerStream,
} from '../rpc/grpc-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import { type Logger, silentLogger } from '../runtime/log.ts';
import { Backoff, type Clock, systemClock } from '../runtime/time.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { findWorkloadEndpoint, workloadChannel } from './workload-endpoint.ts';
import { parseX509Bundles, parseX509Update, type WorkloadX509Update } from './workload-messages.ts';

export type { WorkloadX509Svid, WorkloadX509Update } from './workload-messages.ts';

/** SPIFFE Workload Endpoint §5: proof that the request was not forged by a browser or proxy. */
const securityHeader = { 'workload.spiffe.io': 'true' } as const;
const fetchTimeoutMs = 30_000;

const nothing: WorkloadX509Update = { svids: [], bundles: new Map() };

interface Deps {
  readonly channel: ClientChannel;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A client of the SPIFFE Workload API: the identities and trust bundles of the process that uses it. */
export class WorkloadClient {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** To this address, else to the one in SPIFFE_ENDPOINT_SOCKET. Throws `invalid-argument`; connects when first used. */
  static connect(
    address?: string,
    options: { readonly log?: Logger; readonly clock?: Clock } = {},
  ): WorkloadClient {
    const { log = silentLogger, clock = systemClock } = options;
    return new WorkloadClient({ channel: workloadChannel(findWorkloadEndpoint(address)), clock, log });
  }

  /** What this process is granted now. Throws AppError: `permission-denied` when it has no identity. */
  fetchX509Svids(call: { readonly signal: AbortSignal }): Promise<WorkloadX509Update> {
    return this.#first(SpiffeWorkloadAPIService.fetchX509Svid, parseX509Update, call);
  }

  /** Trust bundles by trust domain name. Throws AppError. */
  fetchX509Bundles(call: { readonly signal: AbortSignal }): Promise<ReadonlyMap<string, Bundle>> {
    return this.#first(SpiffeWorkloadAPIService.fetchX509Bundles, parseX509Bundles, call);
  }

  /**
   * Each update until `signal` aborts, across restarts of the agent; an update without SVIDs when the agent has taken
   * all away. Throws only what waiting cannot mend: `invalid-argument` and `unimplemented`.
   */
  watchX509Svids(signal: AbortSignal): AsyncGenerator<WorkloadX509Update, void, undefined> {
    return this.#watch(SpiffeWorkloadAPIService.fetchX509Svid, parseX509Update, { signal, nothing });
  }

  /** The same for trust bundles; an empty map when there are none any more. */
  watchX509Bundles(signal: AbortSignal): AsyncGenerator<ReadonlyMap<string, Bundle>, void, undefined> {
    const none: ReadonlyMap<string, Bundle> = new Map();
    return this.#watch(SpiffeWorkloadAPIService.fetchX509Bundles, parseX509Bundles, {
      signal,
      nothing: none,
    });
  }

  close(): void {
    this.#deps.channel.close();
  }

  async #first<Wire, T>(
    method: ClientMethod<Record<string, never>, Wire>,
    parse: (message: Wire) => T,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<T> {
    for await (const message of this.#stream(method, { signal, timeoutMs: fetchTimeoutMs }))
      return parse(message);
    throw new AppError('unavailable', `${method.path} ended without an answer`);
  }

  async *#watch<Wire, T>(
    method: ClientMethod<Record<string, never>, Wire>,
    parse: (message: Wire) => T,
    options: { readonly signal: AbortSignal; readonly nothing: T },
  ): AsyncGenerator<T, void, undefined> {
    const { clock, log } = this.#deps;
    const { signal, nothing } = options;
    const backoff = new Backoff({ baseMs: 500, capMs: 30_000 });
    let hasSomething = false;
    let problem: string | undefined;
    while (!signal.aborted) {
      try {
        for await (const message of this.#stream(method, { signal })) {
          const update = this.#parsed(parse, message);
          if (update === undefined) continue;
          backoff.reset();
          if (problem !== undefined) log.info({ method: method.path }, 'Workload API answers again');
          problem = undefined;
          hasSomething = true;
          yield update;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (isAppError(error, 'invalid-argument') || isAppError(error, 'unimplemented')) throw error;
        // Once for each kind: a restarting agent is away in several ways, a registration may be hours away.
        const kind = isAppError(error) ? error.code : errorText(error);
        log[kind === problem ? 'debug' : 'warn'](
          { error, method: method.path },
          'Workload API stream ended; it is tried again',
        );
        problem = kind;
        if (hasSomething && isAppError(error, 'permission-denied')) {
          hasSomething = false;
          yield nothing;
        }
      }
      await clock.sleep(backoff.nextMs(), signal);
    }
  }

  /** A message that is no good is discarded: what was granted before stays in use (SPIFFE Workload API §4.6). */
  #parsed<Wire, T>(parse: (message: Wire) => T, message: Wire): T | undefined {
    try {
      return parse(message);
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.#deps.log.error({ error }, 'Workload API message discarded');
      return undefined;
    }
  }

  #stream<Wire>(
    method: ClientMethod<Record<string, never>, Wire>,
    options: CallOptions,
  ): AsyncIterable<Wire> {
    return callServerStream(this.#deps.channel, method, {}, { ...options, metadata: securityHeader });
  }
}
