import 'reflect-metadata';
import { generateKeyPairSync, webcrypto, X509Certificate } from 'node:crypto';
import * as peculiar from '@peculiar/x509';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { openssl } from '../testing/openssl.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { TestAuthority } from '../testing/test-authority.ts';
import { Certificate, parseCertificates, parsePemCertificates } from './certificate.ts';
import { contextTag, DerReader } from './der-reader.ts';
import { element, integer, octetString, sequence, smallInteger, time } from './der-writer.ts';
import { encodeExtension } from './extensions.ts';
import { nameConstraints } from './name-constraints.ts';
import { encodePem } from './pem.ts';

const root = await TestAuthority.root({ pathLength: 1 });
const leaf = await root.leaf({ dnsNames: ['a.test'] });

/** `accepted`, or the text of the refusal; an error of any other kind fails the test. */
function outcome(parse: () => unknown): string {
  try {
    parse();
    return 'accepted';
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return error.message;
    throw error;
  }
}

/** A root made by openssl with these arguments. */
function opensslRoot(args: readonly string[]): Certificate {
  const key = `${tempDir()}/key.pem`;
  const request = ['req', '-x509', '-nodes', '-keyout', key, '-subj', '/C=US/O=Test', '-days', '30'];
  return Certificate.parse(openssl([...request, '-outform', 'DER', ...args]));
}

describe('Certificate.parse', () => {
  it.each([
    { name: 'P-256', args: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'], isVerified: true },
    {
      name: 'P-384 with SHA-384',
      args: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384', '-sha384'],
      isVerified: true,
    },
    {
      name: 'P-521 with SHA-512',
      args: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-521', '-sha512'],
      isVerified: true,
    },
    { name: 'RSA', args: ['-newkey', 'rsa:2048'], isVerified: true },
    { name: 'RSA with SHA-1', args: ['-newkey', 'rsa:2048', '-sha1'], isVerified: false },
    {
      name: 'RSASSA-PSS',
      args: ['-newkey', 'rsa:2048', '-sigopt', 'rsa_padding_mode:pss'],
      isVerified: false,
    },
    { name: 'Ed25519', args: ['-newkey', 'ed25519'], isVerified: false },
  ])('reads what openssl makes: $name', ({ args, isVerified }) => {
    const certificate = opensslRoot(args);
    const node = new X509Certificate(certificate.der);
    expect(certificate.isCa).toBe(true);
    expect(certificate.subjectText).toBe('C=US,O=Test');
    expect(certificate.notAfterMs).toBe(Date.parse(node.validTo));
    expect(certificate.notBeforeMs).toBe(Date.parse(node.validFrom));
    expect(certificate.serialHex).toBe(node.serialNumber.toLowerCase());
    expect(certificate.fingerprint).toBe(node.fingerprint256.replaceAll(':', '').toLowerCase());
    expect(certificate.spki.equals(node.publicKey.export({ format: 'der', type: 'spki' }))).toBe(true);
    expect(certificate.verifySignedBy(certificate)).toBe(isVerified);
  });

  it('reads every extension that openssl writes for us', () => {
    const extensions = [
      'basicConstraints=critical,CA:TRUE,pathlen:2',
      'keyUsage=critical,keyCertSign,cRLSign,digitalSignature',
      'extendedKeyUsage=serverAuth,1.2.3.4',
      'subjectAltName=URI:spiffe://a.test,URI:https://b.test,DNS:c.test,IP:192.0.2.1,email:a@d.test,otherName:1.2.3;UTF8:x',
      'nameConstraints=critical,permitted;URI:a.test,excluded;DNS:evil.test',
      'certificatePolicies=critical,1.2.3.5',
      'inhibitAnyPolicy=2',
    ];
    const args = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];
    const all = [...args, ...extensions.flatMap((text) => ['-addext', text])];
    expect(opensslRoot(all)).toMatchObject({
      isCa: true,
      pathLength: 2,
      keyUsage: new Set(['keyCertSign', 'cRLSign', 'digitalSignature']),
      keyUsageIsCritical: true,
      extendedKeyUsage: ['1.3.6.1.5.5.7.3.1', '1.2.3.4'],
      uris: ['spiffe://a.test', 'https://b.test'],
      dnsNames: ['c.test'],
      nameKinds: new Set(['uniformResourceIdentifier', 'dNSName', 'iPAddress', 'rfc822Name', 'otherName']),
      nameConstraints: {
        permitted: [{ kind: 'uniformResourceIdentifier', text: 'a.test' }],
        excluded: [{ kind: 'dNSName', text: 'evil.test' }],
      },
      unknownCriticalExtensions: ['2.5.29.32'],
    });
  });

  it('reads what @peculiar/x509 makes', async () => {
    const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
    const keys = await webcrypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
    const theirs = await peculiar.X509CertificateGenerator.createSelfSigned(
      {
        name: 'CN=peculiar, O=Test',
        keys,
        signingAlgorithm,
        notBefore: new Date('2026-01-01T00:00:00Z'),
        notAfter: new Date('2060-01-01T00:00:00Z'),
        extensions: [new peculiar.BasicConstraintsExtension(true, undefined, true)],
      },
      webcrypto as never,
    );
    const ours = Certificate.parse(Buffer.from(theirs.rawData));
    expect(ours.notAfterMs).toBe(Date.UTC(2060, 0));
    expect(ours.isCa).toBe(true);
    expect(ours.keyUsage).toBeUndefined();
    expect(ours.verifySignedBy(ours)).toBe(true);
  });

  it('keeps a copy that nobody can change afterwards', () => {
    const bytes = new Uint8Array(leaf.der);
    const certificate = Certificate.parse(bytes);
    bytes.fill(0);
    expect(certificate.der.equals(leaf.der)).toBe(true);
    expect(certificate.verifySignedBy(root.certificate)).toBe(true);
  });

  it('knows its issuer', () => {
    expect(root.certificate.isSelfIssued).toBe(true);
    expect(leaf.isSelfIssued).toBe(false);
    expect(leaf.issuer.equals(root.certificate.subject)).toBe(true);
    expect(leaf.authorityKeyId).toBe(root.certificate.subjectKeyId);
    expect(leaf.hasEmptySubject).toBe(true);
    expect(leaf.verifySignedBy(leaf)).toBe(false);
  });

  it('refuses more than 64 KB before it looks at them', () => {
    expect(outcome(() => Certificate.parse(Buffer.alloc(64 * 1024 + 1)))).toContain(
      'longer than 65536 bytes',
    );
  });
});

