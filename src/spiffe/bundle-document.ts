import { createPublicKey } from 'node:crypto';
import { AppError } from '../runtime/error.ts';
import { parseStrictJson } from '../runtime/strict-json.ts';
import { Certificate } from '../x509/certificate.ts';
import { Bundle, type X509Authority } from './bundle.ts';
import { jwtAuthorityFromJwk, jwtAuthorityToJwk } from './jwt-authority.ts';
import type { TrustDomain } from './spiffe-id.ts';

/** A megabyte holds some 500 authorities; more is an attempt to exhaust the reader. */
const maxDocumentLength = 1024 * 1024;
const knownKeyTypes: readonly unknown[] = ['EC', 'RSA', 'OKP'];

/**
 * The bundle as a SPIFFE bundle document (SPIFFE Trust Domain and Bundle §4, X509-SVID §6.1, JWT-SVID §6.1). It says
 * neither what is tainted nor when keys expire: the standard has no members for that.
 */
export function bundleToSpiffeJwks(bundle: Bundle): string {
  const { sequence, refreshHintSeconds, jwtAuthorities } = bundle;
  const keys = [...bundle.certificates().map(x509Jwk), ...jwtAuthorities.map(jwtAuthorityToJwk)];
  const members = [
    `"keys": ${JSON.stringify(keys, undefined, 2).replaceAll('\n', '\n  ')}`,
    // By hand, because JSON.stringify has no exact numbers above 2^53.
    `"spiffe_sequence": ${sequence}`,
    ...(refreshHintSeconds === 0 ? [] : [`"spiffe_refresh_hint": ${refreshHintSeconds}`]),
  ];
  return `{\n  ${members.join(',\n  ')}\n}\n`;
}

/**
 * Reads a SPIFFE bundle document as the bundle of `trustDomain`, which it does not name itself. Elements of another
 * use or key type, and those for X.509-SVIDs without a certificate, are left out (Trust Domain and Bundle §4.2,
 * X509-SVID §6.2). Throws `invalid-argument`.
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
      x509Authorities: keys.flatMap(elementsOf('x509-svid', x509AuthorityOf)),
      jwtAuthorities: keys.flatMap(elementsOf('jwt-svid', (jwk) => [jwtAuthorityFromJwk(jwk)])),
      sequence: sequenceOf(sequence),
      refreshHintSeconds: refreshHintOf(refreshHint),
    });
  } catch (error) {
    if (error instanceof AppError) throw notABundle(trustDomain, error.message);
    throw error;
  }
}

function x509Jwk(certificate: Certificate): object {
  const key = createPublicKey({ key: certificate.spki, format: 'der', type: 'spki' });
  // No `kid`: it must not be set here (X509-SVID §6.1).
  return { use: 'x509-svid', ...key.export({ format: 'jwk' }), x5c: [certificate.der.toString('base64')] };
}

type Jwk = Readonly<Record<string, unknown>>;

/** Reads the elements of one use; an error names the place. */
function elementsOf<T>(use: string, read: (jwk: Jwk) => readonly T[]) {
  return (element: unknown, index: number): readonly T[] => {
    if (!isObject(element) || element['use'] !== use || !knownKeyTypes.includes(element['kty'])) return [];
    try {
      return read(element);
    } catch (error) {
      throw error instanceof AppError ? invalid(`keys[${index}]: ${error.message}`) : error;
    }
  };
}

function x509AuthorityOf(jwk: Jwk): readonly X509Authority[] {
  const chain = jwk['x5c'];
  if (chain === undefined || (Array.isArray(chain) && chain.length === 0)) return [];
  // Only the first counts, whatever follows it (X509-SVID §6.2).
  const der = Array.isArray(chain) ? decodeBase64(chain[0]) : undefined;
  if (der === undefined) throw invalid('x5c must be a list of standard base64 texts');
  return [{ certificate: Certificate.parse(der), tainted: false }];
}

/** Undefined unless it is exactly what an encoder writes: Buffer skips what it does not know and reads base64url too. */
function decodeBase64(text: unknown): Buffer | undefined {
  if (typeof text !== 'string') return undefined;
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

function sequenceOf(value: unknown): number | bigint {
  if (value === undefined) return 0;
  if (typeof value === 'bigint' || Number.isSafeInteger(value)) return value as number | bigint;
  throw invalid('"spiffe_sequence" must be a whole number from 0 to 2^64-1');
}

function refreshHintOf(value: unknown): number {
  if (value === undefined) return 0;
  if (typeof value === 'number') return value;
  throw invalid('"spiffe_refresh_hint" must be a whole number of at least 0');
}

function isObject(value: unknown): value is Jwk {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(message: string): AppError {
  return new AppError('invalid-argument', message);
}

function notABundle(trustDomain: TrustDomain, message: string): AppError {
  return invalid(`bundle document of trust domain "${trustDomain.name}": ${message}`);
}
