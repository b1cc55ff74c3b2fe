import type { PeerProcess, WorkloadAttestor } from '../../plugin-api/workload-attestor.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { LogLimiter } from '../../runtime/log-limiter.ts';
import { type Clock, systemClock } from '../../runtime/time.ts';
import { canonicalSelectors, type Selector, selectorText } from '../../spiffe/selector.ts';

/** A connection of the workload socket; the same object for all of its calls. */
export interface WorkloadConnection {
  readonly peer: PeerProcess;
  readonly connection: object;
}

/** What is proved of the process behind a connection. */
export interface AttestedWorkload {
  readonly selectors: readonly Selector[];
  /**
   * Resolves while the process lives and still runs the program that was attested; throws `permission-denied` when
   * not. To be awaited before each private key.
   */
  verifyStillSame(): Promise<void>;
}

const attestationTimeoutMs = 10_000;

interface Deps {
  readonly attestors: ReadonlyMap<string, WorkloadAttestor>;
  readonly log: Logger;
  readonly clock?: Clock;
}

/**
 * Attests callers once per connection and program, whatever they call and on however many streams. All attestors must succeed:
 * a missing selector could make a caller look like another one.
 */
export class WorkloadAttestation {
  readonly #deps: Deps;
  /** Any user can come back with a process that cannot be attested, as often as it likes. */
  readonly #failures: LogLimiter;
  readonly #attested = new WeakMap<object, Promise<AttestedWorkload>>();

  constructor(deps: Deps) {
    this.#deps = deps;
    this.#failures = new LogLimiter({ clock: deps.clock ?? systemClock, log: deps.log });
  }

  /** Throws `permission-denied` to refuse the caller, `unavailable` when attestation did not work. */
  attest({ peer, connection }: WorkloadConnection): Promise<AttestedWorkload> {
    const known = this.#attested.get(connection);
    if (known !== undefined) return known;
    const forget = () => this.#attested.delete(connection);
    const attested = this.#attest(peer, forget);
    this.#attested.set(connection, attested);
    // A failure that can pass is not remembered: the next stream of the connection tries again.
    attested.catch(forget);
    return attested;
  }

  async #attest(peer: PeerProcess, forget: () => void): Promise<AttestedWorkload> {
    const { attestors, log } = this.#deps;
    const who = { pid: peer.pid, uid: peer.uid, gid: peer.gid };
    // The fingerprint first: a program replaced while it is attested then shows at the first check.
    const fingerprint = await this.#fingerprint(peer);
    const found = await Promise.all(
      [...attestors].map(async ([name, attestor]) => {
        try {
          return await attestor.attest(peer, { signal: AbortSignal.timeout(attestationTimeoutMs) });
        } catch (error) {
          this.#failures.write('warn', { error, attestor: name, ...who }, 'workload attestation failed');
          if (error instanceof AppError && error.code === 'permission-denied') throw error;
          throw new AppError('unavailable', 'workload attestation failed', { cause: error });
        }
      }),
    );
    if (!peer.isAlive()) throw new AppError('permission-denied', 'the calling process has exited');
    const selectors = canonicalSelectors(found.flat());
    log.debug({ ...who, selectors: selectors.map(selectorText) }, 'workload attested');
    return { selectors, verifyStillSame: this.#checkOf(peer, fingerprint, forget) };
  }

  /** Streams that ask at the same moment share one look at /proc. */
  #checkOf(peer: PeerProcess, fingerprint: string, forget: () => void): () => Promise<void> {
    let running: Promise<void> | undefined;
    const check = async () => {
      const now = await this.#fingerprint(peer);
      // Facts first, liveness last: only then were they the facts of this process.
      if (!peer.isAlive()) throw new AppError('permission-denied', 'the calling process has exited');
      if (now !== fingerprint) {
        // What is asked for next on this connection is asked by the new program, and attested as such.
        forget();
        const why = 'the calling process runs another program than when it was attested; ask again';
        this.#failures.write('warn', { pid: peer.pid, uid: peer.uid }, why);
        throw new AppError('permission-denied', why);
      }
    };
    return () => {
      running ??= check().finally(() => {
        running = undefined;
      });
      return running;
    };
  }

  async #fingerprint(peer: PeerProcess): Promise<string> {
    const parts = await Promise.all(
      [...this.#deps.attestors.values()].map((attestor) => attestor.programFingerprint?.(peer) ?? ''),
    ).catch((cause: unknown) => {
      throw new AppError('permission-denied', 'the calling process cannot be inspected; it may have exited', {
        cause,
      });
    });
    return parts.join('\n');
  }
}
