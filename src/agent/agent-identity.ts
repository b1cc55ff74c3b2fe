import type { ServerClient } from '../clients/server-client.ts';
import type { KeyManager, ManagedKey } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { Backoff, type Clock } from '../runtime/time.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
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
      const dueInMs = state === undefined ? 0 : renewalMs(state.svid) - clock.now();
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

  /** Keeps a newer bundle, on disk first. */
  async setBundle(bundle: Bundle): Promise<void> {
    const state = this.#deps.state.value;
    if (state === undefined || state.bundle.equals(bundle)) return;
    await this.#store({ ...state, bundle }, this.#keyId);
  }

  #mustAttest(): boolean {
    const state = this.#deps.state.value;
    return state === undefined || state.svid.notAfterMs <= this.#deps.clock.now();
  }

  #note(error: unknown): void {
    const text = errorText(error);
    const tokenIsSpent =
      this.#mustAttest() && isAppError(error, 'invalid-argument') && this.#deps.attestorType === 'join_token';
    const nextStep = tokenIsSpent ? '; make a new one with `signet token create` on the server' : '';
    this.#problem = text + nextStep;
    const what = this.#mustAttest() ? 'attestation failed' : 'renewal of the agent SVID failed';
    this.#deps.log.warn({ error, nextStep }, `${what}; it is tried again`);
  }

  /** A key left from an attestation whose answer was lost is used again: the server lets it repeat a token. */
  async #attest(signal: AbortSignal): Promise<void> {
    const { keyManager, attestor, attestorType, bootstrap, log } = this.#deps;
    const keyId = agentKeyIds[0];
    const key = (await keyManager.findKey(keyId)) ?? (await keyManager.generateKey(keyId, 'ec-p256'));
    const contact = await bootstrap.connect(this.#deps.state.value?.bundle, signal);
    try {
      const result = await contact.client.attestAgent({
        type: attestorType,
        payload: await attestor.payload(),
        csr: await buildCsr({ signer: key }),
        answer: (challenge) => attestor.answer(challenge),
        signal,
      });
      const bundle = await contact.client.getBundle({ signal });
      await this.#accept(key, keyId, result.chain, bundle, result.reattestable);
      log.info({ agentId: this.#deps.state.value?.svid.id.toString() }, 'attested');
    } finally {
      contact.close();
    }
  }

  async #renew(signal: AbortSignal): Promise<void> {
    const { keyManager, client, log } = this.#deps;
    const state = this.#deps.state.value;
    if (state === undefined) return;
    const keyId = agentKeyIds.find((slot) => slot !== this.#keyId) ?? agentKeyIds[1];
    const key = await keyManager.generateKey(keyId, 'ec-p256');
    const chain = await client().renewAgent({ csr: await buildCsr({ signer: key }), signal });
    await this.#accept(key, keyId, chain, state.bundle, state.reattestable);
    log.info({ expiresAt: new Date(this.#deps.state.value?.svid.notAfterMs ?? 0) }, 'agent SVID renewed');
  }

  /** Checks what the server sent before anything of ours is replaced by it. */
  async #accept(
    key: ManagedKey,
    keyId: AgentKeyId,
    chain: readonly Certificate[],
    bundle: Bundle,
    reattestable: boolean,
  ): Promise<void> {
    const svid = verifyX509Svid({
      chain,
      bundles: (domain) => (domain.equals(bundle.trustDomain) ? bundle : undefined),
      nowMs: this.#deps.clock.now(),
    });
    const [leaf] = svid.chain;
    if (leaf === undefined || Buffer.compare(leaf.spki, key.publicKey) !== 0) {
      throw new AppError('internal', 'the server signed another key than the one it was asked for');
    }
    if (!svid.id.isMemberOf(this.#deps.trustDomain) || !svid.id.path.startsWith('/spire/agent/')) {
      throw new AppError(
        'internal',
        `the server gave the agent the identity "${svid.id}"; /spire/agent/… was expected`,
      );
    }
    const privateKeyPem = await this.#exported(keyId);
    await this.#store({ svid, privateKeyPem, bundle, reattestable }, keyId);
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

  /** A state that cannot be used is set aside with a message; the agent then attests anew. */
  async #load(): Promise<void> {
    const { log, keyManager, state, clock } = this.#deps;
    try {
      const stored = await this.#file.read();
      if (stored === undefined) return;
      const { keyId, chain, bundle, reattestable } = stored;
      const publicKey = (await keyManager.findKey(keyId))?.publicKey;
      if (
        chain[0] === undefined ||
        publicKey === undefined ||
        Buffer.compare(chain[0].spki, publicKey) !== 0
      ) {
        throw new AppError('failed-precondition', 'its key is missing or another one');
      }
      const svid = readSvid(chain, bundle, clock.now());
      this.#keyId = keyId;
      state.set({ svid, privateKeyPem: await this.#exported(keyId), bundle, reattestable });
      log.info(
        { agentId: svid.id.toString(), expiresAt: new Date(svid.notAfterMs) },
        'identity read from disk',
      );
    } catch (error) {
      const kept = await this.#file.setAside().catch(() => undefined);
      log.warn({ error, kept }, 'the stored identity cannot be used; attesting anew');
    }
  }
}

/** Verified as of its own validity: an expired identity is still known for its bundle. */
function readSvid(chain: readonly Certificate[], bundle: Bundle, nowMs: number): X509Svid {
  const momentMs = Math.min(nowMs, chain[0]?.notAfterMs ?? 0);
  return verifyX509Svid({ chain, bundles: () => bundle, nowMs: momentMs });
}

function renewalMs(svid: X509Svid): number {
  return svid.notBeforeMs + (svid.notAfterMs - svid.notBeforeMs) * renewAtShare;
}
