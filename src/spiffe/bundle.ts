import { AppError } from '../runtime/error.ts';
import type { Certificate } from '../x509/certificate.ts';
import { isSameKey, type JwtAuthority, jwtAuthorityText } from './jwt-authority.ts';
import type { TrustDomain } from './spiffe-id.ts';

const maxSequence = 2n ** 64n - 1n;

/** A CA certificate that X.509-SVIDs of the trust domain may end in. */
export interface X509Authority {
  readonly certificate: Certificate;
  /** Known to be compromised: still trusted until its removal, but nothing signed by it should stay in use. */
  readonly tainted: boolean;
}

/**
 * What is needed to verify SVIDs of one trust domain (SPIFFE Trust Domain and Bundle §3). A bundle without
 * authorities is valid: then every SVID of the trust domain is untrusted.
 */
export class Bundle {
  readonly trustDomain: TrustDomain;
  /** In the order given, each certificate once. */
  readonly x509Authorities: readonly X509Authority[];
  /** In the order given, each key id once. */
  readonly jwtAuthorities: readonly JwtAuthority[];
  /** Grows with each change of the content; 64 bits (SPIFFE Trust Domain and Bundle §4.1). */
  readonly sequence: bigint;
  /** How often consumers should look for a newer one; 0 = not said. */
  readonly refreshHintSeconds: number;

  /** Throws `invalid-argument` for a number out of range, and for two keys with one id. */
  constructor(fields: {
    readonly trustDomain: TrustDomain;
    readonly x509Authorities: readonly X509Authority[];
    readonly jwtAuthorities?: readonly JwtAuthority[];
    readonly sequence: number | bigint;
    readonly refreshHintSeconds: number;
  }) {
    this.trustDomain = fields.trustDomain;
    this.x509Authorities = withoutDuplicates(fields.x509Authorities);
    this.jwtAuthorities = withOneKeyPerId(fields.jwtAuthorities ?? []);
    this.sequence = checkSequence(fields.sequence);
    this.refreshHintSeconds = checkRefreshHint(fields.refreshHintSeconds);
  }

  certificates(): readonly Certificate[] {
    return this.x509Authorities.map((authority) => authority.certificate);
  }

  /** One PEM block per certificate. */
  toPem(): string {
    return this.certificates()
      .map((certificate) => certificate.toPem())
      .join('');
  }

  /** All certificates as DER, one after another, as the Workload API carries them. */
  concatenatedDer(): Buffer {
    return Buffer.concat(this.certificates().map((certificate) => certificate.der));
  }

  /** True when both say the same of the same trust domain, whatever their sequence and the order of authorities. */
  equals(other: Bundle): boolean {
    const mine = contentOf(this);
    const theirs = contentOf(other);
    return mine.length === theirs.length && mine.every((part, index) => part === theirs[index]);
  }

  /** With one authority more and the next sequence; this very bundle when it has it already. */
  withAuthority(certificate: Certificate): Bundle {
    return this.withAuthorities({ x509: [{ certificate, tainted: false }], jwt: [] });
  }

  /**
   * With those of the authorities that it lacks, and the next sequence; this very bundle when it has all of them.
   * Throws `invalid-argument` when a key id stands for another key here.
   */
  withAuthorities(more: {
    readonly x509: readonly X509Authority[];
    readonly jwt: readonly JwtAuthority[];
  }): Bundle {
    const fingerprints = new Set(this.certificates().map((known) => known.fingerprint));
    const x509 = more.x509.filter(({ certificate }) => !fingerprints.has(certificate.fingerprint));
    const jwt = more.jwt.filter((key) => !this.jwtAuthorities.some((known) => isSameKey(known, key)));
    if (x509.length === 0 && jwt.length === 0) return this;
    return this.#changed([...this.x509Authorities, ...x509], [...this.jwtAuthorities, ...jwt]);
  }

  /** Without these certificates and keys, and the next sequence; this bundle when it has none of them. */
  withoutAuthorities(fingerprints: readonly string[], keyIds: readonly string[] = []): Bundle {
    const x509 = this.x509Authorities.filter(
      ({ certificate }) => !fingerprints.includes(certificate.fingerprint),
    );
    const jwt = this.jwtAuthorities.filter(({ keyId }) => !keyIds.includes(keyId));
    const isSame = x509.length === this.x509Authorities.length && jwt.length === this.jwtAuthorities.length;
    return isSame ? this : this.#changed(x509, jwt);
  }

  /** With these certificates marked as tainted, and the next sequence; this bundle when none of them is news. */
  withTainted(fingerprints: readonly string[]): Bundle {
    const isNews = ({ certificate, tainted }: X509Authority) =>
      !tainted && fingerprints.includes(certificate.fingerprint);
    if (!this.x509Authorities.some(isNews)) return this;
    const x509 = this.x509Authorities.map((one) => (isNews(one) ? { ...one, tainted: true } : one));
    return this.#changed(x509, this.jwtAuthorities);
  }

  #changed(x509Authorities: readonly X509Authority[], jwtAuthorities: readonly JwtAuthority[]): Bundle {
    const { trustDomain, sequence, refreshHintSeconds } = this;
    return new Bundle({
      trustDomain,
      x509Authorities,
      jwtAuthorities,
      sequence: sequence + 1n,
      refreshHintSeconds,
    });
  }
}

function contentOf(bundle: Bundle): readonly string[] {
  const authorities = bundle.x509Authorities.map(
    ({ certificate, tainted }) => `${certificate.fingerprint} ${tainted}`,
  );
  const keys = bundle.jwtAuthorities.map(jwtAuthorityText);
  return [bundle.trustDomain.name, String(bundle.refreshHintSeconds), ...authorities.sort(), ...keys.sort()];
}

function withoutDuplicates(authorities: readonly X509Authority[]): readonly X509Authority[] {
  const byFingerprint = new Map<string, X509Authority>();
  for (const authority of authorities) {
    const { fingerprint } = authority.certificate;
    const known = byFingerprint.get(fingerprint);
    if (known === undefined || (authority.tainted && !known.tainted))
      byFingerprint.set(fingerprint, authority);
  }
  return [...byFingerprint.values()];
}

/** Of the same key twice, the first one; tainted if it is so anywhere. */
function withOneKeyPerId(authorities: readonly JwtAuthority[]): readonly JwtAuthority[] {
  const byId = new Map<string, JwtAuthority>();
  for (const authority of authorities) {
    const known = byId.get(authority.keyId);
    if (known !== undefined && !isSameKey(known, authority)) {
      throw new AppError('invalid-argument', `two jwt authorities have the key id "${authority.keyId}"`);
    }
    if (known === undefined) byId.set(authority.keyId, authority);
    else if (authority.tainted && !known.tainted) byId.set(authority.keyId, { ...known, tainted: true });
  }
  return [...byId.values()];
}

function checkSequence(value: number | bigint): bigint {
  const isExact = typeof value === 'bigint' || Number.isSafeInteger(value);
  if (isExact && value >= 0 && value <= maxSequence) return BigInt(value);
  throw new AppError(
    'invalid-argument',
    `bundle sequence must be a whole number from 0 to 2^64-1, got ${value}`,
  );
}

function checkRefreshHint(value: number): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new AppError(
    'invalid-argument',
    `bundle refresh hint must be a whole number from 0 to 2^53-1, got ${value}`,
  );
}
