import 'reflect-metadata';
import * as peculiar from '@peculiar/x509';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { newSigner } from '../testing/test-authority.ts';
import { contextTag, DerReader } from './der-reader.ts';
import { booleanTrue, element, octetString, oid, sequence, smallInteger } from './der-writer.ts';
import {
  authorityKeyIdentifier,
  basicConstraints,
  encodeExtension,
  extendedKeyUsage,
  keyIdOfSpki,
  keyPurposes,
  keyUsage,
  keyUsages,
  parseAuthorityKeyId,
  parseBasicConstraints,
  parseExtendedKeyUsage,
  parseKeyUsage,
  parseSubjectAltName,
  parseSubjectKeyId,
  readExtensions,
  subjectAltName,
  subjectKeyIdentifier,
} from './extensions.ts';

const spki = (await newSigner()).publicKey;
const refused = expect.toSatisfy((error) => isAppError(error, 'invalid-argument'));

function only(extension: Uint8Array) {
  const [read] = readExtensions(new DerReader(Buffer.from(extension))).values();
  if (read === undefined) throw new Error('no extension');
  return read;
}

/** The same extension as @peculiar/x509 writes it. */
const peculiarUsages = peculiar.KeyUsageFlags;
const oracles: readonly { name: string; ours: Uint8Array; theirs: peculiar.Extension }[] = [
  {
    name: 'a leaf',
    ours: basicConstraints({ ca: false }),
    theirs: new peculiar.BasicConstraintsExtension(false, undefined, true),
  },
  {
    name: 'an authority',
    ours: basicConstraints({ ca: true }),
    theirs: new peculiar.BasicConstraintsExtension(true, undefined, true),
  },
  {
    name: 'a path length',
    ours: basicConstraints({ ca: true, pathLength: 0 }),
    theirs: new peculiar.BasicConstraintsExtension(true, 0, true),
  },
  {
    name: 'a long path length',
    ours: basicConstraints({ ca: true, pathLength: 128 }),
    theirs: new peculiar.BasicConstraintsExtension(true, 128, true),
  },
  {
    name: 'digitalSignature',
    ours: keyUsage(['digitalSignature']),
    theirs: new peculiar.KeyUsagesExtension(peculiarUsages.digitalSignature, true),
  },
  {
    name: 'both usages of an authority',
    ours: keyUsage(['cRLSign', 'keyCertSign']),
    theirs: new peculiar.KeyUsagesExtension(peculiarUsages.keyCertSign | peculiarUsages.cRLSign, true),
  },
  {
    name: 'key purposes',
    ours: extendedKeyUsage(['serverAuth', 'clientAuth']),
    theirs: new peculiar.ExtendedKeyUsageExtension([keyPurposes.serverAuth, keyPurposes.clientAuth]),
  },
  {
    name: 'critical key purposes',
    ours: extendedKeyUsage(['clientAuth'], { critical: true }),
    theirs: new peculiar.ExtendedKeyUsageExtension([keyPurposes.clientAuth], true),
  },
  {
    name: 'alternative names',
    ours: subjectAltName({ uris: ['spiffe://a.test/w'], dnsNames: ['a.test', 'b.test'], critical: true }),
    theirs: new peculiar.SubjectAlternativeNameExtension(
      [
        { type: 'url', value: 'spiffe://a.test/w' },
        { type: 'dns', value: 'a.test' },
        { type: 'dns', value: 'b.test' },
      ],
      true,
    ),
  },
  {
    name: 'a subject key identifier',
    ours: subjectKeyIdentifier(spki),
    theirs: new peculiar.SubjectKeyIdentifierExtension(keyIdOfSpki(spki).toString('hex')),
  },
  {
    name: 'an authority key identifier',
    ours: authorityKeyIdentifier({ subjectKeyId: 'abcd', spki }),
    theirs: new peculiar.AuthorityKeyIdentifierExtension('abcd'),
  },
];

