import {
  authorityKeyIdentifier,
  basicConstraints,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../x509/extensions.ts';
import { type CertificateTemplate, newSerial } from '../x509/issue.ts';
import { nameConstraints } from '../x509/name-constraints.ts';
import { encodeName } from '../x509/names.ts';
import type { TrustDomain } from './spiffe-id.ts';

/** Certificates start this much in the past, so that a peer whose clock is a little late accepts them. */
export const backdateMs = 10_000;

/** What the subject of a CA certificate says; a serial number is added. */
export interface AuthoritySubject {
  readonly commonName: string;
  readonly organization: readonly string[];
  readonly country: readonly string[];
}

/** What all CA certificates of a trust domain have in common. */
interface SigningCertificateFields {
  readonly trustDomain: TrustDomain;
  readonly spki: Uint8Array;
  readonly nowMs: number;
  /** How many CA certificates may stand below it. */
  readonly pathLength: number;
  /** Also limits the URIs below it to the trust domain: TLS libraries exist that refuse such a chain. */
  readonly nameConstraints: boolean;
}

/** The name of a CA certificate: its serial number keeps it apart from all others, so path building by name is exact. */
export function authorityName(subject: AuthoritySubject, serial: Buffer = newSerial()): Buffer {
  return encodeName({ ...subject, serialNumber: BigInt(`0x${serial.toString('hex')}`).toString() });
}

/** Template of a self-signed root of `trustDomain` (X509-SVID §4: CA, keyCertSign, the trust domain as its ID). */
export function rootTemplate(
  root: SigningCertificateFields & { readonly subject: AuthoritySubject; readonly ttlMs: number },
): CertificateTemplate {
  const serial = newSerial();
  const name = authorityName(root.subject, serial);
  return {
    serial,
    issuer: name,
    subject: name,
    notBeforeMs: root.nowMs - backdateMs,
    notAfterMs: root.nowMs + root.ttlMs,
    spki: root.spki,
    extensions: extensionsOf(root),
  };
}

/** What stands above an intermediate. */
export interface SigningIssuer {
  /** Name, DER. */
  readonly subject: Uint8Array;
  readonly subjectKeyId: string | undefined;
  readonly spki: Uint8Array;
}

/** Template of a CA certificate below `issuer`, with the name that its request asks for. */
export function intermediateTemplate(
  intermediate: SigningCertificateFields & {
    readonly issuer: SigningIssuer;
    /** Name, DER. */
    readonly subject: Uint8Array;
    readonly notAfterMs: number;
  },
): CertificateTemplate {
  return {
    serial: newSerial(),
    issuer: intermediate.issuer.subject,
    subject: intermediate.subject,
    notBeforeMs: intermediate.nowMs - backdateMs,
    notAfterMs: intermediate.notAfterMs,
    spki: intermediate.spki,
    extensions: [...extensionsOf(intermediate), authorityKeyIdentifier(intermediate.issuer)],
  };
}

function extensionsOf({ trustDomain, spki, pathLength, ...more }: SigningCertificateFields): Uint8Array[] {
  return [
    basicConstraints({ ca: true, pathLength }),
    usage,
    subjectKeyIdentifier(spki),
    subjectAltName({ uris: [trustDomain.id], dnsNames: [], critical: false }),
    // RFC 5280 §4.2.1.10: a URI's constraint is the host, which in SPIFFE IDs is the trust domain.
    ...(more.nameConstraints ? [nameConstraints({ permittedUris: [trustDomain.name] })] : []),
  ];
}

const usage = keyUsage(['keyCertSign', 'cRLSign']);
