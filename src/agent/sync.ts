import type { ServerClient } from '../clients/server-client.ts';
import { AppError, errorText } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { Backoff, type Clock } from '../runtime/time.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../x509/signature.ts';
import type { AgentIdentity, AgentIdentityState } from './agent-identity.ts';
import { type DueSvid, drawRenewalMs, type RenewalWindows } from './rotation-policy.ts';
import type { SvidCache } from './svid-cache.ts';
import type { HeldSvid } from './workload-view.ts';

/** How late an expired SVID may be withdrawn. */
const expiryTickMs = 1_000;
/**
 * CSRs in one call: small enough that the first identities are there soon, far below SPIRE's 500. An RSA key takes up
 * to seconds of a thread that others wait for.
 */
const batchSizeOf = (type: KeyType): number => (type.startsWith('rsa') ? 2 : 100);

interface Deps {
  readonly client: () => ServerClient;
  readonly identity: AgentIdentity;
  /** The agent's own identity, set by `identity`. */
  readonly state: Observable<AgentIdentityState | undefined>;
  readonly cache: SvidCache;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Settings {
  readonly intervalMs: number;
  readonly keyType: KeyType;
  readonly windows: RenewalWindows;
}

/** What went wrong in a round: with bundle or entries, and with the signing of what is due. */
interface Problems {
  readonly sync: string | undefined;
  readonly signing: string | undefined;
}

/** A CSR on its way, and the key that must come back signed. */
interface SigningRequest {
  readonly due: DueSvid;
  readonly entryId: string;
  readonly csr: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly privateKeyPem: string;
}

/**
 * Keeps the cache like the server: the bundle first, then the entries, then SVIDs for what is due, in rounds. A
 * round starts every `intervalMs`, and at once when `wake` is called: by a workload that waits for an SVID now,
 * by a stream of changes from the server later.
 */
export class Sync implements Service {
  readonly name = 'sync';
  readonly #deps: Deps;
  readonly #settings: Settings;
  #wakeUp: () => void = () => undefined;
  #isWoken = false;
  #problems: Problems = { sync: undefined, signing: undefined };
  #lastSyncMs: number | undefined;

  constructor(deps: Deps, settings: Settings) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /** When bundle and entries were last as the server's (Unix ms), and what went wrong in the last round. */
  get status(): { readonly lastSyncMs: number | undefined; readonly problems: Problems } {
    return { lastSyncMs: this.#lastSyncMs, problems: this.#problems };
  }

  /** Starts a round now, or right after the one that runs. */
  wake(): void {
    this.#isWoken = true;
    this.#wakeUp();
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { cache, state } = this.#deps;
    const stopListening = [cache.demand.subscribe(() => this.wake()), state.subscribe(() => this.wake())];
    ready();
    // Side by side: a round may take minutes when the server does not answer.
    await Promise.all([this.#rounds(signal), this.#withdrawals(signal)]);
    for (const stop of stopListening) stop();
  }

  async #rounds(signal: AbortSignal): Promise<void> {
    const { state } = this.#deps;
    const backoff = new Backoff({ baseMs: 250, capMs: Math.min(5_000, this.#settings.intervalMs) });
    while (!signal.aborted) {
      this.#isWoken = false;
      const isDone = state.value !== undefined && (await this.#round(signal));
      if (isDone) backoff.reset();
      // A little earlier than the interval, never later, and not all agents at the same moment.
      const waitMs = isDone ? this.#settings.intervalMs * (0.8 + 0.2 * Math.random()) : backoff.nextMs();
      await this.#pause(waitMs, signal);
    }
  }

  async #withdrawals(signal: AbortSignal): Promise<void> {
    const { clock, cache, log } = this.#deps;
    while (!signal.aborted) {
      await clock.sleep(expiryTickMs, signal);
      for (const { svid } of cache.expire(clock.now())) {
        log.error({ spiffeId: svid.id.toString() }, 'SVID expired before it could be renewed; withdrawn');
      }
    }
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#isWoken) return;
    const woken = new AbortController();
    this.#wakeUp = () => woken.abort();
    await this.#deps.clock.sleep(ms, AbortSignal.any([signal, woken.signal]));
    this.#wakeUp = () => undefined;
  }

  /** One round; what fails is noted and leaves what the cache has. Returns whether all of it succeeded. */
  async #round(signal: AbortSignal): Promise<boolean> {
    const syncing = [
      await this.#attempt(() => this.#syncBundle(signal)),
      await this.#attempt(() => this.#syncEntries(signal)),
    ];
    const signing = await this.#attempt(() => this.#syncSvids(signal));
    if (signal.aborted) return false;
    const now = { sync: syncing.find((problem) => problem !== undefined), signing };
    this.#logChange(now);
    this.#problems = now;
    if (now.sync === undefined) this.#lastSyncMs = this.#deps.clock.now();
    return now.sync === undefined && now.signing === undefined;
  }

  /** The text of what went wrong, if anything. */
  async #attempt(step: () => Promise<void>): Promise<string | undefined> {
    return step().then(
      () => undefined,
      (error: unknown) => errorText(error),
    );
  }

  /** Each problem once, and its end. */
  #logChange(now: Problems): void {
    const { log } = this.#deps;
    if (now.sync !== undefined && now.sync !== this.#problems.sync) {
      log.warn({ problem: now.sync }, 'sync with the server failed; what is held stays in use');
    }
    if (now.signing !== undefined && now.signing !== this.#problems.signing) {
      log.warn({ problem: now.signing }, 'SVIDs could not be signed; it is tried again');
    }
    const wasBad = this.#problems.sync !== undefined || this.#problems.signing !== undefined;
    if (wasBad && now.sync === undefined && now.signing === undefined)
      log.info({}, 'sync with the server works again');
  }

  async #syncBundle(signal: AbortSignal): Promise<void> {
    const { client, identity, cache, state } = this.#deps;
    const bundle = await client().getBundle({ signal });
    if (!state.value?.svid.id.isMemberOf(bundle.trustDomain)) {
      throw new AppError('internal', `the server sent the bundle of "${bundle.trustDomain}"`);
    }
    if (bundle.x509Authorities.length === 0)
      throw new AppError('internal', 'the server sent a bundle without roots');
    // Workloads first: a disk that is full must not keep a new root from them.
    cache.setBundle(bundle);
    await identity.setBundle(bundle);
  }

  async #syncEntries(signal: AbortSignal): Promise<void> {
    const { client, cache, log } = this.#deps;
    const held = [...cache.entries.values()];
    const onInvalid = (id: string, error: AppError) =>
      log.warn({ entryId: id, error }, 'entry cannot be understood');
    cache.setEntries(await client().syncAuthorizedEntries(held, { signal, onInvalid }));
  }

