import { AppError } from '../runtime/error.ts';

/** Universal tags of X.690 §8.1.2 that certificates use, with the constructed bit where it applies. */
export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  numericString: 0x12,
  printableString: 0x13,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** A context-specific tag: `[number]`, primitive unless `constructed` (X.690 §8.1.2.2). */
export function contextTag(number: number, constructed = false): number {
  return (constructed ? 0xa0 : 0x80) | number;
}

/** One tag-length-value. Its views, which are not copies, are made when asked for: most elements are only passed. */
export class DerElement {
  readonly tag: number;
  readonly #bytes: Buffer;
  readonly #start: number;
  readonly #from: number;
  readonly #end: number;

  /** `bytes` has the element from `start` to `end`, its value from `from` on. */
  constructor(tag: number, at: { bytes: Buffer; start: number; from: number; end: number }) {
    this.tag = tag;
    this.#bytes = at.bytes;
    this.#start = at.start;
    this.#from = at.from;
    this.#end = at.end;
  }

  /** The value. */
  get contents(): Buffer {
    return this.#bytes.subarray(this.#from, this.#end);
  }

  /** All of it. */
  get encoded(): Buffer {
    return this.#bytes.subarray(this.#start, this.#end);
  }
}

/** Certificates nest 9 levels at most; deeper input only serves to exhaust the stack. */
const MAX_DEPTH = 16;
/** An OID of 64 bytes is longer than any in use; converting a longer one to text takes quadratic time. */
const MAX_OID_BYTES = 64;

/** RFC 5280 names at most 9 bits. */
const MAX_NAMED_BIT_BYTES = 4;

/** What the room throws for bytes that are not what they should be. */
export function malformed(message: string): AppError {
  return new AppError('invalid-argument', message);
}

function hexTag(tag: number): string {
  return `0x${tag.toString(16).padStart(2, '0')}`;
}

/**
 * Reads strict DER (X.690 §10) from left to right: definite minimal lengths, single-byte tags, one encoding per
 * value. `what` names the field in errors. Every method throws AppError `invalid-argument`; none reads past the end.
 */
export class DerReader {
  readonly #bytes: Buffer;
  readonly #depth: number;
  #offset = 0;

  constructor(bytes: Buffer, depth = 0) {
    if (depth > MAX_DEPTH) throw malformed(`nested more than ${MAX_DEPTH} levels deep`);
    this.#bytes = bytes;
    this.#depth = depth;
  }

  /** True when nothing is left. */
  get isAtEnd(): boolean {
    return this.#offset === this.#bytes.length;
  }

  /** The tag of the next element, or undefined at the end. */
  get nextTag(): number | undefined {
    return this.#bytes[this.#offset];
  }

  /** Throws when something is left: trailing bytes could hide data that another parser would read. */
  end(what: string): void {
    if (!this.isAtEnd)
      throw malformed(`${what}: ${this.#bytes.length - this.#offset} unexpected trailing bytes`);
  }

