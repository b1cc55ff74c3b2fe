import { type ChildProcess, fork } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../runtime/time.ts';
import { TokenFault } from './pkcs11-faults.ts';
import type { AnswerMessage, Operation, Operations, RequestMessage } from './pkcs11-protocol.ts';

/** Whoever performs operations on a token elsewhere, so that nothing of it can block this process. */
export interface TokenWorker {
  /**
   * Throws TokenFault. When the answer takes longer than `timeoutMs` (`NO_ANSWER`), or the worker ends
   * (`WORKER_ENDED`), the worker is gone for good, and with it all other requests.
   */
  request<Op extends Operation>(
    operation: Op,
    generation: number,
    request: Operations[Op]['request'],
    timeoutMs: number,
  ): Promise<Operations[Op]['answer']>;
  readonly isGone: boolean;
  /** Resolves once it is gone, whoever was the cause. */
  readonly gone: Promise<void>;
  /** Lets what is under way finish, and logs out, within `timeoutMs`; afterwards the worker is gone. */
  close(timeoutMs: number): Promise<void>;
  kill(): void;
}

interface Pending {
  readonly operation: Operation;
  readonly resolve: (answer: never) => void;
  readonly reject: (error: TokenFault) => void;
  readonly timeoutMs: number;
  /** On the monotonic clock. */
  deadlineMs: number;
}

/** The worker process of `pkcs11-worker.ts`, seen from the server. */
export class WorkerProcess implements TokenWorker {
  readonly #clock: Clock;
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  readonly #gone = new AbortController();
  readonly gone: Promise<void>;
  #lastNumber = 0;
  #isWatching = false;

  constructor(deps: { readonly clock: Clock }, options: { readonly threads: number }) {
    this.#clock = deps.clock;
    // What a module prints is nobody's business: some print what they are asked, PINs included, when told to debug.
    this.#child = fork(workerPath(), [], {
      // It keeps next to nothing; V8 would let its garbage grow all the same.
      execArgv: ['--max-semi-space-size=1'],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      env: environment(options.threads),
    });
    this.#child.on('message', (message: AnswerMessage) => this.#onAnswer(message));
    this.gone = new Promise((resolve) => {
      this.#child.once('exit', () => resolve());
      this.#child.once('error', () => resolve());
    });
    void this.gone.then(() => this.#fail(() => new TokenFault({ name: 'WORKER_ENDED', method: '' })));
  }

  get isGone(): boolean {
    return this.#gone.signal.aborted;
  }

  request<Op extends Operation>(
    operation: Op,
    generation: number,
    request: Operations[Op]['request'],
    timeoutMs: number,
  ): Promise<Operations[Op]['answer']> {
    if (this.isGone) return Promise.reject(new TokenFault({ name: 'WORKER_ENDED', method: '' }));
    this.#lastNumber += 1;
    const message: RequestMessage<Op> = { number: this.#lastNumber, operation, generation, request };
    const { promise, resolve, reject } = Promise.withResolvers<Operations[Op]['answer']>();
    const deadlineMs = this.#clock.monotonic() + timeoutMs;
    this.#pending.set(message.number, { operation, resolve, reject, timeoutMs, deadlineMs });
    void this.#watch();
    this.#child.send(message, (error) => {
      if (error !== null) this.kill();
    });
    return promise;
  }

  async close(timeoutMs: number): Promise<void> {
    await this.request('close', 0, {}, timeoutMs).catch(() => undefined);
    this.kill();
    await this.gone;
  }

  kill(): void {
    // A hung module ignores all other signals.
    this.#child.kill('SIGKILL');
    this.#fail(() => new TokenFault({ name: 'WORKER_ENDED', method: '' }));
  }

  #onAnswer(message: AnswerMessage): void {
    const pending = this.#pending.get(message.number);
    if (pending === undefined) return;
    this.#pending.delete(message.number);
    if (pending.operation === 'generate') this.#startAnew();
    if ('fault' in message) pending.reject(new TokenFault(message.fault));
    else pending.resolve(message.answer as never);
  }

  /** One watch for all requests, as long as there are any: a timer for each would cost more than the message. */
  async #watch(): Promise<void> {
    if (this.#isWatching) return;
    this.#isWatching = true;
    while (this.#pending.size > 0 && !this.isGone) {
      const now = this.#clock.monotonic();
      const earliest = this.#earliestDeadlineMs();
      if (earliest <= now) return this.#abandon(now);
      await this.#clock.sleep(Math.min(earliest - now, longestWatchMs), this.#gone.signal);
    }
    this.#isWatching = false;
  }

  /** While a key is made, everything else may have to wait for it: many tokens do one thing at a time. */
  #earliestDeadlineMs(): number {
    const all = [...this.#pending.values()];
    const slow = all.filter(({ operation }) => operation === 'generate');
    return Math.min(...(slow.length > 0 ? slow : all).map(({ deadlineMs }) => deadlineMs));
  }

  /** A key has been made: the time that others had to wait for it was none of theirs. */
  #startAnew(): void {
    const now = this.#clock.monotonic();
    for (const pending of this.#pending.values()) {
      pending.deadlineMs = Math.max(pending.deadlineMs, now + pending.timeoutMs);
    }
  }

  #abandon(now: number): void {
    this.#child.kill('SIGKILL');
    this.#fail(({ deadlineMs }) => {
      return new TokenFault({ name: deadlineMs <= now ? 'NO_ANSWER' : 'WORKER_ENDED', method: '' });
    });
  }

  #fail(why: (pending: Pending) => TokenFault): void {
    this.#gone.abort();
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of all) pending.reject(why(pending));
  }
}

/** A request that comes while the watch sleeps has to wait for it. */
const longestWatchMs = 250;

/** Beside this file, as source or as built. */
function workerPath(): string {
  const own = import.meta.url;
  return fileURLToPath(new URL(`./pkcs11-worker${extname(own)}`, own));
}

/** Modules are configured by variables of their own; those of Node are for the server only. */
function environment(threads: number): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: _options, ...others } = process.env;
  return { ...others, UV_THREADPOOL_SIZE: String(threads) };
}
