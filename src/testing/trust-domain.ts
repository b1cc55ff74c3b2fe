import type { HeldSvid } from '../agent/workload-view.ts';
import { Bundle } from '../spiffe/bundle.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { X509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { KeyType } from '../x509/signature.ts';
import { TestIdentity, testStartMs } from './certificates.ts';

const hourMs = 3_600_000;

/** A trust domain with a CA, for tests of what comes after signing. */
export class TestTrustDomain {
  readonly name: string;
  readonly root: TestIdentity;
  readonly #issuer: TestIdentity;
  readonly #intermediates: readonly Certificate[];

  private constructor(name: string, root: TestIdentity, intermediate?: TestIdentity) {
    this.name = name;
    this.root = root;
    this.#issuer = intermediate ?? root;
    this.#intermediates = intermediate === undefined ? [] : [intermediate.certificate];
  }

  /** Signs with the root, or with an intermediate below it. Everything is valid for years around `testStartMs`. */
  static async create(name = 'example.org', options: { readonly withIntermediate?: boolean } = {}) {
    const validity = {
      notBeforeMs: testStartMs - 1_000 * hourMs,
      notAfterMs: testStartMs + 100_000 * hourMs,
    };
    const root = await TestIdentity.root(name, validity);
    const isDeep = options.withIntermediate ?? false;
    return new TestTrustDomain(name, root, isDeep ? await root.intermediate(validity) : undefined);
  }

  bundle(sequence = 1): Bundle {
    return bundleOf(this.name, [this.root.certificate], sequence);
  }

  /** An SVID for this entry, as the agent holds it: from an hour before `testStartMs` to an hour after. */
  async sign(
    entry: RegistrationEntry,
    options: {
      readonly issuedAtMs?: number;
      readonly notAfterMs?: number;
      readonly renewAtMs?: number;
      readonly keyType?: KeyType;
    } = {},
  ): Promise<HeldSvid> {
    const { issuedAtMs = testStartMs - hourMs, notAfterMs = testStartMs + hourMs } = options;
    const { keyType = 'ec-p256' } = options;
    const leaf = await this.#issuer.issue(entry.spiffeId.toString(), {
      notBeforeMs: issuedAtMs - 10_000,
      notAfterMs,
      dnsNames: entry.dnsNames,
      keyType,
    });
    return {
      entry,
      svid: X509Svid.parse([leaf.certificate, ...this.#intermediates]),
      keyType,
      privateKeyPem: leaf.privateKeyPem,
      issuedAtMs,
      renewAtMs: options.renewAtMs ?? (issuedAtMs + notAfterMs) / 2,
    };
  }
}

/** A bundle with these certificates. */
export function bundleOf(trustDomain: string, certificates: readonly Certificate[], sequence = 1): Bundle {
  return new Bundle({
    trustDomain: TrustDomain.parse(trustDomain),
    x509Authorities: certificates.map((certificate) => ({ certificate, tainted: false })),
    sequence,
    refreshHintSeconds: 0,
  });
}