describe('extensions', () => {
  it.each(oracles)('are written like another library does: $name', ({ ours, theirs }) => {
    expect(Buffer.from(ours).toString('hex')).toBe(Buffer.from(theirs.rawData).toString('hex'));
  });

  it('identify an issuer without subject key identifier by the hash of its key', () => {
    const withHash = authorityKeyIdentifier({ subjectKeyId: undefined, spki });
    expect(parseAuthorityKeyId(only(withHash).value)).toBe(keyIdOfSpki(spki).toString('hex'));
  });

  it('identify a key as openssl and others do', async () => {
    const key = await peculiar.SubjectKeyIdentifierExtension.create(
      new peculiar.PublicKey(Buffer.from(spki)),
    );
    expect(keyIdOfSpki(spki).toString('hex')).toBe(key.keyId);
  });

  it('read back every set of usages', () => {
    fc.assert(
      fc.property(fc.subarray([...keyUsages]), (usages) => {
        expect(parseKeyUsage(only(keyUsage(usages)).value)).toEqual(new Set(usages));
      }),
    );
  });

  it('read back what was written', () => {
    expect(parseBasicConstraints(only(basicConstraints({ ca: true, pathLength: 3 })).value)).toEqual({
      ca: true,
      pathLength: 3,
    });
    expect(parseBasicConstraints(only(basicConstraints({ ca: false })).value)).toEqual({
      ca: false,
      pathLength: undefined,
    });
    expect(parseExtendedKeyUsage(only(extendedKeyUsage(['clientAuth'])).value)).toEqual([
      keyPurposes.clientAuth,
    ]);
    expect(parseSubjectKeyId(only(subjectKeyIdentifier(spki)).value)).toBe(keyIdOfSpki(spki).toString('hex'));
    const names = { uris: ['a:b', 'c:d'], dnsNames: ['x.test'] };
    const read = parseSubjectAltName(only(subjectAltName(names)).value);
    expect(read).toEqual({ ...names, kinds: new Set(['uniformResourceIdentifier', 'dNSName']) });
  });

  it('accept names of kinds they do not read', () => {
    const names = sequence(
      element(contextTag(7), Buffer.of(1, 2, 3, 4)),
      element(contextTag(1), Buffer.from('a@b')),
    );
    expect(parseSubjectAltName(names)).toEqual({
      uris: [],
      dnsNames: [],
      kinds: new Set(['iPAddress', 'rfc822Name']),
    });
  });

  it('read an authority key identifier that has no key identifier', () => {
    const value = sequence(element(contextTag(1, true)), element(contextTag(2), Buffer.of(1)));
    expect(parseAuthorityKeyId(value)).toBeUndefined();
  });

  it('accept zero bits at the end of key usage, as public roots have them', () => {
    expect(parseKeyUsage(Buffer.from('03020006', 'hex'))).toEqual(new Set(['keyCertSign', 'cRLSign']));
  });
});

const booleanFalse = element(0x01, Buffer.of(0));
const notCritical = encodeExtension('1.2.3', false, Buffer.of(0));

describe('extensions are refused', () => {
  it.each([
    { name: 'an empty list', list: Buffer.alloc(0) },
    { name: 'one present twice', list: Buffer.concat([notCritical, notCritical]) },
    {
      name: 'one whose critical is a written-out FALSE',
      list: sequence(oid('1.2.3'), booleanFalse, octetString(Buffer.of(0))),
    },
    {
      name: 'one with something after its value',
      list: sequence(oid('1.2.3'), octetString(Buffer.of(0)), booleanTrue),
    },
    {
      name: 'more than 64',
      list: Buffer.concat(
        Array.from({ length: 65 }, (_, i) => encodeExtension(`1.2.${i}`, false, Buffer.of(0))),
      ),
    },
  ])('with $name', ({ list }) => {
    expect(() => readExtensions(new DerReader(list))).toThrow(refused);
  });

  const uri = (bytes: Uint8Array): Buffer => element(contextTag(6), bytes);
  const values: readonly { name: string; parse: (value: Buffer) => unknown; value: Buffer }[] = [
    {
      name: 'basicConstraints with a written-out FALSE',
      parse: parseBasicConstraints,
      value: sequence(booleanFalse),
    },
    { name: 'a path length on a leaf', parse: parseBasicConstraints, value: sequence(smallInteger(0)) },
    {
      name: 'a negative path length',
      parse: parseBasicConstraints,
      value: sequence(booleanTrue, element(2, Buffer.of(0xff))),
    },
    {
      name: 'bytes after basicConstraints',
      parse: parseBasicConstraints,
      value: Buffer.concat([sequence(), Buffer.of(0)]),
    },
    { name: 'bytes after key usage', parse: parseKeyUsage, value: Buffer.from('0302078000', 'hex') },
    {
      name: 'bytes after a subject key identifier',
      parse: parseSubjectKeyId,
      value: Buffer.from('04010000', 'hex'),
    },
    { name: 'key usage that is no bit string', parse: parseKeyUsage, value: sequence() },
    { name: 'an empty list of purposes', parse: parseExtendedKeyUsage, value: sequence() },
    { name: 'an empty list of names', parse: parseSubjectAltName, value: sequence() },
    {
      name: 'a URI with a NUL',
      parse: parseSubjectAltName,
      value: sequence(uri(Buffer.from('spiffe://a.test\0.b.test'))),
    },
    {
      name: 'a URI with a line break',
      parse: parseSubjectAltName,
      value: sequence(uri(Buffer.from('spiffe://a.test\n'))),
    },
    {
      name: 'a URI that is not ASCII',
      parse: parseSubjectAltName,
      value: sequence(uri(Buffer.from('spiffe://ü.test'))),
    },
    {
      name: 'a URI as a constructed value',
      parse: parseSubjectAltName,
      value: sequence(element(contextTag(6, true))),
    },
    { name: 'an unknown kind of name', parse: parseSubjectAltName, value: sequence(element(contextTag(9))) },
    { name: 'a name that is no general name', parse: parseSubjectAltName, value: sequence(smallInteger(6)) },
    {
      name: 'fields of authorityKeyIdentifier in the wrong order',
      parse: parseAuthorityKeyId,
      value: sequence(element(contextTag(2)), element(contextTag(0))),
    },
  ];
  it.each(values)('with $name', ({ parse, value }) => {
    expect(() => parse(value)).toThrow(refused);
  });

  it('when they are to be written with names that no reader accepts', () => {
    for (const uris of [[''], ['spiffe://ü'], ['a\nb'], []])
      expect(() => subjectAltName({ uris })).toThrow(refused);
    expect(() => basicConstraints({ ca: true, pathLength: -1 })).toThrow(refused);
  });
});
