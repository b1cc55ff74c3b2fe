import type { AuthorityStore } from '../../plugin-api/data-store.ts';
import type { MintedAuthority, MintOptions, UpstreamAuthority } from '../../plugin-api/upstream-authority.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import { lintAndSign } from '../../spiffe/certificate-lint.ts';
import { type AuthoritySubject, intermediateTemplate } from '../../spiffe/signing-certificate.ts';
import { requireSigningRequest } from '../../spiffe/signing-request.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import type { KeyType } from '../../x509/signature.ts';
import type { RotationTimes } from '../rotation-times.ts';
import type { SigningSlot } from './authority.ts';
import { SelfCertifier } from './certifier.ts';
import type { StepObserver } from './journal-steps.ts';
import type { KeptBundle } from './kept-bundle.ts';
import type { KeySlots } from './key-slots.ts';
import { AuthorityRotation } from './rotation.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly journal: AuthorityStore;
  readonly keys: KeySlots;
  readonly bundles: KeptBundle;
  readonly onStep: StepObserver;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Settings {
  readonly subject: AuthoritySubject;
  readonly keyType: KeyType;
  readonly ttlMs: number;
  readonly times: RotationTimes;
  readonly nameConstraints: boolean;
}

/**
 * A long-lived root of our own above short-lived signing certificates, so that its key may live in an HSM and be used
 * a few times a day. It is replaced as they are: prepared, published, active once all connected agents hold it.
 */
export class LocalRoot implements UpstreamAuthority {
  /** The service that replaces the root in time. */
  readonly rotation: AuthorityRotation;
  readonly #deps: Deps;
  readonly #settings: Settings;
  readonly #active = new Observable<SigningSlot | undefined>(undefined);

  constructor(deps: Deps, settings: Settings) {
    this.#deps = deps;
    this.#settings = settings;
    const { clock, trustDomain } = deps;
    const active = this.#active;
    this.rotation = new AuthorityRotation(
      {
        ...deps,
        certifier: new SelfCertifier(clock, { ...settings, trustDomain, pathLength: 1 }),
        target: { active, activate: (slot) => active.set(slot) },
      },
      { ...settings, role: 'root' },
    );
  }

  /** The one that signs now. */
  get certificate(): Certificate | undefined {
    return this.#active.value?.certificate;
  }

  async mint(csr: Uint8Array, { preferredTtlMs, root }: MintOptions): Promise<MintedAuthority> {
    const { trustDomain, clock } = this.#deps;
    const { subject, spki } = requireSigningRequest(csr, trustDomain);
    const slot = root === 'next' ? await this.#prepared() : this.#requireActive();
    const nowMs = clock.now();
    const template = intermediateTemplate({
      trustDomain,
      subject,
      spki,
      nowMs,
      notAfterMs: Math.min(nowMs + preferredTtlMs, slot.certificate.notAfterMs),
      pathLength: 0,
      nameConstraints: this.#settings.nameConstraints,
      issuer: slot.certificate,
    });
    const der = await lintAndSign(template, slot.signer, { profile: 'signing-certificate', trustDomain });
    return { chain: [Certificate.parse(der)], roots: [slot.certificate] };
  }

  /** Its own rotation publishes them. */
  async roots(): Promise<readonly Certificate[]> {
    return [];
  }

  async latestEndMs(): Promise<number> {
    return this.#requireActive().certificate.notAfterMs;
  }

  async prepareRoot(signal: AbortSignal): Promise<void> {
    if ((await this.#findPrepared()) === undefined) await this.rotation.prepareNow('active', signal);
  }

  async activateRoot(keyId: string): Promise<void> {
    const prepared = await this.#findPrepared();
    if (prepared?.id === keyId) await this.rotation.activateNow(keyId);
  }

  #requireActive(): SigningSlot {
    const slot = this.#active.value;
    if (slot === undefined)
      throw new AppError('unavailable', 'server is initializing: there is no active root');
    return slot;
  }

  async #prepared(): Promise<SigningSlot> {
    const slot = await this.#findPrepared();
    if (slot === undefined) throw new AppError('failed-precondition', 'there is no prepared root');
    return slot;
  }

  async #findPrepared(): Promise<SigningSlot | undefined> {
    const { journal, keys } = this.#deps;
    const records = (await journal.list()).filter(
      ({ role, state }) => role === 'root' && state === 'prepared',
    );
    const atHand = await keys.keysOf(records);
    for (const { id, certificate } of records) {
      const signer = atHand.get(id);
      if (signer !== undefined) return { id, certificate, chain: [], signer };
    }
    return undefined;
  }
}
