import { createPublicKey } from 'node:crypto';
import { AppError } from '../runtime/error.ts';
import { parseStrictJson } from '../runtime/strict-json.ts';
import { Certificate } from '../x509/certificate.ts';
import type { TrustDomain } from './spiffe-id.ts';

/** A megabyte holds some 500 authorities; more is an attempt to exhaust the reader. */
const maxDocumentLength = 1024 * 1024;
const knownKeyTypes: readonly unknown[] = ['EC', 'RSA', 'OKP'];

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
  /** Grows with each change of the content. */
  readonly sequence: number;
  /** How often consumers should look for a newer one; 0 = not said. */
  readonly refreshHintSeconds: number;

  /** Throws `invalid-argument` when a number is not a safe integer of at least 0. */
  constructor(fields: {
    readonly trustDomain: TrustDomain;
    readonly x509Authorities: readonly X509Authority[];
    readonly sequence: number;
    readonly refreshHintSeconds: number;
  }) {
    this.trustDomain = fields.trustDomain;
    this.x509Authorities = withoutDuplicates(fields.x509Authorities);
    this.sequence = wholeNumber('sequence', fields.sequence);
    this.refreshHintSeconds = wholeNumber('refresh hint', fields.refreshHintSeconds);
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
    const isKnown = this.certificates().some((known) => known.fingerprint === certificate.fingerprint);
    return isKnown ? this : this.#changed([...this.x509Authorities, { certificate, tainted: false }]);
  }

  /** Without the certificates that have these fingerprints, and the next sequence; this bundle when it has none of them. */
  withoutAuthorities(fingerprints: readonly string[]): Bundle {
    const kept = this.x509Authorities.filter(
      ({ certificate }) => !fingerprints.includes(certificate.fingerprint),
    );
    return kept.length === this.x509Authorities.length ? this : this.#changed(kept);
  }

  #changed(x509Authorities: readonly X509Authority[]): Bundle {
    const { trustDomain, sequence, refreshHintSeconds } = this;
    return new Bundle({ trustDomain, x509Authorities, sequence: sequence + 1, refreshHintSeconds });
  }
}

/** The bundle as a SPIFFE bundle document (SPIFFE Trust Domain and Bundle §4, X509-SVID §6.1). */
export function bundleToSpiffeJwks(bundle: Bundle): string {
  const { sequence, refreshHintSeconds } = bundle;
  const document = {
    keys: bundle.certificates().map(x509Jwk),
    spiffe_sequence: sequence,
    ...(refreshHintSeconds === 0 ? {} : { spiffe_refresh_hint: refreshHintSeconds }),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

/**
 * Reads a SPIFFE bundle document as the bundle of `trustDomain`, which it does not name itself. Elements that are
 * not for X.509-SVIDs, and those without a certificate, are left out (X509-SVID §6.2). Throws `invalid-argument`.
 */
export function parseSpiffeJwks(text: string, trustDomain: TrustDomain): Bundle {
  if (text.length > maxDocumentLength)
    throw notABundle(trustDomain, `larger than ${maxDocumentLength} characters`);
  try {
    const document = parseStrictJson(text);
    if (!isObject(document)) throw invalid('must be a JSON object');
    const { keys, spiffe_sequence: sequence, spiffe_refresh_hint: refreshHint } = document;
    if (!Array.isArray(keys)) throw invalid('"keys" must be present and a list');
    return new Bundle({
      trustDomain,
      x509Authorities: keys.flatMap(authorityOf),
      sequence: memberNumber('spiffe_sequence', sequence),
      refreshHintSeconds: memberNumber('spiffe_refresh_hint', refreshHint),
    });
  } catch (error) {
    if (error instanceof AppError) throw notABundle(trustDomain, error.message);
    throw error;
  }
}

function contentOf(bundle: Bundle): readonly string[] {
  const authorities = bundle.x509Authorities.map(
    ({ certificate, tainted }) => `${certificate.fingerprint} ${tainted}`,
  );
  return [bundle.trustDomain.name, String(bundle.refreshHintSeconds), ...authorities.sort()];
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

function wholeNumber(what: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new AppError(
    'invalid-argument',
    `bundle ${what} must be a whole number from 0 to 2^53-1, got ${value}`,
  );
}

function x509Jwk(certificate: Certificate): object {
  const key = createPublicKey({ key: certificate.spki, format: 'der', type: 'spki' });
  // No `kid`: it must not be set here (X509-SVID §6.1).
  return { use: 'x509-svid', ...key.export({ format: 'jwk' }), x5c: [certificate.der.toString('base64')] };
}

function authorityOf(element: unknown, index: number): readonly X509Authority[] {
  if (!isObject(element) || element['use'] !== 'x509-svid' || !knownKeyTypes.includes(element['kty']))
    return [];
  const chain = element['x5c'];
  if (chain === undefined || (Array.isArray(chain) && chain.length === 0)) return [];
  // Only the first counts, whatever follows it (X509-SVID §6.2).
  const der = Array.isArray(chain) ? decodeBase64(chain[0]) : undefined;
  if (der === undefined) throw invalid(`keys[${index}].x5c must be a list of standard base64 texts`);
  try {
    return [{ certificate: Certificate.parse(der), tainted: false }];
  } catch (error) {
    throw error instanceof AppError ? invalid(`keys[${index}].x5c[0]: ${error.message}`) : error;
  }
}

/** Undefined unless it is exactly what an encoder writes: Buffer skips what it does not know and reads base64url too. */
function decodeBase64(text: unknown): Buffer | undefined {
  if (typeof text !== 'string') return undefined;
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

function memberNumber(name: string, value: unknown): number {
  if (value === undefined) return 0;
  if (typeof value === 'bigint' && value > 0n) {
    throw invalid(`"${name}" is ${value}; the largest that can be kept exactly is 2^53-1`);
  }
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw invalid(`"${name}" must be a whole number of at least 0`);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(message: string): AppError {
  return new AppError('invalid-argument', message);
}

function notABundle(trustDomain: TrustDomain, message: string): AppError {
  return invalid(`bundle document of trust domain "${trustDomain.name}": ${message}`);
}
