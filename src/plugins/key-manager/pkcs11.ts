import { randomBytes } from 'node:crypto';
import type {
  KeyManager,
  KeyManagerContext,
  KeyManagerFigures,
  KeyManagerStatus,
  ManagedKey,
  StrayKey,
} from '../../plugin-api/key-manager.ts';
import { AppError, isAppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { SerialQueue } from '../../runtime/serial-queue.ts';
import type { Clock } from '../../runtime/time.ts';
import { type KeyType, signatureAlgorithmOf, verifySignature } from '../../x509/signature.ts';
import { checkKeyId, checkKeyType } from './key-id.ts';
import type { Pkcs11Config } from './pkcs11-config.ts';
import { type ConnectedToken, TokenConnection } from './pkcs11-connection.ts';
import { ck } from './pkcs11-constants.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { WorkerProcess } from './pkcs11-process.ts';
import type { TokenFacts, TokenKey } from './pkcs11-protocol.ts';
import { RefusedPins } from './pkcs11-refused-pins.ts';
import { SignQueue } from './sign-queue.ts';
import { TokenKeys } from './token-keys.ts';

/** All that is not a signature: the operator waits, or the rotation does. */
const changeTimeoutMs = 600_000;

/**
 * Keys that are made in a PKCS#11 token and never leave it. A signature goes through a bounded queue to the one
 * connection and from there to a process of its own, which runs the vendor's module; see `pkcs11-connection.ts` for
 * what happens when the token goes away. Which keys there are is known here at any time, also while it is away.
 */
export class Pkcs11KeyManager implements KeyManager {
  readonly #config: Pkcs11Config;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #connection: TokenConnection;
  readonly #queue: SignQueue;
  readonly #changes = new SerialQueue();
  readonly #keys = new TokenKeys((key, data) => this.#sign(key, data));
  readonly #closed = new AbortController();
  readonly #counted = { signatures: 0, failures: 0, totalSignMs: 0 };

  private constructor(config: Pkcs11Config, context: KeyManagerContext) {
    const { clock, log, dataDir } = context;
    const { sessions, queueLimit, signTimeout } = config;
    this.#config = config;
    this.#clock = clock;
    this.#log = log;
    this.#queue = new SignQueue({ concurrency: sessions, limit: queueLimit });
    this.#connection = new TokenConnection(
      {
        // Besides the sessions: one for keys, and those that Node itself uses the threads for.
        startWorker: () => new WorkerProcess({ clock }, { threads: sessions + 4 }),
        refusedPins: new RefusedPins({ dataDir, log }),
        onConnected: (facts) => this.#keys.replaceAll(facts.keys),
        clock,
        log,
      },
      {
        module: config.module,
        tokenLabel: config.tokenLabel,
        tokenSerial: config.tokenSerial,
        slot: config.slot,
        pinFile: config.pinFile,
        userType: config.userType === 'user' ? ck.CKU_USER : config.userType,
        sessions,
        labelPrefix: `${config.keyLabelPrefix ?? context.keyNamespace}/`,
      },
      // A module that hangs is found out in time for a second try.
      signTimeout / 2,
    );
  }

  /** Connects the token; throws `failed-precondition` for wrong settings, `unavailable` when it does not come. */
  static async open(config: Pkcs11Config, context: KeyManagerContext): Promise<Pkcs11KeyManager> {
    const manager = new Pkcs11KeyManager(config, context);
    try {
      await manager.#within(Math.max(10_000, config.signTimeout), (signal) =>
        manager.#connection.use(async () => undefined, signal),
      );
    } catch (error) {
      await manager.close();
      throw error;
    }
    return manager;
  }

  /** What the token is and can do; throws `unavailable` while it is not connected. */
  get facts(): TokenFacts {
    const { facts } = this.#connection;
    if (facts === undefined) throw this.#connection.problem ?? new AppError('unavailable', 'no token');
    return facts;
  }

  generateKey(id: string, type: KeyType): Promise<ManagedKey> {
    return this.#change(async (signal) => {
      const label = checkKeyId(id);
      const replaced = this.#keys.idsOf(label);
      const made = await this.#generate(
        { id: newObjectId(this.#clock.now()), label, type: checkKeyType(type) },
        signal,
      );
      const managed = this.#keys.add(made);
      for (const old of replaced) await this.#destroyReplaced(old, label, signal);
      return managed;
    });
  }

  async findKey(id: string): Promise<ManagedKey | undefined> {
    return this.#keys.find(checkKeyId(id));
  }

  async listKeys(): Promise<readonly ManagedKey[]> {
    return this.#keys.current();
  }

  deleteKey(id: string): Promise<void> {
    return this.#change(async (signal) => {
      for (const objectId of this.#keys.idsOf(checkKeyId(id))) await this.#destroy(objectId, signal);
    });
  }

  listStrays(): Promise<readonly StrayKey[]> {
    return this.#change(async (signal) => {
      const { keys, strays } = await this.#connection.use((token) => token.request('list', {}), signal);
      return [
        ...strays.map(({ id, label, why }) => ({ handle: id, keyId: label, why })),
        ...this.#keys.others(keys),
      ];
    });
  }

  deleteStray(handle: string): Promise<void> {
    return this.#change(async (signal) => {
      if (this.#keys.isCurrent(handle)) {
        throw new AppError('failed-precondition', `"${handle}" is a key in use, not a stray one`);
      }
      await this.#destroy(handle, signal);
    });
  }

  /** Counted since the start. */
  get figures(): KeyManagerFigures {
    return {
      ...this.#counted,
      queueLength: this.#queue.length,
      connections: this.#connection.generation,
    };
  }

  status(): KeyManagerStatus {
    const { figures } = this;
    const { facts, problem } = this.#connection;
    if (problem !== undefined || facts === undefined) {
      return {
        state: 'degraded',
        message: `nothing can be signed: ${problem?.message ?? 'no token'}`,
        nextStep: 'bring the token back, or correct the PIN file; docs/hsm.md says more',
        figures,
      };
    }
    const { signatures, failures, queueLength, connections, totalSignMs } = figures;
    const each = signatures === 0 ? '' : `, ${(totalSignMs / signatures).toFixed(1)} ms each`;
    const counts = `${signatures} signatures${each}, ${failures} failures, ${queueLength} waiting`;
    const keys = this.#keys.current().length;
    const message = `token "${facts.label}" (serial ${facts.serial}), ${keys} keys; ${counts}; connected ${connections} times`;
    return { state: 'ok', message, nextStep: '', figures };
  }

  async close(): Promise<void> {
    this.#closed.abort(new AppError('unavailable', 'the key manager is closed'));
    await this.#connection.close();
  }

  async #sign(key: TokenKey, data: Uint8Array): Promise<Uint8Array> {
    const startedMs = this.#clock.monotonic();
    try {
      const signature = await this.#within(this.#config.signTimeout, (signal) =>
        this.#queue.run(() => this.#connection.use((token) => signWith(token, key, data), signal), signal),
      );
      this.#counted.signatures += 1;
      this.#counted.totalSignMs += this.#clock.monotonic() - startedMs;
      return signature;
    } catch (error) {
      this.#counted.failures += 1;
      throw error;
    }
  }

  /** One at a time: two new keys for one id would each replace what they found. */
  #change<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#changes.run(() => this.#within(changeTimeoutMs, work));
  }

  /** Settles as `work` does, or rejects after `timeoutMs` or when this is closed; `work` gets the signal of that. */
  async #within<T>(timeoutMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController();
    const done = new AbortController();
    const ended = Promise.withResolvers<never>();
    const end = (error: unknown) => {
      late.abort(error);
      ended.reject(error);
    };
    const onClosed = () => end(this.#closed.signal.reason);
    if (this.#closed.signal.aborted) onClosed();
    this.#closed.signal.addEventListener('abort', onClosed, { once: true });
    void this.#clock.sleep(timeoutMs, done.signal).then(() => {
      if (!done.signal.aborted) end(this.#tooLate(timeoutMs));
    });
    try {
      return await Promise.race([ended.promise, work(late.signal)]);
    } finally {
      done.abort();
      this.#closed.signal.removeEventListener('abort', onClosed);
    }
  }

  #tooLate(timeoutMs: number): AppError {
    const { problem } = this.#connection;
    if (problem !== undefined) return problem;
    const seconds = timeoutMs / 1000;
    const message = `the token has not answered within ${seconds} s; ${this.#queue.length} signatures wait for it`;
    return new AppError('deadline-exceeded', message, { retryAfterMs: 1_000 });
  }

  /** After a fault nobody knows what the token has made of the first try: it is removed before the next one. */
  #generate(wanted: { id: string; label: string; type: KeyType }, signal: AbortSignal): Promise<TokenKey> {
    let tries = 0;
    return this.#connection.use(async (token) => {
      if (!token.facts.keyTypes.includes(wanted.type)) throw cannotMake(wanted.type, token.facts);
      if (tries > 0) await token.request('destroy', { id: wanted.id });
      tries += 1;
      return token.request('generate', wanted);
    }, signal);
  }

  /** The new key is there and counts; that the old one still is makes it a stray, not an error. */
  async #destroyReplaced(objectId: string, keyId: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#destroy(objectId, signal);
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.#log.warn({ keyId, error }, 'a key that was replaced could not be destroyed; it is a stray now');
    }
  }

  async #destroy(objectId: string, signal: AbortSignal): Promise<void> {
    await this.#connection.use((token) => token.request('destroy', { id: objectId }), signal);
    this.#keys.remove(objectId);
  }
}

