import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import { LogLimiter } from '../../runtime/log-limiter.ts';
import { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import { lintAndSign } from '../../spiffe/certificate-lint.ts';
import { type SpiffeId, serverIdOf, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { Signer } from '../../x509/signature.ts';
import type { IssuedSvids, SvidHolder } from './issued-svids.ts';
import { type LeafRequest, leafTemplate } from './template.ts';

/** A signing certificate together with its key. */
export interface SigningSlot {
  /** Of its record in the journal. */
  readonly id: string;
  readonly certificate: Certificate;
  /** What stands above a leaf in its chain, without the root. */
  readonly chain: readonly Certificate[];
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
  /** Why it does not live as long as was asked, for people; undefined when it does. */
  readonly shortened: string | undefined;
}

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly log: Logger;
  /** Told of every SVID but the server's own. */
  readonly issued?: Pick<IssuedSvids, 'begin' | 'note'>;
}

/**
 * The certificate authority: one pipe from a request to a certificate. Active slot → template → lint of exactly
 * what would be signed → signature → chain. Which slot is active is the business of `rotation.ts`.
 */
export class Authority {
  readonly #deps: Deps;
  readonly #limitedLog: LogLimiter;
  readonly #active = new Observable<SigningSlot | undefined>(undefined);
  #previous: SigningSlot | undefined;

  constructor(deps: Deps) {
    this.#deps = deps;
    this.#limitedLog = new LogLimiter(deps);
  }

  /** The slot that signs; undefined until the first rotation step has been taken. */
  get active(): Observable<SigningSlot | undefined> {
    return this.#active;
  }

  /**
   * Signs a workload's X.509-SVID; throws `unavailable` while there is no active signing certificate. Without a
   * holder it is one that nobody will replace.
   */
  async signX509Svid(request: LeafRequest, holder?: SvidHolder): Promise<SignedSvid> {
    return this.#signNoted(request, holder);
  }

  /** Signs an agent's own X.509-SVID. */
  signAgentSvid(request: Omit<LeafRequest, 'dnsNames'>): Promise<SignedSvid> {
    return this.#signNoted({ ...request, dnsNames: [] }, { agent: request.id.toString(), use: '' });
  }

  /** Signs the server's own X.509-SVID. */
  signServerSvid(request: Omit<LeafRequest, 'dnsNames' | 'id'>): Promise<SignedSvid> {
    const outlives = (slot: SigningSlot | undefined) =>
      slot !== undefined && slot.certificate.notAfterMs > this.#deps.clock.now() + request.ttlMs;
    // The root that signed before is in every bundle; an agent that missed its successor can still fetch that one.
    const slot = outlives(this.#previous) ? this.#previous : this.#active.value;
    return this.#sign({ ...request, id: serverIdOf(this.#deps.trustDomain), dnsNames: [] }, slot);
  }

  /** From now on `slot` signs everything; `isFirst`: it never has before, in any process. */
  activate(slot: SigningSlot, { isFirst = false } = {}): void {
    if (isFirst) this.#deps.issued?.begin(slot.id);
    this.#previous = this.#active.value;
    this.#active.set(slot);
  }

  /** From now on nothing is signed with these any more; who follows `active` renews what they have signed. */
  distrust(ids: readonly string[]): void {
    if (this.#previous !== undefined && ids.includes(this.#previous.id)) this.#previous = undefined;
    this.#active.set(this.#active.value);
  }

  async #signNoted(request: LeafRequest, holder: SvidHolder | undefined): Promise<SignedSvid> {
    const slot = this.#active.value;
    const svid = await this.#sign(request, slot);
    if (slot !== undefined) {
      this.#deps.issued?.note({
        authorityId: slot.id,
        notAfterMs: svid.notAfterMs,
        holder: holder ?? { agent: '', use: svid.serialDecimal },
      });
    }
    return svid;
  }

  async #sign(request: LeafRequest, slot: SigningSlot | undefined): Promise<SignedSvid> {
    const { trustDomain, clock } = this.#deps;
    const nowMs = clock.now();
    if (slot === undefined)
      throw new AppError('unavailable', 'server is initializing: no active signing certificate');
    if (slot.certificate.notAfterMs <= nowMs) {
      throw new AppError(
        'unavailable',
        'the active signing certificate has expired and its successor is not ready',
      );
    }
    const svid = await signLeaf(request, slot, { trustDomain, nowMs });
    if (svid.shortened !== undefined) {
      const { ttlMs } = request;
      this.#limitedLog.write(
        'warn',
        { spiffeId: request.id.toString(), ttlMs, caExpiresAt: new Date(slot.certificate.notAfterMs) },
        'certificate ends early, with its signing certificate',
      );
    }
    return svid;
  }
}

/** Signs a leaf with this slot, whatever its state; one that would outlive its issuer is shortened and says so. */
export async function signLeaf(
  request: LeafRequest,
  slot: Omit<SigningSlot, 'id'>,
  { trustDomain, nowMs }: { readonly trustDomain: TrustDomain; readonly nowMs: number },
): Promise<SignedSvid> {
  const template = leafTemplate(request, slot.certificate, nowMs);
  const der = await lintAndSign(template, slot.signer, { profile: 'leaf', trustDomain });
  const { notAfterMs } = template;
  const lacksMs = nowMs + request.ttlMs - notAfterMs;
  return {
    id: request.id,
    chain: [der, ...slot.chain.map((certificate) => certificate.der)],
    serialDecimal: BigInt(`0x${Buffer.from(template.serial).toString('hex')}`).toString(),
    notAfterMs: Math.floor(notAfterMs / 1000) * 1000,
    shortened: lacksMs > 0 ? shortenedText(request.ttlMs, notAfterMs) : undefined,
  };
}

function shortenedText(ttlMs: number, notAfterMs: number): string {
  const end = new Date(notAfterMs).toISOString();
  return `a lifetime of ${ttlMs / 1000} s was asked, but its signing certificate ends at ${end}; a longer authority.caTtl helps`;
}
