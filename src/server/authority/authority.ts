import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import { type SpiffeId, serverIdOf, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { assembleCertificate, type CertificateTemplate, toBeSigned } from '../../x509/issue.ts';
import type { Signer } from '../../x509/signature.ts';
import { lintCertificate } from './lint.ts';
import { type AuthoritySubject, type LeafRequest, leafTemplate, rootTemplate } from './template.ts';

/** A signing certificate together with its key. */
export interface SigningSlot {
  readonly certificate: Certificate;
  readonly signer: Signer;
}

/** A freshly signed X.509-SVID. */
export interface SignedSvid {
  readonly id: SpiffeId;
  /** DER, leaf first, without the root. */
  readonly chain: readonly Uint8Array[];
  readonly serialDecimal: string;
  /** Unix ms; whole seconds. */
  readonly notAfterMs: number;
}

/**
 * The certificate authority: one pipe from a request to a certificate. Active slot → template → lint of exactly
 * what would be signed → signature → chain. Which slot is active is the business of `rotation.ts`.
 */
export class Authority {
  readonly #deps: { readonly trustDomain: TrustDomain; readonly clock: Clock; readonly log: Logger };
  readonly #active = new Observable<SigningSlot | undefined>(undefined);
  #previous: SigningSlot | undefined;

  constructor(deps: { readonly trustDomain: TrustDomain; readonly clock: Clock; readonly log: Logger }) {
    this.#deps = deps;
  }

  /** The slot that signs; undefined until the first rotation step has been taken. */
  get active(): Observable<SigningSlot | undefined> {
    return this.#active;
  }

  /** Signs a workload's X.509-SVID; throws `unavailable` while there is no active signing certificate. */
  signX509Svid(request: LeafRequest): Promise<SignedSvid> {
    return this.#signLeaf(request);
  }

  /** Signs an agent's own X.509-SVID. */
  signAgentSvid(request: Omit<LeafRequest, 'dnsNames'>): Promise<SignedSvid> {
    return this.#signLeaf({ ...request, dnsNames: [] });
  }

  /** Signs the server's own X.509-SVID. */
  signServerSvid(request: Omit<LeafRequest, 'dnsNames' | 'id'>): Promise<SignedSvid> {
    const outlives = (slot: SigningSlot | undefined) =>
      slot !== undefined && slot.certificate.notAfterMs > this.#deps.clock.now() + request.ttlMs;
    // The root that signed before is in every bundle; an agent that missed its successor can still fetch that one.
    const slot = outlives(this.#previous) ? this.#previous : this.#active.value;
    return this.#signLeaf({ ...request, id: serverIdOf(this.#deps.trustDomain), dnsNames: [] }, slot);
  }

  /** Makes the self-signed certificate of a new signing key; nothing signs with it until it is activated. */
  async signRoot(signer: Signer, subject: AuthoritySubject, ttlMs: number): Promise<Certificate> {
    const { trustDomain, clock } = this.#deps;
    const template = rootTemplate({
      trustDomain,
      subject,
      spki: signer.publicKey,
      nowMs: clock.now(),
      ttlMs,
    });
    return Certificate.parse(await this.#lintAndSign(template, signer, 'signing-certificate'));
  }

  /** From now on `slot` signs everything. */
  activate(slot: SigningSlot): void {
    this.#previous = this.#active.value;
    this.#active.set(slot);
  }

  async #signLeaf(request: LeafRequest, slot = this.#active.value): Promise<SignedSvid> {
    const nowMs = this.#deps.clock.now();
    if (slot === undefined)
      throw new AppError('unavailable', 'server is initializing: no active signing certificate');
    if (slot.certificate.notAfterMs <= nowMs) {
      throw new AppError(
        'unavailable',
        'the active signing certificate has expired and its successor is not ready',
      );
    }
    const template = leafTemplate(request, slot.certificate, nowMs);
    if (nowMs + request.ttlMs > template.notAfterMs) {
      this.#deps.log.warn(
        {
          spiffeId: request.id.toString(),
          ttlMs: request.ttlMs,
          caExpiresAt: new Date(slot.certificate.notAfterMs),
        },
        'certificate ends early, with its signing certificate',
      );
    }
    const der = await this.#lintAndSign(template, slot.signer, 'leaf');
    return {
      id: request.id,
      chain: [der],
      serialDecimal: BigInt(`0x${Buffer.from(template.serial).toString('hex')}`).toString(),
      notAfterMs: Math.floor(template.notAfterMs / 1000) * 1000,
    };
  }

  async #lintAndSign(
    template: CertificateTemplate,
    signer: Signer,
    profile: 'leaf' | 'signing-certificate',
  ): Promise<Uint8Array> {
    const tbs = toBeSigned(template, signer.type);
    lintCertificate(
      Certificate.parse(assembleCertificate(tbs, signer.type, unsigned)),
      profile,
      this.#deps.trustDomain,
    );
    return assembleCertificate(tbs, signer.type, await signer.sign(tbs));
  }
}

/** Stands for the signature while a certificate is linted. */
const unsigned = new Uint8Array(1);