  /** The next element, whatever its tag. */
  any(what: string): DerElement {
    const start = this.#offset;
    const tag = this.#byte(what);
    if ((tag & 0x1f) === 0x1f) throw malformed(`${what}: tags of more than one byte are not supported`);
    const length = this.#length(what);
    const from = this.#offset;
    // Compared with what is left, not added up: a huge length cannot overflow into a small one.
    if (length > this.#bytes.length - from) throw malformed(`${what}: longer than its container`);
    this.#offset = from + length;
    return new DerElement(tag, { bytes: this.#bytes, start, from, end: this.#offset });
  }

  /** The next element, which must have this tag. */
  take(tag: number, what: string): DerElement {
    const next = this.nextTag;
    if (next === undefined) throw malformed(`${what}: missing`);
    if (next !== tag) throw malformed(`${what}: expected tag ${hexTag(tag)}, got ${hexTag(next)}`);
    return this.any(what);
  }

  /** The next element when it has this tag, else undefined (OPTIONAL, DEFAULT). */
  optional(tag: number, what: string): DerElement | undefined {
    return this.nextTag === tag ? this.any(what) : undefined;
  }

  /** A reader over the contents of an element taken from this one. */
  inside(element: DerElement): DerReader {
    return new DerReader(element.contents, this.#depth + 1);
  }

  /** A reader over the contents of the next element, a SEQUENCE unless `tag` says otherwise. */
  enter(what: string, tag: number = tags.sequence): DerReader {
    return this.inside(this.take(tag, what));
  }

  /** BOOLEAN: 0x00 or 0xff only (X.690 §11.1). */
  boolean(what: string): boolean {
    const { contents } = this.take(tags.boolean, what);
    const value = contents[0];
    if (contents.length !== 1 || (value !== 0x00 && value !== 0xff))
      throw malformed(`${what}: not a DER boolean`);
    return value === 0xff;
  }

  /** INTEGER as big-endian two's complement in the fewest bytes (X.690 §8.3.2). */
  integer(what: string): Buffer {
    return checkInteger(this.take(tags.integer, what).contents, what);
  }

  /** INTEGER between 0 and 2^31-1. */
  smallInteger(what: string): number {
    return toSmallInteger(this.integer(what), what);
  }

  /** OBJECT IDENTIFIER as dotted decimals. */
  oid(what: string): string {
    return oidText(this.take(tags.oid, what).contents, what);
  }

  /** BIT STRING of whole bytes, such as a key or a signature. */
  bitString(what: string): Buffer {
    const { contents } = this.take(tags.bitString, what);
    if (contents[0] !== 0) throw malformed(`${what}: not a bit string of whole bytes`);
    return contents.subarray(1);
  }

  #byte(what: string): number {
    const byte = this.#bytes[this.#offset];
    if (byte === undefined) throw malformed(`${what}: truncated`);
    this.#offset += 1;
    return byte;
  }

  #length(what: string): number {
    const first = this.#byte(what);
    if (first < 0x80) return first;
    const count = first & 0x7f;
    if (count === 0) throw malformed(`${what}: indefinite length is not DER`);
    if (count > 4) throw malformed(`${what}: length of ${count} bytes is too large`);
    let length = 0;
    for (let i = 0; i < count; i += 1) length = length * 256 + this.#byte(what);
    // X.690 §10.1: a second spelling of a length would give the same content another fingerprint.
    if (length < 0x80 || length < 256 ** (count - 1)) throw malformed(`${what}: length is not minimal`);
    return length;
  }
}

function checkInteger(contents: Buffer, what: string): Buffer {
  const [first, second] = contents;
  if (first === undefined) throw malformed(`${what}: empty integer`);
  if (second !== undefined && ((first === 0x00 && second < 0x80) || (first === 0xff && second >= 0x80)))
    throw malformed(`${what}: integer is not minimal`);
  return contents;
}

function toSmallInteger(contents: Buffer, what: string): number {
  if (contents.length > 4 || (contents[0] ?? 0) >= 0x80) throw malformed(`${what}: expected 0 to 2147483647`);
  return contents.readUIntBE(0, contents.length);
}

/**
 * The bits of a BIT STRING with named bits. Trailing zero bits, which X.690 §11.2 forbids, are accepted: public roots
 * have them.
 */
export function readNamedBits(element: DerElement, what: string): boolean[] {
  const [unused = 8, ...bytes] = element.contents;
  const padding = (1 << unused) - 1;
  const isWhole = bytes.length === 0 ? unused === 0 : unused < 8 && ((bytes.at(-1) ?? 0) & padding) === 0;
  if (!isWhole || bytes.length > MAX_NAMED_BIT_BYTES) throw malformed(`${what}: not a list of named bits`);
  return bytes.flatMap((byte) => Array.from({ length: 8 }, (_, bit) => (byte & (0x80 >> bit)) !== 0));
}

function oidText(contents: Buffer, what: string): string {
  if (contents.length === 0 || contents.length > MAX_OID_BYTES) throw malformed(`${what}: bad OID length`);
  const arcs: (number | bigint)[] = [];
  for (let start = 0; start < contents.length; ) {
    if (contents[start] === 0x80) throw malformed(`${what}: OID is not minimal`);
    let last = start;
    while ((contents[last] ?? 0) >= 0x80) last += 1;
    if (last >= contents.length) throw malformed(`${what}: OID is truncated`);
    arcs.push(oidArc(contents, start, last));
    start = last + 1;
  }
  const [head = 0, ...rest] = arcs;
  if (typeof head === 'bigint') return [2, head - 80n, ...rest].join('.');
  const root = Math.min(2, Math.floor(head / 40));
  return [root, head - root * 40, ...rest].join('.');
}

/** Base 128; a number as long as it is exact: every certificate has dozens of arcs, and bigints are slow. */
function oidArc(contents: Buffer, start: number, last: number): number | bigint {
  if (last - start >= 7) {
    return contents.subarray(start, last + 1).reduce((arc, byte) => (arc << 7n) | BigInt(byte & 0x7f), 0n);
  }
  let arc = 0;
  for (let i = start; i <= last; i += 1) arc = arc * 128 + ((contents[i] ?? 0) & 0x7f);
  return arc;
}

/** UTCTime or GeneralizedTime in the one form of RFC 5280 §4.1.2.5: whole seconds, `Z`. Unix milliseconds. */
export function readTime(element: DerElement, what: string): number {
  const text = element.contents.toString('latin1');
  const isUtcTime = element.tag === tags.utcTime;
  if (!isUtcTime && element.tag !== tags.generalizedTime) throw malformed(`${what}: expected a time`);
  if (!(isUtcTime ? /^[0-9]{12}Z$/ : /^[0-9]{14}Z$/).test(text)) throw malformed(`${what}: bad time format`);
  const digits = isUtcTime ? `${text < '50' ? '20' : '19'}${text}` : text;
  const [day, hours] = [digits.slice(6, 8), digits.slice(8, 10)];
  const date = `${digits.slice(0, 4)}-${digits.slice(4, 6)}-${day}`;
  const ms = Date.parse(`${date}T${hours}:${digits.slice(10, 12)}:${digits.slice(12, 14)}.000Z`);
  // Date.parse rolls 30 February and hour 24 over to another day; another parser would read another time.
  if (Number.isNaN(ms) || new Date(ms).getUTCDate() !== Number(day))
    throw malformed(`${what}: no such date or time`);
  return ms;
}
