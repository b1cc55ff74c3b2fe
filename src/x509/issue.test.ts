import 'reflect-metadata';
import { X509Certificate } from 'node:crypto';
import * as peculiar from '@peculiar/x509';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { openssl } from '../testing/openssl.ts';
import { newSigner, TestAuthority } from '../testing/test-authority.ts';
import { Certificate } from './certificate.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  extendedKeyUsage,
  keyUsage,
  subjectAltName,
  subjectKeyIdentifier,
} from './extensions.ts';
import {
  assembleCertificate,
  type CertificateTemplate,
  issueCertificate,
  newSerial,
  toBeSigned,
} from './issue.ts';
import { encodeName } from './names.ts';
import type { KeyType } from './signature.ts';

const nowMs = Date.UTC(2026, 5, 1);
const root = await TestAuthority.root({ nowMs });
const subject = await newSigner();

const template: CertificateTemplate = {
  serial: Buffer.from('00ff0102', 'hex'),
  issuer: root.certificate.subject,
  subject: encodeName({ country: ['US'], organization: ['SPIRE'] }),
  notBeforeMs: nowMs,
  notAfterMs: Date.UTC(2051, 0),
  spki: subject.publicKey,
  extensions: [
    basicConstraints({ ca: false }),
    keyUsage(['digitalSignature']),
    extendedKeyUsage(['serverAuth', 'clientAuth']),
    subjectKeyIdentifier(subject.publicKey),
    authorityKeyIdentifier(root.certificate),
    subjectAltName({ uris: ['spiffe://a.test/w'], dnsNames: ['a.test'] }),
  ],
};
const der = await issueCertificate(template, root.signer);

describe('an issued certificate', () => {
  it('is what openssl reads', () => {
    const text = openssl(['x509', '-inform', 'DER', '-noout', '-text'], der).toString();
    for (const line of [
      /Version: 3 \(0x2\)/,
      /Serial Number: 16711938 \(0xff0102\)/,
      /Signature Algorithm: ecdsa-with-SHA256/,
      /Issuer: CN = root/,
      /Not Before: Jun {2}1 00:00:00 2026 GMT/,
      /Not After : Jan {2}1 00:00:00 2051 GMT/,
      /Subject: C = US, O = SPIRE/,
      /X509v3 Basic Constraints: critical\s+CA:FALSE/,
      /X509v3 Key Usage: critical\s+Digital Signature\n/,
      /X509v3 Extended Key Usage: \n\s+TLS Web Server Authentication, TLS Web Client Authentication/,
      /X509v3 Subject Alternative Name: \n\s+URI:spiffe:\/\/a.test\/w, DNS:a.test\n/,
    ])
      expect(text).toMatch(line);
  });

  it('comes out of openssl byte for byte as it went in', () => {
    expect(openssl(['x509', '-inform', 'DER', '-outform', 'DER'], der).equals(der)).toBe(true);
  });

  it('is what @peculiar/x509 and Node read', async () => {
    const theirs = new peculiar.X509Certificate(der);
    const issuer = new peculiar.X509Certificate(root.certificate.der);
    expect(await theirs.verify({ publicKey: issuer, date: new Date(nowMs + 1000) })).toBe(true);
    expect(theirs.serialNumber).toBe('ff0102'.padStart(theirs.serialNumber.length, '0'));
    expect(theirs.notAfter.getTime()).toBe(template.notAfterMs);
    const node = new X509Certificate(der);
    expect(node.verify(new X509Certificate(root.certificate.der).publicKey)).toBe(true);
    expect(node.checkIssued(new X509Certificate(root.certificate.der))).toBe(true);
    expect(node.subjectAltName).toBe('URI:spiffe://a.test/w, DNS:a.test');
  });

  it('is what our own parser reads', () => {
    const certificate = Certificate.parse(der);
    expect(certificate).toMatchObject({
      serialHex: 'ff0102',
      serialDecimal: '16711938',
      notBeforeMs: template.notBeforeMs,
      notAfterMs: template.notAfterMs,
      isCa: false,
      pathLength: undefined,
      uris: ['spiffe://a.test/w'],
      dnsNames: ['a.test'],
      authorityKeyId: root.certificate.subjectKeyId,
      unknownCriticalExtensions: [],
      keyUsageIsCritical: true,
      subjectText: 'C=US,O=SPIRE',
      issuerText: 'CN=root',
    });
    expect(certificate.verifySignedBy(root.certificate)).toBe(true);
    expect(certificate.spki.equals(subject.publicKey)).toBe(true);
  });

  it.each(['ec-p256', 'ec-p384', 'rsa-2048'] satisfies KeyType[])(
    'signed by a key of type %s verifies with openssl',
    async (type) => {
      const authority = await TestAuthority.root({ nowMs, type });
      const { certificate } = authority;
      const leaf = new X509Certificate(
        await issueCertificate({ ...template, issuer: certificate.subject }, authority.signer),
      );
      expect(leaf.verify(new X509Certificate(certificate.der).publicKey)).toBe(true);
    },
  );

  it('without extensions has no extension field', async () => {
    const bare = Certificate.parse(await issueCertificate({ ...template, extensions: [] }, root.signer));
    expect(bare.extensions.size).toBe(0);
  });

  it('can be put together without a signature, to be looked at before it is signed', () => {
    const tbs = toBeSigned(template, 'ec-p256');
    const unsigned = Certificate.parse(assembleCertificate(tbs, 'ec-p256', new Uint8Array(1)));
    expect(unsigned.tbs.equals(tbs)).toBe(true);
    expect(unsigned.verifySignedBy(root.certificate)).toBe(false);
  });
});

describe('a template is refused', () => {
  it.each([
    { name: 'an empty serial number', change: { serial: Buffer.alloc(0) } },
    { name: 'the serial number zero', change: { serial: Buffer.alloc(4) } },
    { name: 'a serial number of 21 bytes', change: { serial: Buffer.alloc(21, 1) } },
    {
      name: 'a serial number that needs a 21st byte for its sign',
      change: { serial: Buffer.alloc(20, 0xff) },
    },
    { name: 'an end before the beginning', change: { notAfterMs: nowMs - 1000 } },
    { name: 'an end that is not a number', change: { notAfterMs: Number.NaN } },
    { name: 'a year above 9999', change: { notAfterMs: Date.UTC(10_000, 0) } },
  ])('with $name', async ({ change }) => {
    const refused = expect.toSatisfy((error) => isAppError(error, 'invalid-argument'));
    await expect(issueCertificate({ ...template, ...change }, root.signer)).rejects.toEqual(refused);
  });
});

describe('newSerial', () => {
  it('gives different positive numbers of at most 127 bits without leading zeros', () => {
    const serials = Array.from({ length: 2000 }, newSerial);
    for (const serial of serials) {
      expect(serial.length).toBeLessThanOrEqual(16);
      expect(serial[0]).toBeGreaterThan(0);
      if (serial.length === 16) expect(serial[0]).toBeLessThan(0x80);
    }
    expect(new Set(serials.map((serial) => serial.toString('hex'))).size).toBe(serials.length);
  });
});