  async #syncSvids(signal: AbortSignal): Promise<void> {
    const due = this.#deps.cache.due();
    const failures: string[] = [];
    const batchSize = batchSizeOf(this.#settings.keyType);
    for (let start = 0; start < due.length && !signal.aborted; start += batchSize) {
      failures.push(...(await this.#sign(due.slice(start, start + batchSize), signal)));
    }
    if (failures[0] !== undefined) {
      throw new AppError(
        'unavailable',
        `${failures.length} SVIDs could not be signed, the first: ${failures[0]}`,
      );
    }
  }

  /** Signs one batch and puts what is good into the cache; returns what failed. */
  async #sign(batch: readonly DueSvid[], signal: AbortSignal): Promise<readonly string[]> {
    const { client, cache, log } = this.#deps;
    const requests = await Promise.all(batch.map((due) => this.#request(due)));
    const answers = await client().batchNewX509Svid(requests, { signal });
    const held: HeldSvid[] = [];
    const failures: string[] = [];
    for (const [i, request] of requests.entries()) {
      try {
        held.push(this.#checked(request, answers[i]));
      } catch (error) {
        failures.push(`${request.due.entry.spiffeId}: ${errorText(error)}`);
      }
    }
    cache.putSvids(held);
    for (const { svid } of held) {
      log.debug({ spiffeId: svid.id.toString(), expiresAt: new Date(svid.notAfterMs) }, 'SVID signed');
    }
    return failures;
  }

  /** A new key for each certificate. */
  async #request(due: DueSvid): Promise<SigningRequest> {
    const key = await generatePrivateKey(this.#settings.keyType);
    const signer = createSoftwareSigner(key);
    const csr = await buildCsr({ signer, uris: [due.entry.spiffeId.toString()] });
    const privateKeyPem = key.export({ type: 'pkcs8', format: 'pem' }).toString();
    return { due, entryId: due.entry.id, csr, publicKey: signer.publicKey, privateKeyPem };
  }

  /** Nothing that a peer would refuse gets into the cache: profile, chain to our bundle, identity and key. */
  #checked(request: SigningRequest, answer: readonly Certificate[] | AppError | undefined): HeldSvid {
    const { cache, clock } = this.#deps;
    const { entry, reason } = request.due;
    if (answer === undefined) throw new AppError('internal', 'the server left out an answer');
    if (answer instanceof AppError) throw answer;
    const nowMs = clock.now();
    const svid = verifyX509Svid({
      chain: answer,
      bundles: () => cache.bundle,
      nowMs,
    });
    if (!svid.id.equals(entry.spiffeId)) {
      throw new AppError('internal', `the server signed the identity "${svid.id}" instead`);
    }
    if (svid.chain[0] === undefined || Buffer.compare(svid.chain[0].spki, request.publicKey) !== 0) {
      throw new AppError('internal', 'the server signed another key than the one it was asked for');
    }
    const renewAtMs = drawRenewalMs({
      issuedAtMs: nowMs,
      notAfterMs: svid.notAfterMs,
      isFirst: reason !== 'renewal',
      windows: this.#settings.windows,
    });
    return { entry, svid, privateKeyPem: request.privateKeyPem, issuedAtMs: nowMs, renewAtMs };
  }
}
