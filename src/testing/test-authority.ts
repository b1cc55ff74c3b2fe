import { generateKeyPairSync } from 'node:crypto';
import { Certificate } from '../x509/certificate.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  extendedKeyUsage,
  type KeyUsage,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../x509/extensions.ts';
import { issueCertificate, newSerial } from '../x509/issue.ts';
import { encodeName } from '../x509/names.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType, type Signer } from '../x509/signature.ts';

const HOUR_MS = 3_600_000;

/** What a test wants different from a sound certificate. */
export interface TestCertificateOptions {
  /** The middle of the validity; default `Date.now()`. */
  readonly nowMs?: number;
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  /** Common name; default: none for a leaf. */
  readonly name?: string;
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
  readonly ca?: boolean;
  readonly pathLength?: number;
  /** `null` leaves the extension out. */
  readonly usage?: readonly KeyUsage[] | null;
  /** Leaves both key identifiers out. */
  readonly withoutKeyIds?: boolean;
  readonly extraExtensions?: readonly Uint8Array[];
  /** The key that is certified; a new P-256 key by default. */
  readonly signer?: Signer;
  readonly type?: KeyType;
}

/** A new signer; P-256 unless asked. */
export async function newSigner(type: KeyType = 'ec-p256'): Promise<Signer> {
  if (type !== 'ec-p256') return createSoftwareSigner(await generatePrivateKey(type));
  return createSoftwareSigner(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey);
}

/** A certificate authority with a real key, for tests; sound unless the options say otherwise. */
export class TestAuthority {
  readonly certificate: Certificate;
  readonly signer: Signer;

  constructor(certificate: Certificate, signer: Signer) {
    this.certificate = certificate;
    this.signer = signer;
  }

  /** A self-signed root. */
  static async root(options: TestCertificateOptions = {}): Promise<TestAuthority> {
    const signer = options.signer ?? (await newSigner(options.type));
    const withName = { name: 'root', ca: true, ...options };
    return new TestAuthority(await issue(signer, undefined, signer, withName), signer);
  }

  /** An authority below this one. */
  async authority(options: TestCertificateOptions = {}): Promise<TestAuthority> {
    const signer = options.signer ?? (await newSigner(options.type));
    const withName = { name: 'intermediate', ca: true, ...options };
    return new TestAuthority(await issue(signer, this.certificate, this.signer, withName), signer);
  }

  /** A leaf for a URI, with `digitalSignature` and both key purposes. */
  async leaf(options: TestCertificateOptions = {}): Promise<Certificate> {
    const signer = options.signer ?? (await newSigner(options.type));
    const withUri = { uris: ['spiffe://example.test/workload'], ...options };
    return issue(signer, this.certificate, this.signer, withUri);
  }
}

async function issue(
  subject: Signer,
  issuer: Certificate | undefined,
  issuerSigner: Signer,
  options: TestCertificateOptions,
): Promise<Certificate> {
  const nowMs = options.nowMs ?? Date.now();
  const name = encodeName(options.name === undefined ? {} : { commonName: options.name });
  const der = await issueCertificate(
    {
      serial: newSerial(),
      issuer: issuer?.subject ?? name,
      subject: name,
      notBeforeMs: options.notBeforeMs ?? nowMs - HOUR_MS,
      notAfterMs: options.notAfterMs ?? nowMs + HOUR_MS,
      spki: subject.publicKey,
      extensions: extensionsOf(subject, issuer, options),
    },
    issuerSigner,
  );
  return Certificate.parse(der);
}

function extensionsOf(
  subject: Signer,
  issuer: Certificate | undefined,
  options: TestCertificateOptions,
): Uint8Array[] {
  const { ca = false, pathLength, uris = [], dnsNames = [], extraExtensions = [] } = options;
  const { usage = ca ? ['keyCertSign', 'cRLSign'] : ['digitalSignature'] } = options;
  const keyIds = [
    subjectKeyIdentifier(subject.publicKey),
    ...(issuer === undefined ? [] : [authorityKeyIdentifier(issuer)]),
  ];
  return [
    basicConstraints(pathLength === undefined ? { ca } : { ca, pathLength }),
    ...(usage === null ? [] : [keyUsage(usage as readonly KeyUsage[])]),
    ...(ca ? [] : [extendedKeyUsage(['serverAuth', 'clientAuth'])]),
    ...(options.withoutKeyIds === true ? [] : keyIds),
    ...(uris.length + dnsNames.length === 0
      ? []
      : [subjectAltName({ uris, dnsNames, critical: options.name === undefined })]),
    ...extraExtensions,
  ];
}
