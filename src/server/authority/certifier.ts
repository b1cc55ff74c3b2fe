import type { AuthorityRecord } from '../../plugin-api/data-store.ts';
import type { ManagedKey } from '../../plugin-api/key-manager.ts';
import type { UpstreamAuthority } from '../../plugin-api/upstream-authority.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import { lintAndSign } from '../../spiffe/certificate-lint.ts';
import { type AuthoritySubject, authorityName, rootTemplate } from '../../spiffe/signing-certificate.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import { Certificate } from '../../x509/certificate.ts';
import { buildCsr } from '../../x509/csr.ts';
import { validatePath } from '../../x509/path-validation.ts';
import type { Signer } from '../../x509/signature.ts';
import type { SigningSlot } from './authority.ts';

/** A new CA certificate of ours, and what belongs to it. */
export interface Certified {
  readonly certificate: Certificate;
  /** What stands above a leaf in its chain, without the root. */
  readonly chain: readonly Certificate[];
  /** What the bundle must hold before it signs. */
  readonly roots: readonly Certificate[];
  /** Hex of the subject key identifier of its root; empty when it is one itself. */
  readonly upstreamKeyId: string;
}

/** Where the certificates of our CA keys come from. */
export interface Certifier {
  certify(
    key: ManagedKey,
    options: { readonly root: 'active' | 'next'; readonly signal: AbortSignal },
  ): Promise<Certified>;
  /** Roots that belong in the bundle besides those of certificates that we have. */
  roots(): Promise<readonly Certificate[]>;
  /** No certificate made now could end later; Unix ms. */
  latestEndMs(): Promise<number>;
  /** Called before something is signed below this root. */
  activateRoot(upstreamKeyId: string): Promise<void>;
}

/** A record of the journal, with its key, as it signs. */
export function slotOf({ id, certificate, chain }: AuthorityRecord, signer: ManagedKey): SigningSlot {
  return { id, certificate, chain, signer };
}

interface Settings {
  readonly trustDomain: TrustDomain;
  readonly subject: AuthoritySubject;
  readonly ttlMs: number;
}

/** A self-signed root for each key. */
export class SelfCertifier implements Certifier {
  readonly #clock: Clock;
  readonly #settings: Settings & { readonly pathLength: number; readonly nameConstraints: boolean };

  constructor(
    clock: Clock,
    settings: Settings & { readonly pathLength: number; readonly nameConstraints: boolean },
  ) {
    this.#clock = clock;
    this.#settings = settings;
  }

  async certify(key: Signer): Promise<Certified> {
    const { trustDomain } = this.#settings;
    const template = rootTemplate({
      ...this.#settings,
      spki: key.publicKey,
      nowMs: this.#clock.now(),
    });
    const der = await lintAndSign(template, key, { profile: 'signing-certificate', trustDomain });
    const certificate = Certificate.parse(der);
    return { certificate, chain: [], roots: [certificate], upstreamKeyId: '' };
  }

  async roots(): Promise<readonly Certificate[]> {
    return [];
  }

  async latestEndMs(): Promise<number> {
    return Number.POSITIVE_INFINITY;
  }

  async activateRoot(): Promise<void> {
    // Its own root signs: there is none above it.
  }
}

/** A certificate below the roots of an upstream authority. */
export class UpstreamCertifier implements Certifier {
  readonly #upstream: UpstreamAuthority;
  readonly #clock: Clock;
  readonly #settings: Settings;

  constructor(upstream: UpstreamAuthority, clock: Clock, settings: Settings) {
    this.#upstream = upstream;
    this.#clock = clock;
    this.#settings = settings;
  }

  /** Throws `failed-precondition` when what came back is not what peers need. */
  async certify(
    key: ManagedKey,
    { root, signal }: { readonly root: 'active' | 'next'; readonly signal: AbortSignal },
  ): Promise<Certified> {
    const { trustDomain, subject, ttlMs } = this.#settings;
    if (root === 'next') await this.#upstream.prepareRoot?.(signal);
    const csr = await buildCsr({ signer: key, subject: authorityName(subject), uris: [trustDomain.id] });
    const { chain, roots } = await this.#upstream.mint(csr, { preferredTtlMs: ttlMs, signal, root });
    const [certificate, ...intermediates] = chain;
    if (certificate === undefined || !certificate.spki.equals(key.publicKey)) {
      throw new AppError('failed-precondition', 'the upstream authority certified another key than ours');
    }
    const nowMs = this.#clock.now();
    const path = validatePath({ leaf: certificate, intermediates, anchors: roots, nowMs });
    const anchor = path.at(-1);
    if (anchor?.subjectKeyId === undefined) {
      throw new AppError(
        'failed-precondition',
        `root "${anchor?.subjectText}" of the upstream authority has no subject key identifier: it could not be told from others`,
      );
    }
    return { certificate, chain, roots, upstreamKeyId: anchor.subjectKeyId };
  }

  roots(): Promise<readonly Certificate[]> {
    return this.#upstream.roots();
  }

  latestEndMs(): Promise<number> {
    return this.#upstream.latestEndMs();
  }

  async activateRoot(upstreamKeyId: string): Promise<void> {
    await this.#upstream.activateRoot?.(upstreamKeyId);
  }
}
