import type { Certificate } from '../x509/certificate.ts';
import type { Bundle } from './bundle.ts';

/**
 * What of a valid bundle will surprise its owner, as sentences for people: SPIRE takes all of it, and so do we, but
 * peers will not.
 */
export function bundleRemarks(bundle: Bundle, nowMs: number): readonly string[] {
  const certificates = bundle.certificates();
  if (certificates.length === 0) {
    return [`it has no X.509 authorities: no X.509-SVID of "${bundle.trustDomain}" is trusted`];
  }
  const problems: readonly [Certificate[], string][] = [
    [certificates.filter((c) => c.notAfterMs <= nowMs), 'have expired'],
    [certificates.filter((c) => c.notBeforeMs > nowMs), 'are not valid yet'],
    [
      certificates.filter((c) => c.uris.some((uri) => uri !== bundle.trustDomain.id)),
      `name another trust domain than "${bundle.trustDomain}"`,
    ],
    [certificates.filter((c) => !c.isCa), 'are no CA: nothing below them is trusted'],
    [
      certificates.filter((c) => !isSelfSigned(c)),
      "are not self-signed: Envoy's SPIFFE validator cannot use them, so proxies are not given them",
    ],
  ];
  return problems
    .filter(([concerned]) => concerned.length > 0)
    .map(([concerned, what]) => {
      const subjects = [...new Set(concerned.slice(0, 3).map((c) => `"${c.subjectText}"`))].join(', ');
      return `${concerned.length} of ${certificates.length} X.509 authorities ${what} (${subjects})`;
    });
}

/** The signature counts too: a root that was cross-signed during a rollover has equal names and another issuer. */
export function isSelfSigned(certificate: Certificate): boolean {
  return certificate.isSelfIssued && certificate.verifySignedBy(certificate);
}
