import type { ServerClient } from '../clients/server-client.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { SerialQueue } from '../runtime/serial-queue.ts';
import type { Clock } from '../runtime/time.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import { buildCsr } from '../x509/csr.ts';
import { AgentStanding, reactionTo } from './agent-standing.ts';
import type { Bootstrap } from './bootstrap.ts';
import { type AgentKeyId, agentKeyIds, IdentityFile } from './identity-file.ts';
import { checkIssued, type Issued, readStored } from './issued-svid.ts';
import { isDistrusted } from './tainted-svids.ts';

/** The agent's own identity and the bundle by which it trusts the server. */
export interface AgentIdentityState {
  readonly svid: X509Svid;
  /** PKCS#8 PEM. */
  readonly privateKeyPem: string;
  readonly bundle: Bundle;
  readonly reattestable: boolean;
}

const renewAtShare = 0.5;

interface Deps {
  readonly trustDomain: TrustDomain;
  /** Where the current identity is kept for everybody to follow; only this room sets it. */
  readonly state: Observable<AgentIdentityState | undefined>;
  readonly dataDir: string;
  readonly attestorType: string;
  readonly attestor: AgentNodeAttestor;
  readonly keyManager: KeyManager;
  readonly bootstrap: Bootstrap;
  /** A client that presents the current identity. */
  readonly client: () => ServerClient;
  /** Called when the server has banned this agent: nothing that was got as it may be served any more. */
  readonly onBanned: () => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * How the agent comes to its own SVID and keeps it: read from disk, else attested; at half of its life renewed, or
 * attested again where the server allows that, with a new key; every state is on disk, atomically, before it is used.
 * It never gives up: retries are unlimited, with growing, jittered waits. What it has is lost in one case only: the
 * server, proved to be ours, says that an administrator has banned this agent.
 */
export class AgentIdentity implements Service {
  readonly name = 'agent identity';
  readonly #deps: Deps;
  readonly #file: IdentityFile;
  readonly #standing: AgentStanding;
  #keyId: AgentKeyId = agentKeyIds[0];
  #problem: string | undefined;
  /** The bundle of a dropped identity: the server is still known by it. */
  #knownBundle: Bundle | undefined;
  #wakeUp: () => void = () => undefined;
  #renewAtMs = 0;
  readonly #changes = new SerialQueue();

  constructor(deps: Deps) {
    this.#deps = deps;
    this.#file = new IdentityFile(deps.dataDir, deps.trustDomain);
    this.#standing = new AgentStanding(deps.clock);
  }

  /** What keeps the agent from having or renewing its identity, for health. */
  get problem(): string | undefined {
    return this.#problem ?? this.#standing.refusal?.message;
  }

  /** Who an administrator has banned, while the server still says so. */
  get bannedId(): SpiffeId | undefined {
    return this.#standing.bannedId;
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    await this.#load();
    ready();
    while (!signal.aborted) {
      const waitMs = this.#standing.takeDelayMs() || Math.min(this.#dueInMs(), 60_000);
      if (waitMs > 0) {
        await this.#pause(waitMs, signal);
        continue;
      }
      try {
        await (this.#mustAttest() ? this.#attest(signal) : this.#renew(signal));
        this.#problem = undefined;
      } catch (error) {
        if (signal.aborted) break;
        this.#note(error);
        this.#standing.failed(error);
      }
    }
  }

  /**
   * Acts on what the server said to a call that was made as `svid`: attests again when that is no longer accepted,
   * and drops it when this agent is banned. Errors of other kinds, and of calls as another identity, mean nothing.
   */
  async noteRefusal(error: unknown, svid: X509Svid): Promise<void> {
    const reaction = reactionTo(error);
    if (reaction === undefined || !isAppError(error) || this.#deps.state.value?.svid !== svid) return;
    if (reaction === 'drop') {
      await this.#inTurn(() => this.#drop(error, svid));
    } else if (this.#standing.refused(error)) {
      this.#warnOfRefusal(error, svid);
      this.#wakeUp();
    }
  }

  /** Notes that a call succeeded that only an accepted agent can make, and that was made as `svid`. */
  noteAccepted(svid: X509Svid): void {
    if (this.#standing.refusal === undefined || this.#deps.state.value?.svid !== svid) return;
    this.#standing.accepted();
    this.#problem = undefined;
    this.#deps.log.info({ agentId: svid.id.toString() }, 'the server accepts the agent again');
    this.#wakeUp();
  }

  /** Keeps a newer bundle, on disk first. Throws `internal` for that of another trust domain. */
  setBundle(bundle: Bundle): Promise<void> {
    return this.#inTurn(async () => {
      if (!bundle.trustDomain.equals(this.#deps.trustDomain)) {
        throw new AppError('internal', `the server sent the bundle of "${bundle.trustDomain}"`);
      }
      const state = this.#deps.state.value;
      if (state === undefined || state.bundle.equals(bundle)) return;
      await this.#store({ ...state, bundle }, this.#keyId);
      // It may distrust what has signed this identity.
      this.#wakeUp();
    });
  }

  #dueInMs(): number {
    const { state, clock } = this.#deps;
    const nowMs = clock.now();
    const isDue =
      state.value === undefined ||
      this.#standing.refusal !== undefined ||
      isDistrusted(state.value.svid, state.value.bundle, nowMs);
    return isDue ? 0 : this.#renewAtMs - nowMs;
  }

  /** As SPIRE has it: who can attest again does so, and a renewal would be refused. */
  #mustAttest(): boolean {
    const state = this.#deps.state.value;
    if (state === undefined || state.reattestable || this.#standing.refusal !== undefined) return true;
    return state.svid.notAfterMs <= this.#deps.clock.now();
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    const woken = new AbortController();
    this.#wakeUp = () => woken.abort();
    await this.#deps.clock.sleep(ms, AbortSignal.any([signal, woken.signal]));
    this.#wakeUp = () => undefined;
  }

  /** Each problem is said once, not at each attempt. */
  #note(error: unknown): void {
    const { log } = this.#deps;
    const text = errorText(error);
    const what = this.#mustAttest() ? 'attestation failed' : 'renewal of the agent SVID failed';
    log[text === this.#problem ? 'debug' : 'warn']({ error }, `${what}; it is tried again`);
    this.#problem = text;
  }

  #warnOfRefusal(error: AppError, svid: X509Svid): void {
    const { log, state, attestorType } = this.#deps;
    const isAble = state.value?.reattestable === true || attestorType !== 'join_token';
    const nextStep = isAble ? 'none: it attests again by itself' : newTokenSteps;
    log.warn(
      { reason: error.reason, agentId: svid.id.toString(), nextStep },
      'the server does not accept this agent any more; workloads keep what they have until it expires',
    );
  }

