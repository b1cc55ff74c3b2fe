import { AppError } from '../runtime/error.ts';
import { type CertificateRequest, parseCsr, verifyCsr } from '../x509/csr.ts';
import type { TrustDomain } from './spiffe-id.ts';

/**
 * A request for a CA certificate of `trustDomain` (X509-SVID §3.2): its one URI is the trust domain, and its key has
 * signed it. Throws `invalid-argument`.
 */
export function requireSigningRequest(csr: Uint8Array, trustDomain: TrustDomain): CertificateRequest {
  const request = parseCsr(csr);
  verifyCsr(request);
  const [uri, ...others] = request.uris;
  if (uri === trustDomain.id && others.length === 0) return request;
  throw new AppError(
    'invalid-argument',
    `a signing certificate of "${trustDomain}" must be asked for with the URI "${trustDomain.id}" and no other; got ${JSON.stringify(request.uris.slice(0, 3))}`,
  );
}
