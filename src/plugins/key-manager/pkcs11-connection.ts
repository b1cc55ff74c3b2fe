import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import { describeFault, TokenFault } from './pkcs11-faults.ts';
import { pinFileIdentity } from './pkcs11-pin.ts';
import type { TokenWorker } from './pkcs11-process.ts';
import type { ConnectRequest, Operation, Operations, TokenFacts, TokenSettings } from './pkcs11-protocol.ts';
import type { RefusedPins } from './pkcs11-refused-pins.ts';

/** Waits before the attempts to connect; the last one is repeated. */
const backoffMs = [0, 50, 250, 1_000, 2_000] as const;
/** A connection that lasted so long was a good one: after it the pauses start again from none. */
const goodConnectionMs = 5_000;
/** A module that cannot connect so often in a row gets a new process: some recover in no other way. */
const attemptsPerWorker = 4;
/** What fails on so many connections one after the other is not their fault: others may go on with the last. */
const triesPerUse = 3;
const keepAliveMs = 20_000;
/** Tokens take their time for an RSA key: a TPM half a minute, and longer by chance. */
const generateTimeoutMs = 300_000;
const pinFileLookMs = 1_000;

/** A token that is connected, until the first fault. */
export interface ConnectedToken {
  readonly generation: number;
  readonly facts: TokenFacts;
  /** CKA_IDs of keys whose signatures have been verified on this connection. */
  readonly verified: Set<string>;
  request<Op extends Operation>(
    operation: Op,
    request: Operations[Op]['request'],
  ): Promise<Operations[Op]['answer']>;
}

type Phase =
  | { readonly kind: 'connected'; readonly token: ConnectedToken }
  | { readonly kind: 'connecting'; readonly sinceMs: number; readonly fault: TokenFault | undefined }
  /** The PIN is wrong: nothing is tried until the file changes. */
  | { readonly kind: 'pin-refused'; readonly fault: TokenFault }
  | { readonly kind: 'closed' };

interface Deps {
  readonly startWorker: () => TokenWorker;
  readonly refusedPins: Pick<RefusedPins, 'check' | 'remember'>;
  /** Called at each connection, before anything waits for it no more. */
  readonly onConnected: (facts: TokenFacts) => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The one connection of a key manager to its token, shared by all who sign. A fault of the token ends it for all, and
 * one reconnection serves all: new sessions, then the module initialized anew, then another process, with growing
 * pauses and for ever. Only a refused PIN ends the attempts, until its file changes.
 */
export class TokenConnection {
  readonly #deps: Deps;
  readonly #settings: TokenSettings;
  readonly #timeoutMs: number;
  readonly #phase: Observable<Phase>;
  readonly #closed = new AbortController();
  #worker: TokenWorker | undefined;
  #generation = 0;
  /** Failed attempts and short connections in a row. */
  #attempts = 0;
  #connectedAtMs = 0;
  /** The PIN file that the token accepted. */
  #acceptedPin: string | undefined;

