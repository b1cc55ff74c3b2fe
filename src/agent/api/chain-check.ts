import { errorText } from '../../runtime/error.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { validatePath } from '../../x509/path-validation.ts';
import type { TrustResource } from './resource.ts';

/**
 * What is wrong with a chain by itself: each certificate must have been issued by the next one. Path validation takes
 * them in any order; Envoy refuses the whole secret.
 */
export function chainProblem(chain: readonly Certificate[]): string | undefined {
  for (const [index, issuer] of chain.entries()) {
    const issued = chain[index - 1];
    if (issued === undefined) continue;
    const where = `certificate ${index + 1} of the chain ("${issuer.subjectText}")`;
    if (!issuer.isCa) return `${where} is no CA; expected the issuer of the one before it`;
    if (!issuer.subject.equals(issued.issuer)) {
      return `${where} is not the issuer of the one before it, which names "${issued.issuerText}"`;
    }
    if (!issued.verifySignedBy(issuer)) return `${where} has not signed the one before it`;
  }
  return undefined;
}

/** Why those who are served these anchors would not accept the SVID now. */
export function pathProblem(
  { id, leaf, chain }: X509Svid,
  own: TrustResource,
  nowMs: number,
): string | undefined {
  const domain = own.domains.find(({ trustDomain }) => trustDomain === id.trustDomain.name);
  if (domain === undefined) return `there are no anchors of its trust domain "${id.trustDomain.name}"`;
  try {
    validatePath({ leaf, intermediates: chain.slice(1), anchors: domain.certificates, nowMs });
    return undefined;
  } catch (error) {
    return `it does not verify against the bundle that is served with it: ${errorText(error)}`;
  }
}
