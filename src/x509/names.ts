import { AppError } from '../runtime/error.ts';
import { type DerElement, DerReader, malformed, tags } from './der-reader.ts';
import { element, oid, sequence, setOf } from './der-writer.ts';

/** The attributes of a distinguished name that Signet writes, in this order (RFC 5280 §4.1.2.4). */
export interface NameAttributes {
  readonly country?: readonly string[];
  readonly organization?: readonly string[];
  readonly organizationalUnit?: readonly string[];
  readonly locality?: readonly string[];
  readonly province?: readonly string[];
  readonly commonName?: readonly string[] | string;
  readonly serialNumber?: readonly string[] | string;
}

/** Attribute types with their upper bounds (RFC 5280 §A.1); Printable where the RFC demands it, else UTF-8. */
const attributes = {
  country: { short: 'C', oid: '2.5.4.6', tag: tags.printableString, maxLength: 2 },
  organization: { short: 'O', oid: '2.5.4.10', tag: tags.utf8String, maxLength: 64 },
  organizationalUnit: { short: 'OU', oid: '2.5.4.11', tag: tags.utf8String, maxLength: 64 },
  locality: { short: 'L', oid: '2.5.4.7', tag: tags.utf8String, maxLength: 128 },
  province: { short: 'ST', oid: '2.5.4.8', tag: tags.utf8String, maxLength: 128 },
  commonName: { short: 'CN', oid: '2.5.4.3', tag: tags.utf8String, maxLength: 64 },
  serialNumber: { short: 'serialNumber', oid: '2.5.4.5', tag: tags.printableString, maxLength: 64 },
} as const satisfies Record<keyof NameAttributes, object>;

const names = Object.keys(attributes) as (keyof NameAttributes)[];

const shortNames: ReadonlyMap<string, string> = new Map([
  ...Object.values(attributes).map(({ oid: type, short }) => [type, short] as const),
  ['2.5.4.9', 'street'],
  ['0.9.2342.19200300.100.1.25', 'DC'],
  ['0.9.2342.19200300.100.1.1', 'UID'],
]);

/** A Name with one attribute per RDN; `encodeName({})` is the empty name. Throws AppError `invalid-argument`. */
export function encodeName(name: NameAttributes): Buffer {
  return sequence(
    ...names.flatMap((attribute) => {
      const value = name[attribute] ?? [];
      return (typeof value === 'string' ? [value] : value).map((text) => encodeAttribute(attribute, text));
    }),
  );
}

function encodeAttribute(attribute: keyof NameAttributes, text: string): Buffer {
  const { oid: type, tag, maxLength } = attributes[attribute];
  const length = [...text].length;
  if (length === 0 || length > maxLength || !text.isWellFormed())
    throw new AppError(
      'invalid-argument',
      `${attribute} of a name: expected 1 to ${maxLength} characters, got ${length}`,
    );
  if (tag === tags.printableString && !/^[A-Za-z0-9 '()+,./:=?-]*$/.test(text))
    throw new AppError('invalid-argument', `${attribute} of a name: a character is not in PrintableString`);
  return setOf(sequence(oid(type), element(tag, Buffer.from(text))));
}

/** True for a Name without attributes. */
export function isEmptyName(name: Uint8Array): boolean {
  return name.length === 2;
}

/**
 * Checks the structure of a Name (RFC 5280 §4.1.2.4) and gives its text, such as `C=US,O=SPIRE,CN=a\,b`, in the
 * order of the encoding. Characters that could forge a log line are escaped. Throws AppError `invalid-argument`.
 */
export function parseName(name: Buffer, what: string): string {
  const reader = new DerReader(name);
  const rdns = reader.enter(what);
  reader.end(what);
  const texts: string[] = [];
  while (!rdns.isAtEnd) {
    const set = rdns.enter(`${what} RDN`, tags.set);
    const parts: string[] = [];
    while (!set.isAtEnd) parts.push(parseAttribute(set.enter(`${what} attribute`), what));
    if (parts.length === 0) throw malformed(`${what}: empty RDN`);
    texts.push(parts.join('+'));
  }
  return texts.join(',');
}

/**
 * The values of one attribute in a Name, in the order of the encoding. Throws AppError `invalid-argument` for a value
 * that is not clean text: control characters, broken UTF-8, or a string type that readers decode differently.
 */
export function attributeTexts(name: Buffer, attribute: keyof NameAttributes): string[] {
  const rdns = new DerReader(name).enter('name');
  const texts: string[] = [];
  while (!rdns.isAtEnd) {
    const set = rdns.enter('RDN', tags.set);
    while (!set.isAtEnd) {
      const fields = set.enter('attribute');
      if (fields.oid('attribute type') !== attributes[attribute].oid) continue;
      texts.push(cleanText(fields.any('attribute value'), attribute));
    }
  }
  return texts;
}

function cleanText({ tag, contents }: DerElement, attribute: string): string {
  const text = textTags.has(tag) ? contents.toString() : '';
  const isWhole = text !== '' && Buffer.compare(Buffer.from(text), contents) === 0;
  if (!isWhole || /\p{C}/u.test(text)) throw malformed(`${attribute}: not plain text`);
  return text;
}

function parseAttribute(attribute: DerReader, what: string): string {
  const type = attribute.oid(`${what} attribute type`);
  const value = attribute.any(`${what} attribute value`);
  attribute.end(`${what} attribute`);
  return `${shortNames.get(type) ?? type}=${attributeText(value)}`;
}

const textTags: ReadonlySet<number> = new Set([
  tags.utf8String,
  tags.printableString,
  tags.ia5String,
  tags.numericString,
]);

function attributeText({ tag, contents, encoded }: DerElement): string {
  // RFC 4514 §2.4: a value of another type is shown as '#' and its bytes.
  if (!textTags.has(tag)) return `#${encoded.toString('hex')}`;
  return contents.toString().replace(/[,+"\\<>;=\p{C}\p{Z}]/gu, (character) => {
    if (character === ' ') return character;
    if (/[,+"\\<>;=]/.test(character)) return `\\${character}`;
    return [...Buffer.from(character)].map((byte) => `\\${byte.toString(16).padStart(2, '0')}`).join('');
  });
}
