import { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { serverIdOf, type TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid, type X509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';

/** Throws `unauthenticated` unless the chain is the server of the trust domain, under this bundle of it. */
export function verifyServerChain(
  chain: readonly Certificate[],
  server: { readonly trustDomain: TrustDomain; readonly bundle: Bundle | undefined; readonly nowMs: number },
): void {
  requireServerId(
    verifyX509Svid({ chain, bundles: () => server.bundle, nowMs: server.nowMs }),
    server.trustDomain,
  );
}

/** Throws `unauthenticated` unless the SVID is the trust domain's server. */
export function requireServerId(svid: X509Svid, trustDomain: TrustDomain): void {
  const expected = serverIdOf(trustDomain);
  if (svid.id.equals(expected)) return;
  throw new AppError(
    'unauthenticated',
    `the server shows the identity "${svid.id}"; "${expected}" was expected`,
  );
}
