import { AppError } from '../runtime/error.ts';
import { Certificate } from '../x509/certificate.ts';
import { extensionOids } from '../x509/extensions.ts';
import { assembleCertificate, type CertificateTemplate, toBeSigned } from '../x509/issue.ts';
import { describeKey, keyTypeOfSpki, type Signer } from '../x509/signature.ts';
import { backdateMs } from './signing-certificate.ts';
import { SpiffeId, type TrustDomain } from './spiffe-id.ts';
import { issuedLeafRules, signingCertificateRules } from './x509-svid.ts';

/** What a certificate is to be. */
export type CertificateProfile = 'leaf' | 'signing-certificate';

/** One thing a certificate must satisfy before it is signed; its name is the `reason` of the error. */
interface Lint {
  readonly name: string;
  readonly citation: string;
  /** What is wrong, or undefined. */
  readonly check: (certificate: Certificate, trustDomain: TrustDomain) => string | undefined;
}

/** What this authority demands beyond the SPIFFE profile. */
const authorityLints: readonly Lint[] = [
  {
    name: 'ID_IN_TRUST_DOMAIN',
    citation: 'X509-SVID §3.2, X509-12',
    check: (certificate, trustDomain) =>
      certificate.uris.every((uri) => SpiffeId.parse(uri).isMemberOf(trustDomain))
        ? undefined
        : `its SPIFFE ID is not in "${trustDomain.name}"`,
  },
  {
    name: 'ACCEPTED_KEY',
    citation: 'CA/Browser Forum BR §6.1.5',
    check: (certificate) =>
      keyTypeOfSpki(certificate.spki) === undefined
        ? `it has an ${describeKey(certificate.spki)} key`
        : undefined,
  },
  {
    name: 'SERIAL_NUMBER',
    citation: 'RFC 5280 §4.1.2.2: positive, at most 20 octets',
    check: ({ serialHex }) =>
      serialHex.length >= 16 && serialHex.length <= 40
        ? undefined
        : 'its serial number is too short or too long',
  },
  {
    name: 'VALIDITY',
    citation: 'RFC 5280 §4.1.2.5',
    check: (certificate) =>
      certificate.notAfterMs > certificate.notBeforeMs + backdateMs
        ? undefined
        : 'it would be expired when issued',
  },
  {
    name: 'KEY_IDENTIFIERS',
    citation: 'RFC 5280 §4.2.1.1, §4.2.1.2',
    check: ({ subjectKeyId, authorityKeyId, isCa, isSelfIssued }) => {
      if (subjectKeyId === undefined) return 'it has no subject key identifier';
      // A self-signed one may leave it out (RFC 5280 §4.2.1.1).
      const isNeeded = !isCa || !isSelfIssued;
      return authorityKeyId === undefined && isNeeded ? 'it has no authority key identifier' : undefined;
    },
  },
  {
    name: 'LEAF_IS_NOT_ITS_ISSUER',
    citation: 'RFC 5280 §3.2: a self-issued certificate is taken for a CA in a key change',
    check: ({ isCa, isSelfIssued }) =>
      isSelfIssued && !isCa ? 'its subject is that of the signing certificate' : undefined,
  },
  {
    name: 'CRITICAL_CA_FLAG',
    citation: 'X509-SVID §4.1, RFC 5280 §4.2.1.9',
    check: ({ isCa, extensions }) =>
      isCa && extensions.get(extensionOids.basicConstraints)?.isCritical !== true
        ? 'its basic constraints extension is not critical'
        : undefined,
  },
  {
    name: 'NAME_CONSTRAINTS',
    citation: 'X509-SVID §4.2, RFC 5280 §4.2.1.10: only on CA certificates, and critical',
    check: ({ isCa, nameConstraints, extensions }) => {
      if (nameConstraints === undefined) return undefined;
      if (!isCa) return 'it has name constraints';
      const { isCritical = false } = extensions.get(extensionOids.nameConstraints) ?? {};
      return isCritical ? undefined : 'its name constraints extension is not critical';
    },
  },
  {
    name: 'KNOWN_CRITICAL_EXTENSIONS',
    citation: 'RFC 5280 §4.2',
    check: ({ unknownCriticalExtensions }) =>
      unknownCriticalExtensions.length === 0
        ? undefined
        : `it has critical extensions ${unknownCriticalExtensions}`,
  },
];

/**
 * Refuses, before the real key touches it, a certificate that no conforming peer would accept; throws `internal`
 * with the name of the rule as reason. `certificate` is what would be signed, read back from its own bytes.
 */
export function lintCertificate(
  certificate: Certificate,
  profile: CertificateProfile,
  trustDomain: TrustDomain,
): void {
  const profileRules = profile === 'leaf' ? issuedLeafRules : signingCertificateRules;
  for (const rule of [...profileRules, ...authorityLints]) {
    const problem = rule.check(certificate, trustDomain);
    if (problem !== undefined) {
      throw new AppError(
        'internal',
        `refused to sign a ${profile}: ${problem} (${rule.name}, ${rule.citation})`,
        {
          reason: rule.name,
        },
      );
    }
  }
}

/** Signs what the template says once the lint has nothing against it; DER. */
export async function lintAndSign(
  template: CertificateTemplate,
  signer: Signer,
  { profile, trustDomain }: { readonly profile: CertificateProfile; readonly trustDomain: TrustDomain },
): Promise<Uint8Array> {
  const tbs = toBeSigned(template, signer.type);
  const unsigned = assembleCertificate(tbs, signer.type, noSignature);
  lintCertificate(Certificate.parse(unsigned), profile, trustDomain);
  return assembleCertificate(tbs, signer.type, await signer.sign(tbs));
}

/** Stands for the signature while a certificate is linted. */
const noSignature = new Uint8Array(1);
