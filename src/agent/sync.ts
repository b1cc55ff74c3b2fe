import type { ServerClient } from '../clients/server-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { askedWaitMs, Backoff, type Clock } from '../runtime/time.ts';
import { version } from '../runtime/version.ts';
import type { AgentIdentity, AgentIdentityState } from './agent-identity.ts';
import { type FederationStatus, FederationSync } from './federation-sync.ts';
import type { SvidCache } from './svid-cache.ts';
import { type SigningSettings, SvidSigning } from './svid-signing.ts';

/** How late an expired SVID may be withdrawn. */
const expiryTickMs = 1_000;
interface Deps {
  readonly client: () => ServerClient;
  readonly identity: AgentIdentity;
  /** The agent's own identity, set by `identity`. */
  readonly state: Observable<AgentIdentityState | undefined>;
  readonly cache: SvidCache;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Settings extends SigningSettings {
  readonly intervalMs: number;
}

/** What went wrong in a round: with bundle or entries, and with the signing of what is due. */
interface Problems {
  readonly sync: string | undefined;
  readonly signing: string | undefined;
}

/** How it stands with the server. */
export interface SyncStatus {
  readonly lastSyncMs: number | undefined;
  readonly problems: Problems;
  readonly federation: FederationStatus;
}

/**
 * Keeps the cache like the server: the bundle first, then the entries, then SVIDs for what is due, in rounds; beside
 * them the bundles of the trust domains that entries federate with. A round starts every `intervalMs`, and at once when `wake` is called: by a workload that waits for an SVID now,
 * by a stream of changes from the server later.
 */
export class Sync implements Service {
  readonly name = 'sync';
  readonly #deps: Deps;
  readonly #settings: Settings;
  readonly #federation: FederationSync;
  readonly #signing: SvidSigning;
  #wakeUp: () => void = () => undefined;
  #isWoken = false;
  #askedWaitMs = 0;
  /** The connection by which the server was told who we are. */
  #greeted: ServerClient | undefined;
  #problems: Problems = { sync: undefined, signing: undefined };
  #lastSyncMs: number | undefined;

  constructor(deps: Deps, settings: Settings) {
    this.#deps = deps;
    this.#settings = settings;
    this.#federation = new FederationSync(deps);
    this.#signing = new SvidSigning(deps, settings);
  }

  /** When bundle and entries were last as the server's (Unix ms), and what went wrong in the last round. */
  get status(): SyncStatus {
    return { lastSyncMs: this.#lastSyncMs, problems: this.#problems, federation: this.#federation.status };
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
    await Promise.all([this.#federation.settled(), this.#signing.settled()]);
    for (const stop of stopListening) stop();
  }

  async #rounds(signal: AbortSignal): Promise<void> {
    const { state } = this.#deps;
    const backoff = new Backoff({ baseMs: 250, capMs: Math.min(5_000, this.#settings.intervalMs) });
    while (!signal.aborted) {
      this.#isWoken = false;
      this.#askedWaitMs = 0;
      const isDone = state.value !== undefined && (await this.#round(signal));
      if (isDone) backoff.reset();
      // A little earlier than the interval, never later, and not all agents at the same moment.
      const waitMs = isDone ? this.#settings.intervalMs * (0.8 + 0.2 * Math.random()) : backoff.nextMs();
      // When the server says from when on it can help, nobody gets it earlier by asking.
      if (this.#askedWaitMs > 0) await this.#deps.clock.sleep(this.#askedWaitMs, signal);
      await this.#pause(waitMs - this.#askedWaitMs, signal);
    }
  }

  async #withdrawals(signal: AbortSignal): Promise<void> {
    const { clock, cache, log } = this.#deps;
    while (!signal.aborted) {
      await clock.sleep(expiryTickMs, signal);
      for (const { svid, keyType } of cache.expire(clock.now())) {
        log.error(
          { spiffeId: svid.id.toString(), keyType },
          'SVID expired before it could be renewed; withdrawn',
        );
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
    this.#federation.start(signal);
    const signing = await this.#attempt(() => this.#sign(signal));
    if (signal.aborted) return false;
    const now = { sync: syncing.find((problem) => problem !== undefined), signing };
    if (now.sync === undefined) await this.#attempt(() => this.#postStatus(signal));
    this.#logChange(now);
    this.#problems = now;
    if (now.sync === undefined) this.#lastSyncMs = this.#deps.clock.now();
    return now.sync === undefined && now.signing === undefined;
  }

  /** For as long as an interval, or until somebody waits: thousands may be due at once, and changes come meanwhile. */
  async #sign(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const endMs = clock.monotonic() + this.#settings.intervalMs;
    const isTimeUp = () => this.#isWoken || clock.monotonic() >= endMs;
    if (!(await this.#signing.signDue(signal, isTimeUp))) this.#isWoken = true;
  }

  /** The text of what went wrong, if anything; what it means for the agent's own identity is for that to decide. */
  async #attempt(step: () => Promise<void>): Promise<string | undefined> {
    const { identity, state } = this.#deps;
    const svid = state.value?.svid;
    try {
      await step();
      return undefined;
    } catch (error) {
      this.#askedWaitMs = Math.max(this.#askedWaitMs, askedWaitMs(error));
      if (svid !== undefined) await identity.noteRefusal(error, svid);
      return errorText(error);
    }
  }

  /** Once per connection, as SPIRE's agents do; older servers do not have the method, and nothing depends on it. */
  async #postStatus(signal: AbortSignal): Promise<void> {
    const client = this.#deps.client();
    if (client === this.#greeted) return;
    this.#greeted = client;
    try {
      await client.postStatus({ agentVersion: `signet/${version}`, signal });
    } catch (error) {
      if (isAppError(error, 'unavailable') || isAppError(error, 'deadline-exceeded'))
        this.#greeted = undefined;
      throw error;
    }
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
    const { client, identity, cache, state, log } = this.#deps;
    const svid = state.value?.svid;
    const held = [...cache.entries.values()];
    const onInvalid = (id: string, error: AppError) =>
      log.warn({ entryId: id, error }, 'entry cannot be understood');
    const entries = await client().syncAuthorizedEntries(held, { signal, onInvalid });
    if (svid !== undefined) identity.noteAccepted(svid);
    // Else a ban that came meanwhile would not last.
    if (state.value !== undefined) cache.setEntries(entries);
  }
}