/** The certificate with its TBSCertificate rebuilt from changed fields; the signature is no longer right. */
function rebuilt(change: (fields: Buffer[]) => readonly Buffer[]): Buffer {
  const outer = new DerReader(leaf.der).enter('certificate');
  const inner = outer.enter('tbs');
  const fields: Buffer[] = [];
  while (!inner.isAtEnd) fields.push(inner.any('field').encoded);
  const rest: Buffer[] = [];
  while (!outer.isAtEnd) rest.push(outer.any('field').encoded);
  return sequence(sequence(...change(fields)), ...rest);
}

describe('Certificate.parse refuses', () => {
  const replace = (index: number, field: Buffer) => (fields: Buffer[]) => fields.with(index, field);
  const version = (value: number): Buffer => element(contextTag(0, true), smallInteger(value));
  const extensions = (...list: Buffer[]): Buffer => element(contextTag(3, true), sequence(...list));
  const sha384 = Buffer.from('300a06082a8648ce3d040303', 'hex');

  it('nothing that was only taken apart and put together', () => {
    expect(rebuilt((fields) => fields).equals(leaf.der)).toBe(true);
  });

  it.each([
    { name: 'version 1 written out', der: rebuilt(replace(0, version(0))) },
    { name: 'version 4', der: rebuilt(replace(0, version(3))) },
    { name: 'version 1 with extensions', der: rebuilt((fields) => fields.slice(1)) },
    { name: 'version 2 with extensions', der: rebuilt(replace(0, version(1))) },
    {
      name: 'version 4 without extensions',
      der: rebuilt((fields) => fields.with(0, version(3)).slice(0, 7)),
    },
    {
      name: 'two versions',
      der: rebuilt(replace(0, element(contextTag(0, true), smallInteger(2), smallInteger(2)))),
    },
    { name: 'a negative serial number', der: rebuilt(replace(1, element(0x02, Buffer.of(0x80)))) },
    { name: 'a serial number of 21 bytes', der: rebuilt(replace(1, integer(Buffer.alloc(21, 1)))) },
    { name: 'two different signature algorithms', der: rebuilt(replace(2, sha384)) },
    { name: 'an issuer that is no name', der: rebuilt(replace(3, sequence(smallInteger(1)))) },
    {
      name: 'a validity of one time',
      der: rebuilt(replace(4, sequence(element(0x17, Buffer.from('300101000000Z'))))),
    },
    { name: 'a subject that is no name', der: rebuilt(replace(5, sequence(sequence()))) },
    { name: 'a key that is no key', der: rebuilt(replace(6, sequence())) },
    { name: 'an empty list of extensions', der: rebuilt(replace(7, extensions())) },
    {
      name: 'three times',
      der: rebuilt((fields) =>
        fields.with(4, sequence(new DerReader(fields[4]!).any('x').contents, time(Date.UTC(2030, 0)))),
      ),
    },
    {
      name: 'two lists of extensions',
      der: rebuilt((fields) =>
        fields.with(7, element(contextTag(3, true), new DerReader(fields[7]!).any('x').contents, sequence())),
      ),
    },
    {
      name: 'a field after the signature',
      der: sequence(new DerReader(leaf.der).any('x').contents, smallInteger(1)),
    },
    { name: 'a field after the extensions', der: rebuilt((fields) => [...fields, smallInteger(1)]) },
    {
      name: 'extensions before the key',
      der: rebuilt((fields) => [...fields.slice(0, 6), fields[7]!, fields[6]!]),
    },
    {
      name: 'a malformed extension we know',
      der: rebuilt(replace(7, extensions(encodeExtension('2.5.29.17', false, octetString(Buffer.of(1)))))),
    },
    { name: 'a trailing byte', der: Buffer.concat([leaf.der, Buffer.of(0)]) },
    { name: 'two certificates', der: Buffer.concat([leaf.der, leaf.der]) },
    { name: 'nothing', der: Buffer.alloc(0) },
  ])('$name', ({ der }) => {
    expect(outcome(() => Certificate.parse(der))).toMatch(/^failed to parse certificate: /);
  });

  it('every truncation', () => {
    for (let length = 0; length < leaf.der.length; length += 1)
      expect(outcome(() => Certificate.parse(leaf.der.subarray(0, length)))).not.toBe('accepted');
  });

  it('random bytes, and anything else only with its own error', () => {
    const damaged = fc.array(fc.tuple(fc.nat(leaf.der.length - 1), fc.nat(255)), {
      minLength: 1,
      maxLength: 8,
    });
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), damaged, (bytes, changes) => {
        expect(outcome(() => Certificate.parse(bytes))).not.toBe('accepted');
        const der = Buffer.from(leaf.der);
        for (const [offset, value] of changes) der[offset] = value;
        outcome(() => Certificate.parse(der));
      }),
      { numRuns: 1000 },
    );
  });

  it('every byte of the certificate changed to every interesting value only with its own error', () => {
    for (let offset = 0; offset < leaf.der.length; offset += 1) {
      for (const value of [0x00, 0x02, 0x1f, 0x30, 0x7f, 0x80, 0x84, 0xa0, 0xff]) {
        const der = Buffer.from(leaf.der);
        der[offset] = value;
        outcome(() => Certificate.parse(der));
      }
    }
  });
});

