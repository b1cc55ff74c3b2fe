import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TestIdentity, testStartMs } from '../testing/certificates.ts';
import { openssl } from '../testing/openssl.ts';
import { type TestListFields, testRevocationList } from '../testing/revocation-lists.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { integer, octetString, sequence } from './der-writer.ts';
import { encodeExtension } from './extensions.ts';
import { encodePem } from './pem.ts';
import { parseRevocationLists, RevocationList } from './revocation-list.ts';

const dayMs = 24 * 3_600_000;
const root = await TestIdentity.root('example.org');
const listWith = async (fields: TestListFields) =>
  RevocationList.parse(await testRevocationList(root, fields));

describe('a revocation list', () => {
  it('knows its issuer, its times and what it revokes', async () => {
    const list = await listWith({ serials: ['0a1b', 'ff00', '01'] });
    expect(list).toMatchObject({
      issuer: root.certificate.subject,
      issuerText: 'CN=root example.org',
      thisUpdateMs: testStartMs,
      nextUpdateMs: testStartMs + dayMs,
      authorityKeyId: root.certificate.subjectKeyId,
      size: 3,
    });
    // The sign byte that DER puts before ff00 is no part of the number.
    for (const serial of ['0a1b', 'ff00', '01']) expect(list.revokes(serial)).toBe(true);
    for (const serial of ['0a', '1b', '00ff00', 'FF00', '']) expect(list.revokes(serial)).toBe(false);
  });

  it('may revoke nothing, and may be of version 1', async () => {
    expect((await listWith({})).size).toBe(0);
    expect(await listWith({ version: null, extensions: null, serials: ['05'] })).toMatchObject({
      size: 1,
      authorityKeyId: undefined,
    });
  });

  it('is signed by its issuer and nobody else, whatever was asked before', async () => {
    const other = await TestIdentity.root('example.org');
    const list = await listWith({});
    expect(list.verifySignedBy(other.certificate)).toBe(false);
    expect(list.verifySignedBy(root.certificate)).toBe(true);
    expect(list.verifySignedBy(other.certificate)).toBe(false);
    expect(list.verifySignedBy(root.certificate)).toBe(true);
  });

  it('is not signed any more when one bit of it is another', async () => {
    const der = await testRevocationList(root, { serials: ['0a1b'] });
    der.write('0a1c', der.indexOf('0a1b', 0, 'hex'), 'hex');
    const forged = RevocationList.parse(der);
    expect(forged.revokes('0a1b')).toBe(false);
    expect(forged.verifySignedBy(root.certificate)).toBe(false);
  });
});

const delta = (isCritical: boolean) => encodeExtension('2.5.29.27', isCritical, integer(Buffer.of(1)));

