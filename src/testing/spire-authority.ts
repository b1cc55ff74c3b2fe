import { randomBytes } from 'node:crypto';
import { Certificate } from '../x509/certificate.ts';
import { tags } from '../x509/der-reader.ts';
import { element, oid, sequence, setOf } from '../x509/der-writer.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  extendedKeyUsage,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from '../x509/extensions.ts';
import { issueCertificate, newSerial } from '../x509/issue.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../x509/signature.ts';
import { TestIdentity } from './certificates.ts';

const hourMs = 3_600_000;
/** What SPIRE backdates certificates by. */
const backdateMs = 10_000;

/** The CA of a SPIRE server: its own root, or one below an upstream authority. Leaves are as SPIRE makes them. */
export class SpireAuthority {
  readonly root: TestIdentity;
  readonly #trustDomain: string;
  readonly #issuer: TestIdentity;
  readonly #intermediates: readonly Certificate[];

  private constructor(trustDomain: string, root: TestIdentity, intermediate: TestIdentity | undefined) {
    this.#trustDomain = trustDomain;
    this.root = root;
    this.#issuer = intermediate ?? root;
    this.#intermediates = intermediate === undefined ? [] : [intermediate.certificate];
  }

  static async create(
    trustDomain: string,
    options: { readonly nowMs: number; readonly keyType?: KeyType; readonly hasUpstream?: boolean },
  ): Promise<SpireAuthority> {
    const { nowMs, keyType = 'ec-p256', hasUpstream = false } = options;
    const validity = { notBeforeMs: nowMs - hourMs, notAfterMs: nowMs + 1_000 * hourMs };
    const root = await TestIdentity.root(trustDomain, { ...validity, keyType });
    const intermediate = hasUpstream ? await root.intermediate({ ...validity, keyType }) : undefined;
    return new SpireAuthority(trustDomain, root, intermediate);
  }

  /** Leaf first, without the root. */
  async issue(svid: {
    readonly path: string;
    readonly spki: Uint8Array;
    readonly nowMs: number;
    readonly ttlMs: number;
    readonly dnsNames?: readonly string[];
  }): Promise<readonly Certificate[]> {
    const { spki, nowMs, ttlMs, dnsNames = [] } = svid;
    const id = `spiffe://${this.#trustDomain}${svid.path}`;
    const issuer = this.#issuer.certificate;
    const template = {
      serial: newSerial(),
      issuer: issuer.subject,
      subject: spireSubject(),
      notBeforeMs: nowMs - backdateMs,
      notAfterMs: nowMs + ttlMs,
      spki,
      extensions: [
        keyUsage(['digitalSignature', 'keyEncipherment', 'keyAgreement']),
        extendedKeyUsage(['serverAuth', 'clientAuth']),
        basicConstraints({ ca: false }),
        subjectKeyIdentifier(spki),
        authorityKeyIdentifier(issuer),
        subjectAltName({ uris: [id], dnsNames, critical: false }),
      ],
    };
    const der = await issueCertificate(template, this.#issuer.signer);
    return [Certificate.parse(der), ...this.#intermediates];
  }

  /** What the server presents itself. */
  async serverTls(nowMs: number) {
    const key = await generatePrivateKey('ec-p256');
    const spki = createSoftwareSigner(key).publicKey;
    const chain = await this.issue({ path: '/spire/server', spki, nowMs, ttlMs: 1_000 * hourMs });
    return {
      certificateChainPem: chain.map((certificate) => certificate.toPem()).join(''),
      privateKeyPem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
      clientCaPem: this.root.certificate.toPem(),
    };
  }
}

/** `C=US, O=SPIRE` and a x500UniqueIdentifier, as Go writes them. */
function spireSubject(): Buffer {
  const attribute = (type: string, text: string) =>
    setOf(sequence(oid(type), element(tags.printableString, Buffer.from(text))));
  const unique = randomBytes(16).toString('hex');
  return sequence(attribute('2.5.4.6', 'US'), attribute('2.5.4.10', 'SPIRE'), attribute('2.5.4.45', unique));
}