  /** Begins to connect. `timeoutMs` is for one operation. */
  constructor(deps: Deps, settings: TokenSettings, timeoutMs: number) {
    this.#deps = deps;
    this.#settings = settings;
    this.#timeoutMs = timeoutMs;
    this.#phase = new Observable<Phase>({
      kind: 'connecting',
      sinceMs: deps.clock.monotonic(),
      fault: undefined,
    });
    void this.#reconnect('reinitialize');
  }

  /** Of the connection that is up now. */
  get facts(): TokenFacts | undefined {
    const phase = this.#phase.value;
    return phase.kind === 'connected' ? phase.token.facts : undefined;
  }

  /** Why nothing can be signed now; undefined while something can. */
  get problem(): AppError | undefined {
    const phase = this.#phase.value;
    if (phase.kind === 'connected') return undefined;
    return phase.kind === 'pin-refused' ? this.#refusal(phase.fault) : this.#unreachable();
  }

  /** How often the token was connected. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Does `work` with the connected token, and again after a fault that a new connection may cure, until `signal`
   * aborts. Throws AppError: `failed-precondition` for what would only fail again, `unavailable` in time.
   */
  async use<T>(work: (token: ConnectedToken) => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let tries = 1; ; tries += 1) {
      if (tries > 1) signal.throwIfAborted();
      const token = await this.#connected(signal);
      try {
        return await work(token);
      } catch (error) {
        if (!(error instanceof TokenFault)) throw error;
        if (error.class === 'refused') throw this.#refusal(error);
        const isLast = tries === triesPerUse;
        if (!isLast || error.class === 'process') this.#lose(token, error);
        if (isLast) throw new AppError('unavailable', `${this.#name}: ${describeFault(error.fault)}`);
      }
    }
  }

  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#phase.set({ kind: 'closed' });
    await this.#worker?.close(2_000);
  }

  /** The token, once it is connected; throws when it will not be, or not in time. */
  async #connected(signal: AbortSignal): Promise<ConnectedToken> {
    const now = this.#phase.value;
    if (now.kind === 'connected') return now.token;
    for await (const phase of this.#phase.watch(signal)) {
      if (phase.kind === 'connected') return phase.token;
      if (phase.kind === 'pin-refused') throw this.#refusal(phase.fault);
      if (phase.kind === 'closed') throw new AppError('unavailable', 'the key manager is closed');
      // What is wrong with the settings is said at the start, where somebody looks.
      if (this.#generation === 0 && phase.fault?.class === 'refused') throw this.#refusal(phase.fault);
    }
    throw this.#unreachable();
  }

  #unreachable(): AppError {
    const phase = this.#phase.value;
    if (phase.kind !== 'connecting')
      return new AppError('unavailable', `${this.#name} does not answer in time`);
    const seconds = Math.round((this.#deps.clock.monotonic() - phase.sinceMs) / 1000);
    const why = phase.fault === undefined ? '' : `: ${describeFault(phase.fault.fault)}`;
    const message = `${this.#name} cannot be reached for ${seconds} s${why}; it is tried again and again`;
    return new AppError('unavailable', message, { retryAfterMs: 1_000 });
  }

  #refusal(fault: TokenFault): AppError {
    const { pinFile } = this.#settings;
    const what = `${this.#name}: ${describeFault(fault.fault)}`;
    const next =
      fault.class === 'pin'
        ? `; the PIN in "${pinFile}" is not tried again before that file changes, since tokens lock after a few wrong ones`
        : '';
    return new AppError('failed-precondition', what + next);
  }

  get #name(): string {
    const { tokenLabel, tokenSerial, slot } = this.#settings;
    if (tokenLabel !== undefined) return `token "${tokenLabel}"`;
    return tokenSerial === undefined ? `token in slot ${slot}` : `token with serial "${tokenSerial}"`;
  }

  /** The first one to meet a fault ends the connection for all; the others find it ended. */
  #lose(token: ConnectedToken, fault: TokenFault): void {
    const phase = this.#phase.value;
    if (phase.kind !== 'connected' || phase.token !== token) return;
    this.#deps.log.warn(
      { fault: describeFault(fault.fault), place: this.#name },
      'connection to the token lost',
    );
    const nowMs = this.#deps.clock.monotonic();
    if (nowMs - this.#connectedAtMs >= goodConnectionMs) this.#attempts = 0;
    this.#phase.set({ kind: 'connecting', sinceMs: nowMs, fault });
    void this.#reconnect(fault.class === 'session' && this.#attempts === 0 ? 'renew' : 'reinitialize');
  }

  async #reconnect(firstRung: ConnectRequest['rung']): Promise<void> {
    const { clock } = this.#deps;
    const { signal } = this.#closed;
    for (let rung = firstRung; !signal.aborted; rung = 'reinitialize') {
      await clock.sleep(backoffMs[this.#attempts] ?? backoffMs[4], signal);
      if (signal.aborted) return;
      this.#attempts += 1;
      if (this.#attempts % attemptsPerWorker === 0) this.#worker?.kill();
      try {
        return await this.#connect(rung);
      } catch (error) {
        await this.#note(error);
      }
    }
  }

  async #connect(rung: ConnectRequest['rung']): Promise<void> {
    const { refusedPins, startWorker, clock, log } = this.#deps;
    await refusedPins.check(this.#settings.pinFile);
    if (this.#closed.signal.aborted) return;
    if (this.#worker === undefined || this.#worker.isGone) this.#worker = startWorker();
    const worker = this.#worker;
    const generation = this.#generation + 1;
    const request = { settings: this.#settings, rung, accepted: this.#acceptedPin };
    const facts = await worker.request('connect', generation, request, Math.max(10_000, 2 * this.#timeoutMs));
    if (this.#closed.signal.aborted) return;
    this.#generation = generation;
    this.#connectedAtMs = clock.monotonic();
    this.#acceptedPin = facts.pinFile;
    const phase = this.#phase.value;
    const outageMs = phase.kind === 'connecting' ? Math.round(this.#connectedAtMs - phase.sinceMs) : 0;
    const token: ConnectedToken = {
      generation,
      facts,
      verified: new Set(),
      request: (operation, parameters) =>
        worker.request(
          operation,
          generation,
          parameters,
          operation === 'generate' ? generateTimeoutMs : this.#timeoutMs,
        ),
    };
    this.#deps.onConnected(facts);
    this.#phase.set({ kind: 'connected', token });
    const { label, serial, product, keys } = facts;
    log.info({ label, serial, product, keys: keys.length, generation, outageMs }, 'token connected');
    void this.#keepAlive(token);
    void worker.gone.then(() => this.#lose(token, new TokenFault({ name: 'WORKER_ENDED', method: '' })));
  }

  /** Remembers why an attempt has failed; after a refused PIN, waits for another one. */
  async #note(error: unknown): Promise<void> {
    const { clock, log, refusedPins } = this.#deps;
    const fault = error instanceof TokenFault ? error : faultOfError(error);
    const before = this.#phase.value;
    if (this.#closed.signal.aborted) return;
    const sinceMs = before.kind === 'connecting' ? before.sinceMs : clock.monotonic();
    const isNew = before.kind !== 'connecting' || before.fault?.fault.name !== fault.fault.name;
    if (isNew)
      log.warn({ fault: describeFault(fault.fault), place: this.#name }, 'token cannot be connected');
    if (fault.class !== 'pin') return this.#phase.set({ kind: 'connecting', sinceMs, fault });
    const refused = fault.fault.pinFile ?? (await pinFileIdentity(this.#settings.pinFile));
    await refusedPins.remember(refused);
    this.#phase.set({ kind: 'pin-refused', fault });
    while (!this.#closed.signal.aborted && (await pinFileIdentity(this.#settings.pinFile)) === refused) {
      await clock.sleep(pinFileLookMs, this.#closed.signal);
    }
    if (!this.#closed.signal.aborted) this.#phase.set({ kind: 'connecting', sinceMs, fault: undefined });
  }

  async #keepAlive(token: ConnectedToken): Promise<void> {
    const isCurrent = () => {
      const phase = this.#phase.value;
      return phase.kind === 'connected' && phase.token === token;
    };
    while (isCurrent()) {
      await this.#deps.clock.sleep(keepAliveMs, this.#closed.signal);
      if (!isCurrent()) return;
      try {
        await token.request('ping', {});
      } catch (error) {
        this.#lose(token, error instanceof TokenFault ? error : faultOfError(error));
      }
    }
  }
}

function faultOfError(error: unknown): TokenFault {
  return new TokenFault({ name: 'WORKER_FAILED', method: '', detail: String(error).slice(0, 300) });
}
