import type { KeyObject } from 'node:crypto';
import { Certificate } from '../x509/certificate.ts';
import { namedBits, oid, sequence } from '../x509/der-writer.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  encodeExtension,
  extensionOids,
  type KeyUsage,
  keyPurposes,
  keyUsages,
  subjectAltName,
  subjectKeyIdentifier,
} from '../x509/extensions.ts';
import { issueCertificate, newSerial } from '../x509/issue.ts';
import { encodeName } from '../x509/names.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType, type Signer } from '../x509/signature.ts';

/** When test certificates are valid unless told otherwise: a day from here, where FakeClock starts. */
export const testStartMs = Date.UTC(2026, 0, 1);
const dayMs = 24 * 3_600_000;

/** What a test certificate contains; what is left out is as the X509-SVID profile wants it. */
export interface TestCertificateFields {
  readonly ca?: boolean;
  readonly pathLength?: number;
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
  /** Several make a name that no certificate should have. */
  readonly commonName?: string | readonly string[];
  /** Null leaves the extension out. */
  readonly keyUsage?: readonly KeyUsage[] | null;
  readonly keyUsageCritical?: boolean;
  /** OIDs; null leaves the extension out. */
  readonly extendedKeyUsage?: readonly string[] | null;
  readonly sanCritical?: boolean;
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly keyType?: KeyType;
  /** The key to certify instead of a new one, such as for a second certificate of one CA key. */
  readonly key?: KeyObject;
  /** Encoded extensions besides. */
  readonly extensions?: readonly Uint8Array[];
}

/** A certificate with its key, which can sign others: a CA, or a leaf for tests of what a leaf must not do. */
export class TestIdentity {
  readonly certificate: Certificate;
  readonly key: KeyObject;
  readonly signer: Signer;

  private constructor(certificate: Certificate, key: KeyObject) {
    this.certificate = certificate;
    this.key = key;
    this.signer = createSoftwareSigner(key);
  }

  /** A self-signed CA of the trust domain. */
  static root(trustDomain: string, fields: TestCertificateFields = {}): Promise<TestIdentity> {
    const uris = [`spiffe://${trustDomain}`];
    return TestIdentity.#make({ ca: true, uris, commonName: `root ${trustDomain}`, ...fields });
  }

  /** A certificate below this one: a leaf with this URI unless the fields say otherwise. */
  issue(uri: string, fields: TestCertificateFields = {}): Promise<TestIdentity> {
    return TestIdentity.#make({ uris: [uri], ...fields }, this);
  }

  /** An intermediate CA below this one. */
  intermediate(fields: TestCertificateFields = {}): Promise<TestIdentity> {
    const { uris } = this.certificate;
    return TestIdentity.#make({ ca: true, uris, commonName: 'intermediate', ...fields }, this);
  }

  /** PKCS#8. */
  get privateKeyPem(): string {
    return this.key.export({ format: 'pem', type: 'pkcs8' }).toString();
  }

  static async #make(fields: TestCertificateFields, issuer?: TestIdentity): Promise<TestIdentity> {
    const key = fields.key ?? (await generatePrivateKey(fields.keyType ?? 'ec-p256'));
    const signer = createSoftwareSigner(key);
    const subject = encodeName(fields.commonName === undefined ? {} : { commonName: fields.commonName });
    const der = await issueCertificate(
      {
        serial: newSerial(),
        issuer: issuer?.certificate.subject ?? subject,
        subject,
        notBeforeMs: fields.notBeforeMs ?? testStartMs,
        notAfterMs: fields.notAfterMs ?? testStartMs + dayMs,
        spki: signer.publicKey,
        extensions: extensionsOf(fields, signer, issuer),
      },
      issuer?.signer ?? signer,
    );
    return new TestIdentity(Certificate.parse(der), key);
  }
}

function extensionsOf(
  fields: TestCertificateFields,
  signer: Signer,
  issuer?: TestIdentity,
): readonly Uint8Array[] {
  const { ca = false, pathLength, uris = [], dnsNames = [] } = fields;
  const { keyUsage = ca ? ['keyCertSign', 'cRLSign'] : ['digitalSignature'] } = fields;
  const { extendedKeyUsage = ca ? null : [keyPurposes.serverAuth, keyPurposes.clientAuth] } = fields;
  const critical = fields.sanCritical ?? fields.commonName === undefined;
  return [
    basicConstraints({ ca, ...(pathLength === undefined ? {} : { pathLength }) }),
    subjectKeyIdentifier(signer.publicKey),
    ...(issuer === undefined ? [] : [authorityKeyIdentifier(issuer.certificate)]),
    ...(uris.length + dnsNames.length === 0 ? [] : [subjectAltName({ uris, dnsNames, critical })]),
    ...(keyUsage === null ? [] : [encodedKeyUsage(keyUsage, fields.keyUsageCritical ?? true)]),
    ...(extendedKeyUsage === null
      ? []
      : [encodeExtension(extensionOids.extendedKeyUsage, false, sequence(...extendedKeyUsage.map(oid)))]),
    ...(fields.extensions ?? []),
  ];
}

function encodedKeyUsage(usages: readonly KeyUsage[], isCritical: boolean): Buffer {
  const bits = usages.map((usage) => keyUsages.indexOf(usage));
  return encodeExtension(extensionOids.keyUsage, isCritical, namedBits(bits));
}