  /** In memory first, so that nothing is served on; then from the disk, keys before certificates. */
  async #drop(error: AppError, svid: X509Svid): Promise<void> {
    const { state, onBanned, keyManager, log } = this.#deps;
    const dropped = state.value;
    if (dropped?.svid !== svid) return;
    this.#standing.banned(svid.id);
    this.#problem = error.message;
    this.#knownBundle = dropped.bundle;
    state.set(undefined);
    onBanned();
    this.#wakeUp();
    log.error(
      { agentId: svid.id.toString(), nextStep: `signet agent evict ${svid.id}` },
      'an administrator has banned this agent: its identity and those of its workloads are dropped',
    );
    try {
      for (const id of agentKeyIds) await keyManager.deleteKey(id);
      const { bundle, reattestable } = dropped;
      await this.#file.write({ keyId: this.#keyId, chain: [], bundle, reattestable });
    } catch (cause) {
      log.error({ error: cause }, 'the dropped identity cannot be removed from the disk');
    }
  }

  /** A key left from an attestation whose answer was lost is used again: the server lets it repeat a token. */
  async #attest(signal: AbortSignal): Promise<void> {
    const { keyManager, attestor, attestorType, bootstrap, log } = this.#deps;
    const keyId = this.#spareSlot();
    const key = (await keyManager.findKey(keyId)) ?? (await keyManager.generateKey(keyId, 'ec-p256'));
    const known = this.#deps.state.value?.bundle ?? this.#knownBundle;
    const contact = await bootstrap.connect(known, signal);
    try {
      const attestation = {
        type: attestorType,
        payload: await attestor.payload(),
        csr: await buildCsr({ signer: key }),
        answer: (challenge: Uint8Array) => attestor.answer(challenge),
        signal,
      };
      const { chain, reattestable } = await contact.client
        .attestAgent(attestation)
        .catch((error: unknown) => Promise.reject(withNextStep(error, attestorType)));
      const bundle = await contact.client.getBundle({ signal });
      await this.#inTurn(() => this.#accept({ key, keyId, chain, bundle, reattestable }));
      this.#standing.succeeded('attested');
      log.info({ agentId: this.#deps.state.value?.svid.id.toString() }, 'attested');
    } finally {
      contact.close();
    }
  }

  async #renew(signal: AbortSignal): Promise<void> {
    const { keyManager, client, log } = this.#deps;
    const state = this.#deps.state.value;
    if (state === undefined) return;
    const keyId = this.#spareSlot();
    const key = await keyManager.generateKey(keyId, 'ec-p256');
    const csr = await buildCsr({ signer: key });
    const chain = await client()
      .renewAgent({ csr, signal })
      .catch(async (error: unknown) => {
        await this.noteRefusal(error, state.svid);
        throw error;
      });
    await this.#inTurn(() => {
      // Looked up only now: the bundle may have changed since the request.
      const current = this.#deps.state.value;
      if (current === undefined) throw new AppError('aborted', 'the identity was dropped meanwhile');
      const { bundle, reattestable } = current;
      return this.#accept({ key, keyId, chain, bundle, reattestable, renewed: state.svid.id });
    });
    this.#standing.succeeded('renewed');
    log.info({ expiresAt: new Date(this.#deps.state.value?.svid.notAfterMs ?? 0) }, 'agent SVID renewed');
  }

  /** The slot that holds no key in use. */
  #spareSlot(): AgentKeyId {
    const [first, second] = agentKeyIds;
    return this.#deps.state.value !== undefined && this.#keyId === first ? second : first;
  }

  /** Checks what the server sent before anything of ours is replaced by it. */
  async #accept(issued: Issued): Promise<void> {
    const { keyId, bundle, reattestable } = issued;
    const { trustDomain, keyManager, clock, log } = this.#deps;
    const svid = checkIssued(issued, { trustDomain, nowMs: clock.now() });
    const privateKeyPem = await this.#exported(keyId);
    await this.#store({ svid, privateKeyPem, bundle, reattestable }, keyId);
    // From now on and not from notBefore, which lies in the past: a very short life would be renewed without pause.
    const nowMs = clock.now();
    this.#renewAtMs = nowMs + (svid.notAfterMs - nowMs) * renewAtShare;
    // Else a later attestation would take the old key for one whose answer was lost.
    await keyManager
      .deleteKey(this.#spareSlot())
      .catch((error: unknown) => log.warn({ error }, 'the old key of the agent cannot be deleted'));
  }

  async #exported(keyId: string): Promise<string> {
    const { keyManager } = this.#deps;
    if (keyManager.exportKey === undefined) {
      throw new AppError(
        'failed-precondition',
        'keyManager: the agent needs a key manager that can give out its TLS key',
      );
    }
    return keyManager.exportKey(keyId);
  }

  async #store(state: AgentIdentityState, keyId: AgentKeyId): Promise<void> {
    const { bundle, reattestable } = state;
    await this.#file.write({ keyId, chain: state.svid.chain, bundle, reattestable });
    this.#keyId = keyId;
    this.#deps.state.set(state);
  }

  /** One change after the other, each on top of the one before: a bundle and a renewal must not undo each other. */
  #inTurn(change: () => Promise<void>): Promise<void> {
    return this.#changes.run(change);
  }

  /**
   * A state that cannot be used is set aside with a message; the agent then attests anew. One that cannot even be
   * read is an error: it may be sound, and attesting anew may cost a token.
   */
  async #load(): Promise<void> {
    const { log, keyManager, state, clock } = this.#deps;
    try {
      const stored = await this.#file.read();
      if (stored === undefined) return;
      const { keyId, chain, bundle, reattestable } = stored;
      if (chain.length === 0) {
        this.#knownBundle = bundle;
        log.info({}, 'this agent was banned when it last ran; attesting anew');
        return;
      }
      const svid = readStored(chain, bundle, clock.now());
      const publicKey = (await keyManager.findKey(keyId))?.publicKey;
      if (publicKey === undefined || Buffer.compare(svid.leaf.spki, publicKey) !== 0) {
        throw new AppError('invalid-argument', 'its key is missing or another one');
      }
      this.#keyId = keyId;
      this.#renewAtMs = renewalMs(svid);
      state.set({ svid, privateKeyPem: await this.#exported(keyId), bundle, reattestable });
      log.info(
        { agentId: svid.id.toString(), expiresAt: new Date(svid.notAfterMs) },
        'identity read from disk',
      );
    } catch (error) {
      if (isAppError(error, 'failed-precondition')) throw error;
      const kept = await this.#file.setAside().catch(() => undefined);
      log.warn({ error, kept }, 'the stored identity cannot be used; attesting anew');
    }
  }
}

const newToken = 'make a new one with `signet token create` on the server';
const newTokenSteps =
  'run `signet token create` on the server and put the token into nodeAttestor.join_token.tokenFile here; the agent ' +
  'gets another ID by it: move its entries there, or have an alias as their parent (--spiffe-id)';

/** A token that the server refuses stays refused: says what a person has to do. */
function withNextStep(error: unknown, attestorType: string): unknown {
  if (attestorType !== 'join_token' || !isAppError(error, 'invalid-argument')) return error;
  return new AppError(error.code, `${error.message}; ${newToken}`);
}

function renewalMs(svid: X509Svid): number {
  return svid.notBeforeMs + (svid.notAfterMs - svid.notBeforeMs) * renewAtShare;
}
