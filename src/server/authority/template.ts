import { backdateMs } from '../../spiffe/signing-certificate.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  extendedKeyUsage,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../../x509/extensions.ts';
import { type CertificateTemplate, newSerial } from '../../x509/issue.ts';
import { encodeName, type NameAttributes } from '../../x509/names.ts';

/** What a leaf is to say. `ttlMs` counts from now; the certificate never outlives its issuer. */
export interface LeafRequest {
  readonly id: SpiffeId;
  readonly spki: Uint8Array;
  readonly dnsNames: readonly string[];
  readonly ttlMs: number;
  /** Instead of the usual one; its common name still gives way to the first DNS name. */
  readonly subject?: NameAttributes | undefined;
}

/** Template of an X.509-SVID (X509-SVID §4): one URI SAN, digitalSignature, both server and client authentication. */
export function leafTemplate(leaf: LeafRequest, issuer: Certificate, nowMs: number): CertificateTemplate {
  return {
    serial: newSerial(),
    issuer: issuer.subject,
    subject: leafSubject(leaf),
    notBeforeMs: nowMs - backdateMs,
    notAfterMs: Math.min(nowMs + leaf.ttlMs, issuer.notAfterMs),
    spki: leaf.spki,
    extensions: [
      leafConstraints,
      leafUsage,
      leafExtendedUsage,
      subjectKeyIdentifier(leaf.spki),
      authorityKeyIdentifierOf(issuer),
      subjectAltName({ uris: [leaf.id.toString()], dnsNames: leaf.dnsNames, critical: false }),
    ],
  };
}

const leafConstraints = basicConstraints({ ca: false });
const leafUsage = keyUsage(['digitalSignature']);
const leafExtendedUsage = extendedKeyUsage(['serverAuth', 'clientAuth']);
const usualLeafSubject: NameAttributes = { organization: ['Signet'] };
const plainLeafSubject = encodeName(usualLeafSubject);

function leafSubject({ subject, dnsNames: [firstDnsName] }: LeafRequest): Uint8Array {
  // RFC 5280 bounds a common name to 64 characters; a longer DNS name stands in the SAN only.
  const hasCommonName = firstDnsName !== undefined && firstDnsName.length <= 64;
  if (subject === undefined && !hasCommonName) return plainLeafSubject;
  const chosen = subject ?? usualLeafSubject;
  return encodeName(hasCommonName ? { ...chosen, commonName: firstDnsName } : chosen);
}

const authorityKeyIds = new WeakMap<Certificate, Uint8Array>();

function authorityKeyIdentifierOf(issuer: Certificate): Uint8Array {
  let encoded = authorityKeyIds.get(issuer);
  if (encoded === undefined) {
    encoded = authorityKeyIdentifier(issuer);
    authorityKeyIds.set(issuer, encoded);
  }
  return encoded;
}
