import { AppError } from '../../runtime/error.ts';
import { isReservedPath, SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type CertificateRequest, parseCsr, verifyCsr } from '../../x509/csr.ts';
import { attributeTexts, encodeName, isEmptyName, type NameAttributes } from '../../x509/names.ts';
import type { LeafRequest } from '../authority/template.ts';
import { checkDnsName } from '../registration/entry-rules.ts';
import { explained } from './messages.ts';

/** Parses a CSR; throws `invalid-argument` with SPIRE's text. Its signature is unchecked until `verifyCsr`. */
export function readCsr(der: Uint8Array): CertificateRequest {
  return explained('malformed CSR', () => parseCsr(der));
}

/** The error for a request without a CSR. */
export function missingCsr(): AppError {
  return new AppError('invalid-argument', 'missing CSR');
}

/**
 * What an administrator asks for with the CSR of MintX509SVID, which says everything itself: identity, DNS names, key
 * and, if it has one, subject. Throws `invalid-argument` with SPIRE's texts.
 */
export function readMintRequest(der: Uint8Array, trustDomain: TrustDomain): Omit<LeafRequest, 'ttlMs'> {
  if (der.length === 0) throw missingCsr();
  const csr = readCsr(der);
  explained('failed to verify CSR signature', () => verifyCsr(csr));
  return {
    id: workloadIdOf(csr, trustDomain),
    dnsNames: checkedDnsNames(csr),
    spki: csr.spki,
    subject: explained('CSR subject is invalid', () => subjectOf(csr)),
  };
}

function workloadIdOf({ uris }: CertificateRequest, trustDomain: TrustDomain): SpiffeId {
  const [uri, second] = uris;
  if (uri === undefined) throw new AppError('invalid-argument', 'CSR URI SAN is required');
  if (second !== undefined) throw new AppError('invalid-argument', 'only one URI SAN is expected');
  const id = explained('CSR URI SAN is invalid', () => SpiffeId.parse(uri));
  const problem = notAWorkload(id, trustDomain);
  if (problem === undefined) return id;
  throw new AppError('invalid-argument', `CSR URI SAN is invalid: "${id}" is not ${problem}`);
}

function notAWorkload(id: SpiffeId, trustDomain: TrustDomain): string | undefined {
  if (!id.isMemberOf(trustDomain)) return `a member of trust domain "${trustDomain}"`;
  const workload = `a workload in trust domain "${trustDomain}"`;
  if (id.path === '') return `${workload}; path is empty`;
  return isReservedPath(id.path) ? `${workload}; path is in the reserved namespace` : undefined;
}

function checkedDnsNames({ dnsNames }: CertificateRequest): readonly string[] {
  const problem = dnsNames.map(checkDnsName).find((found) => found !== undefined);
  if (problem !== undefined) throw new AppError('invalid-argument', `CSR DNS name is invalid: ${problem}`);
  const known = new Set(dnsNames.map((name) => name.toLowerCase()));
  const covered = dnsNames.find(
    (name) => known.has(`*${name.slice(name.indexOf('.')).toLowerCase()}`) && !name.startsWith('*'),
  );
  if (covered === undefined) return dnsNames;
  throw new AppError(
    'invalid-argument',
    `CSR DNS name contains a wildcard that covers another non-wildcard name: "${covered}"`,
  );
}

/**
 * As SPIRE: the common attributes count, others are dropped; of common name and serial number the last one. Throws
 * `invalid-argument` for what cannot be written into a certificate.
 */
function subjectOf({ subject }: CertificateRequest): NameAttributes | undefined {
  if (isEmptyName(subject)) return undefined;
  const texts = (attribute: keyof NameAttributes) => attributeTexts(subject, attribute);
  const found: NameAttributes = {
    country: texts('country'),
    organization: texts('organization'),
    organizationalUnit: texts('organizationalUnit'),
    locality: texts('locality'),
    province: texts('province'),
    commonName: texts('commonName').slice(-1),
    serialNumber: texts('serialNumber').slice(-1),
  };
  if (isEmptyName(encodeName(found))) return undefined;
  return found;
}
