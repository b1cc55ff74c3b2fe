import { describe, expect, it } from 'vitest';
import { isAppError } from '../runtime/error.ts';
import { element, oid, sequence, setOf } from './der-writer.ts';
import { attributeTexts, encodeName, isEmptyName, parseName } from './names.ts';

const textOf = (name: Buffer): string => parseName(name, 'subject');
const commonName = (value: Uint8Array): Buffer => sequence(setOf(sequence(oid('2.5.4.3'), value)));

describe('encodeName', () => {
  it('writes the attributes in a fixed order, one per RDN', () => {
    const name = encodeName({
      serialNumber: '42',
      commonName: 'web',
      organizationalUnit: ['a', 'b'],
      organization: ['SPIRE'],
      country: ['US'],
    });
    expect(textOf(name)).toBe('C=US,O=SPIRE,OU=a,OU=b,CN=web,serialNumber=42');
  });

  it('writes the bytes RFC 5280 wants', () => {
    expect(encodeName({ country: ['US'], organization: ['ü'] }).toString('hex')).toBe(
      '301a310b3009060355040613025553310b3009060355040a0c02c3bc',
    );
  });

  it('writes the empty name for no attributes', () => {
    expect(isEmptyName(encodeName({}))).toBe(true);
    expect(isEmptyName(encodeName({ organization: [] }))).toBe(true);
    expect(isEmptyName(encodeName({ commonName: 'x' }))).toBe(false);
    expect(textOf(encodeName({}))).toBe('');
  });

  it.each([
    { name: 'an empty value', attributes: { organization: [''] } },
    { name: 'a country of three letters', attributes: { country: ['USA'] } },
    { name: 'a country that is not printable', attributes: { country: ['ü!'] } },
    { name: 'a common name of 65 characters', attributes: { commonName: 'x'.repeat(65) } },
    { name: 'half of a character', attributes: { commonName: '\ud800' } },
  ])('refuses $name', ({ attributes }) => {
    expect(() => encodeName(attributes)).toThrow(expect.toSatisfy((e) => isAppError(e, 'invalid-argument')));
  });

  it('counts characters, not bytes', () => {
    expect(() => encodeName({ commonName: '😀'.repeat(64) })).not.toThrow();
  });
});

describe('parseName', () => {
  it('escapes what could forge another attribute or another log line', () => {
    expect(textOf(encodeName({ commonName: 'a,O=evil+b"\\<>;' }))).toBe(
      'CN=a\\,O\\=evil\\+b\\"\\\\\\<\\>\\;',
    );
    expect(textOf(encodeName({ commonName: 'a\nb\u2028\u202e\u0000' }))).toBe(
      'CN=a\\0ab\\e2\\80\\a8\\e2\\80\\ae\\00',
    );
  });

  it('shows values that are not text as bytes, and unknown types as OIDs', () => {
    expect(textOf(commonName(element(0x1e, Buffer.from('0041', 'hex'))))).toBe('CN=#1e020041');
    const unknown = sequence(setOf(sequence(oid('1.2.3.4'), element(0x0c, Buffer.from('x')))));
    expect(textOf(unknown)).toBe('1.2.3.4=x');
  });

  it('joins the attributes of one RDN with a plus sign', () => {
    const attribute = (type: string) => sequence(oid(type), element(0x0c, Buffer.from('x')));
    expect(textOf(sequence(setOf(attribute('2.5.4.3'), attribute('2.5.4.10'))))).toBe('CN=x+O=x');
  });

  it.each([
    { name: 'an empty RDN', der: sequence(setOf()) },
    { name: 'an attribute without a value', der: sequence(setOf(sequence(oid('2.5.4.3')))) },
    { name: 'trailing bytes', der: Buffer.concat([encodeName({}), Buffer.of(0)]) },
    { name: 'a sequence in the place of a set', der: sequence(sequence()) },
  ])('refuses $name', ({ der }) => {
    expect(() => textOf(der)).toThrow(expect.toSatisfy((e) => isAppError(e, 'invalid-argument')));
  });
});

describe('attributeTexts', () => {
  const both = sequence(
    setOf(sequence(oid('2.5.4.3'), element(0x0c, Buffer.from('größe, 1')))),
    setOf(
      sequence(oid('2.5.4.10'), element(0x0c, Buffer.from('x'))),
      sequence(oid('2.5.4.3'), element(0x13, Buffer.from('two'))),
    ),
  );

  it('gives all values of one attribute, as they are', () => {
    expect(attributeTexts(both, 'commonName')).toEqual(['größe, 1', 'two']);
    expect(attributeTexts(both, 'organization')).toEqual(['x']);
    expect(attributeTexts(both, 'country')).toEqual([]);
    expect(attributeTexts(encodeName({}), 'commonName')).toEqual([]);
  });

  it.each([
    { name: 'a line break', value: element(0x0c, Buffer.from('a\nb')) },
    { name: 'a NUL', value: element(0x0c, Buffer.from('a\0b')) },
    { name: 'a mark that turns the direction of writing', value: element(0x0c, Buffer.from('a\u202eb')) },
    { name: 'broken UTF-8', value: element(0x0c, Buffer.from('61ff', 'hex')) },
    { name: 'nothing', value: element(0x0c) },
    { name: 'another string type', value: element(0x1e, Buffer.from('0041', 'hex')) },
  ])('refuses a value with $name', ({ value }) => {
    expect(() => attributeTexts(commonName(value), 'commonName')).toThrow('commonName: not plain text');
    expect(attributeTexts(commonName(value), 'organization')).toEqual([]);
  });
});