describe('parseCertificates', () => {
  it('reads certificates one after another', () => {
    const chain = parseCertificates(Buffer.concat([leaf.der, root.certificate.der]));
    expect(chain.map(({ fingerprint }) => fingerprint)).toEqual([
      leaf.fingerprint,
      root.certificate.fingerprint,
    ]);
  });

  it.each([
    { name: 'nothing', der: Buffer.alloc(0), says: /certificate 1: missing/ },
    {
      name: 'something else after the first',
      der: Buffer.concat([leaf.der, Buffer.from('0500', 'hex')]),
      says: /certificate 2: expected/,
    },
    {
      name: 'a truncated second',
      der: Buffer.concat([leaf.der, leaf.der.subarray(0, 100)]),
      says: /certificate 2: longer/,
    },
    { name: 'more than 4 MB', der: Buffer.alloc(4 * 1024 * 1024 + 1), says: /longer than 4194304 bytes/ },
  ])('refuses $name', ({ der, says }) => {
    expect(outcome(() => parseCertificates(der))).toMatch(says);
  });
});

describe('parsePemCertificates', () => {
  const pkcs8 = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({
    format: 'pem',
    type: 'pkcs8',
  });

  it('reads what toPem and openssl write', () => {
    const pem = openssl(['x509', '-text'], leaf.toPem()).toString();
    const fingerprints = parsePemCertificates(pem + root.certificate.toPem()).map(
      ({ fingerprint }) => fingerprint,
    );
    expect(fingerprints).toEqual([leaf.fingerprint, root.certificate.fingerprint]);
    expect(openssl(['x509'], leaf.toPem()).toString()).toBe(leaf.toPem());
  });

  it.each([
    { name: 'nothing', pem: '', says: /at least one/ },
    { name: 'text without blocks', pem: 'hello\n', says: /at least one/ },
    { name: 'a private key', pem: leaf.toPem() + pkcs8, says: /^PEM block 2: a private key/ },
    {
      name: 'an old private key',
      pem: encodePem('EC PRIVATE KEY', Buffer.of(1)),
      says: /^PEM block 1: a private key/,
    },
    {
      name: 'a request',
      pem: encodePem('CERTIFICATE REQUEST', Buffer.of(1)),
      says: /^PEM block 1: expected "CERTIFICATE"/,
    },
    {
      name: 'a trusted certificate',
      pem: encodePem('TRUSTED CERTIFICATE', leaf.der),
      says: /^PEM block 1: expected/,
    },
    {
      name: 'a block that is no certificate',
      pem: leaf.toPem() + encodePem('CERTIFICATE', Buffer.of(1)),
      says: /^PEM block 2: failed to parse certificate/,
    },
  ])('refuses $name', ({ pem, says }) => {
    expect(outcome(() => parsePemCertificates(pem))).toMatch(says);
  });

  it('does not repeat the private key in its error', () => {
    const text = outcome(() => parsePemCertificates(String(pkcs8)));
    for (const line of String(pkcs8).split('\n').slice(1, -2)) expect(text).not.toContain(line.slice(0, 12));
  });
});

describe('the name constraints of an authority', () => {
  it('are read from its certificate', async () => {
    const extraExtensions = [nameConstraints({ permittedUris: ['a.test'] })];
    const { certificate } = await TestAuthority.root({ extraExtensions });
    expect(certificate.nameConstraints?.permitted).toEqual([
      { kind: 'uniformResourceIdentifier', text: 'a.test' },
    ]);
    expect(root.certificate.nameConstraints).toBeUndefined();
  });
});