/** The first signature of a key on a connection is verified: the token may not be the one it was. */
async function signWith(token: ConnectedToken, key: TokenKey, data: Uint8Array): Promise<Uint8Array> {
  const signature = await token.request('sign', { id: key.id, data }).catch((error: unknown) => {
    if (!(error instanceof TokenFault) || error.fault.name !== 'KEY_NOT_FOUND') throw error;
    throw new TokenFault({ ...error.fault, detail: `"${key.label}"` });
  });
  if (token.verified.has(key.id)) return signature;
  const algorithmOid = signatureAlgorithmOf(key.type).oid;
  if (!verifySignature({ spki: key.publicKey, algorithmOid, data, signature })) {
    throw new TokenFault({ name: 'BAD_SIGNATURE', method: 'C_Sign' });
  }
  token.verified.add(key.id);
  return signature;
}

function cannotMake(type: KeyType, { label, keyTypes }: TokenFacts): AppError {
  const can = keyTypes.length === 0 ? 'none of ours' : keyTypes.join(', ');
  return new AppError(
    'failed-precondition',
    `token "${label}" cannot make keys of type ${type}; it can: ${can}`,
  );
}

/** A new CKA_ID in hex: later ones sort after earlier ones, so that of two keys with one label the newer counts. */
function newObjectId(nowMs: number): string {
  return nowMs.toString(16).padStart(12, '0') + randomBytes(10).toString('hex');
}
