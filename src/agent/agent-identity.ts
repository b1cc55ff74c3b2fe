import type { ServerClient } from '../clients/server-client.ts';
import type { KeyManager, ManagedKey } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { Backoff, type Clock } from '../runtime/time.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid, type X509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import type { Bootstrap } from './bootstrap.ts';
import { type AgentKeyId, agentKeyIds, IdentityFile } from './identity-file.ts';

/** The agent's own identity and the bundle by which it trusts the server. */
export interface AgentIdentityState {
  readonly svid: X509Svid;
  /** PKCS#8 PEM. */
  readonly privateKeyPem: string;
  readonly bundle: Bundle;
  readonly reattestable: boolean;
}

/** What came back for a key, to be checked. */
interface Issued {
  readonly key: ManagedKey;
  readonly keyId: AgentKeyId;
  readonly chain: readonly Certificate[];
  readonly bundle: Bundle;
  readonly reattestable: boolean;
  /** The identity that it renews. */
  readonly renewed?: SpiffeId;
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
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * How the agent comes to its own SVID and keeps it: read from disk, else attested; renewed at half of its life with
 * a new key; every state is on disk, atomically, before it is used. It never gives up: retries are unlimited, with
 * growing, jittered waits.
 */
export class AgentIdentity implements Service {
  readonly name = 'agent identity';
  readonly #deps: Deps;
  readonly #file: IdentityFile;
  #keyId: AgentKeyId = agentKeyIds[0];
  #problem: string | undefined;
  #renewAtMs = 0;
  #lastChange: Promise<void> = Promise.resolve();

  constructor(deps: Deps) {
    this.#deps = deps;
    this.#file = new IdentityFile(deps.dataDir, deps.trustDomain);
  }

  /** What keeps the agent from having or renewing its identity, for health. */
  get problem(): string | undefined {
    return this.#problem;
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { clock } = this.#deps;
    await this.#load();
    ready();
    const backoff = new Backoff({ baseMs: 500, capMs: 30_000 });
    while (!signal.aborted) {
      const state = this.#deps.state.value;
      const dueInMs = state === undefined ? 0 : this.#renewAtMs - clock.now();
      if (dueInMs > 0) {
        await clock.sleep(Math.min(dueInMs, 60_000), signal);
        continue;
      }
      try {
        await (this.#mustAttest() ? this.#attest(signal) : this.#renew(signal));
        this.#problem = undefined;
        backoff.reset();
      } catch (error) {
        if (signal.aborted) break;
        this.#note(error);
        await clock.sleep(backoff.nextMs(), signal);
      }
    }
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
    });
  }

  #mustAttest(): boolean {
    const state = this.#deps.state.value;
    return state === undefined || state.svid.notAfterMs <= this.#deps.clock.now();
  }

  #note(error: unknown): void {
    this.#problem = errorText(error);
    const what = this.#mustAttest() ? 'attestation failed' : 'renewal of the agent SVID failed';
    this.#deps.log.warn({ error }, `${what}; it is tried again`);
  }

  /** A key left from an attestation whose answer was lost is used again: the server lets it repeat a token. */
  async #attest(signal: AbortSignal): Promise<void> {
    const { keyManager, attestor, attestorType, bootstrap, log } = this.#deps;
    const keyId = this.#spareSlot();
    const key = (await keyManager.findKey(keyId)) ?? (await keyManager.generateKey(keyId, 'ec-p256'));
    const contact = await bootstrap.connect(this.#deps.state.value?.bundle, signal);
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
    const chain = await client().renewAgent({ csr: await buildCsr({ signer: key }), signal });
    await this.#inTurn(() => {
      // Looked up only now: the bundle may have changed since the request.
      const { bundle, reattestable } = this.#deps.state.value ?? state;
      return this.#accept({ key, keyId, chain, bundle, reattestable, renewed: state.svid.id });
    });
    log.info({ expiresAt: new Date(this.#deps.state.value?.svid.notAfterMs ?? 0) }, 'agent SVID renewed');
  }

  /** The slot that holds no key in use. */
  #spareSlot(): AgentKeyId {
    const [first, second] = agentKeyIds;
    return this.#deps.state.value !== undefined && this.#keyId === first ? second : first;
  }

  /** Checks what the server sent before anything of ours is replaced by it. */
  async #accept(issued: Issued): Promise<void> {
    const { key, keyId, chain, bundle, reattestable, renewed } = issued;
    const { trustDomain, keyManager, clock, log } = this.#deps;
    const svid = verifyX509Svid({
      chain,
      bundles: () => bundle,
      nowMs: clock.now(),
    });
    if (Buffer.compare(svid.leaf.spki, key.publicKey) !== 0) {
      throw new AppError('internal', 'the server signed another key than the one it was asked for');
    }
    const isAgent = svid.id.isMemberOf(trustDomain) && svid.id.path.startsWith('/spire/agent/');
    if (!isAgent || renewed?.equals(svid.id) === false) {
      const expected = renewed?.toString() ?? '/spire/agent/…';
      throw new AppError(
        'internal',
        `the server gave the agent the identity "${svid.id}"; ${expected} was expected`,
      );
    }
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
    const turn = this.#lastChange.then(change);
    this.#lastChange = turn.catch(() => undefined);
    return turn;
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
      const svid = readSvid(chain, bundle, clock.now());
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

/**
 * Verified as of its own validity: an expired identity is still known for its bundle, and a machine whose clock is
 * not set yet must not lose its identity.
 */
function readSvid(chain: readonly Certificate[], bundle: Bundle, nowMs: number): X509Svid {
  const { notBeforeMs = 0, notAfterMs = 0 } = chain[0] ?? {};
  const momentMs = Math.max(notBeforeMs, Math.min(nowMs, notAfterMs));
  return verifyX509Svid({ chain, bundles: () => bundle, nowMs: momentMs });
}

/** A token that the server refuses stays refused: says what a person has to do. */
function withNextStep(error: unknown, attestorType: string): unknown {
  if (attestorType !== 'join_token' || !isAppError(error, 'invalid-argument')) return error;
  const nextStep = 'make a new one with `signet token create` on the server';
  return new AppError(error.code, `${error.message}; ${nextStep}`);
}

function renewalMs(svid: X509Svid): number {
  return svid.notBeforeMs + (svid.notAfterMs - svid.notBeforeMs) * renewAtShare;
}