describe('refuses', () => {
  const cases: readonly { name: string; fields: TestListFields; says: string }[] = [
    { name: 'a list without an end', fields: { nextUpdateMs: null }, says: 'nextUpdate: missing' },
    {
      name: 'an end before the start',
      fields: { nextUpdateMs: testStartMs - 1000 },
      says: 'before thisUpdate',
    },
    { name: 'another version', fields: { version: 2 }, says: 'version: expected 2' },
    { name: 'version 1 with extensions', fields: { version: null }, says: 'trailing' },
    { name: 'a delta list', fields: { extensions: [delta(true)] }, says: 'delta' },
    { name: 'a delta list that does not say it loud', fields: { extensions: [delta(false)] }, says: 'delta' },
    {
      name: 'a partitioned list',
      fields: { extensions: [encodeExtension('2.5.29.28', true, sequence())] },
      says: 'issuing distribution point .* is not supported',
    },
    {
      name: 'a list of a part of the certificates that does not say it loud',
      fields: { extensions: [encodeExtension('2.5.29.28', false, sequence())] },
      says: 'issuing distribution point .* is not supported',
    },
    {
      name: 'a list that is limited in a way nobody knows',
      fields: { extensions: [encodeExtension('2.5.29.99', true, sequence())] },
      says: 'not supported: 2.5.29.99',
    },
    {
      name: 'an entry of another issuer',
      fields: { serials: ['01'], entryExtensions: [encodeExtension('2.5.29.29', true, sequence())] },
      says: 'not supported: 2.5.29.29',
    },
    {
      name: 'entry extensions in version 1',
      fields: {
        version: null,
        extensions: null,
        serials: ['01'],
        entryExtensions: [encodeExtension('2.5.29.21', false, octetString(Buffer.of(1)))],
      },
      says: 'trailing',
    },
    { name: 'a serial number that is too long', fields: { serials: ['01'.repeat(21)] }, says: '20 bytes' },
  ];
  it.each(cases)('$name', async ({ fields, says }) => {
    const message = expect.stringMatching(new RegExp(`^failed to parse revocation list: .*${says}`));
    await expect(listWith(fields)).rejects.toMatchObject({ code: 'invalid-argument', message });
  });

  it('a negative serial number', async () => {
    const der = await testRevocationList(root, { serials: ['7f01'] });
    der.write('ff01', der.indexOf('7f01', 0, 'hex'), 'hex');
    expect(() => RevocationList.parse(der)).toThrow('userCertificate');
  });

  it('a certificate, a list with something behind it, and nothing', async () => {
    const der = await testRevocationList(root);
    for (const bytes of [root.certificate.der, Buffer.concat([der, Buffer.of(0)]), Buffer.alloc(0)]) {
      expect(() => RevocationList.parse(bytes)).toThrow('failed to parse revocation list');
    }
  });

  it('everything else without falling over', async () => {
    const der = await testRevocationList(root, { serials: ['0a1b', 'ff00'] });
    const damaged = fc
      .tuple(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), fc.nat(der.length))
      .map(([at, change, end]) => {
        const bytes = Buffer.from(der);
        bytes[at] = (bytes[at] ?? 0) ^ change;
        return bytes.subarray(0, end < 10 ? end : undefined);
      });
    fc.assert(
      fc.property(fc.oneof(damaged, fc.uint8Array({ maxLength: 200 })), (bytes) => {
        try {
          expect(RevocationList.parse(bytes).verifySignedBy(root.certificate)).toBe(false);
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid-argument' });
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('a file of revocation lists', () => {
  it('is one list as DER, or several as PEM', async () => {
    const [first, second] = [
      await testRevocationList(root),
      await testRevocationList(root, { serials: ['01'] }),
    ];
    expect(parseRevocationLists(first)).toMatchObject([{ size: 0 }]);
    const pem = Buffer.from(encodePem('X509 CRL', first) + encodePem('X509 CRL', second));
    expect(parseRevocationLists(pem)).toMatchObject([{ size: 0 }, { size: 1 }]);
  });

  it.each([
    { name: 'nothing', text: () => '', says: 'got 0' },
    {
      name: 'a certificate',
      text: () => root.certificate.toPem(),
      says: 'expected "X509 CRL", got "CERTIFICATE"',
    },
    { name: 'too many', text: (pem: string) => pem.repeat(65), says: 'got 65' },
  ])('cannot be $name', async ({ text, says }) => {
    const pem = encodePem('X509 CRL', await testRevocationList(root));
    expect(() => parseRevocationLists(Buffer.from(text(pem)))).toThrow(says);
  });

  it('is read as OpenSSL writes it', () => {
    const directory = tempDir();
    const file = (name: string) => join(directory, name);
    mkdirSync(file('new'));
    writeFileSync(file('ca.pem'), root.certificate.toPem());
    writeFileSync(file('ca.key'), root.privateKeyPem);
    writeFileSync(
      file('index.txt'),
      'R\t271231235959Z\t260101000000Z,keyCompromise\tFF00\tunknown\t/CN=node\n',
    );
    writeFileSync(file('number'), '01\n');
    writeFileSync(
      file('ca.cnf'),
      `[ca]\ndefault_ca = it\n[it]\ndatabase = ${file('index.txt')}\ncrlnumber = ${file('number')}\ndefault_md = sha256\ncrl_extensions = more\n[more]\nauthorityKeyIdentifier = keyid\n`,
    );
    const signed = ['-cert', file('ca.pem'), '-keyfile', file('ca.key'), '-crldays', '7'];
    const pem = openssl(['ca', '-config', file('ca.cnf'), '-gencrl', ...signed]);
    const [list] = parseRevocationLists(pem);
    expect(list?.revokes('ff00')).toBe(true);
    expect(list?.verifySignedBy(root.certificate)).toBe(true);
    expect(list?.authorityKeyId).toBe(root.certificate.subjectKeyId);
  });
});

it('encodes the version that OpenSSL reads as 2', async () => {
  const text = openssl(['crl', '-inform', 'DER', '-noout', '-text'], await testRevocationList(root));
  expect(text.toString()).toContain('Version 2');
});
