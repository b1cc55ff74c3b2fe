import { AppError } from '../runtime/error.ts';
import { tags } from './der-reader.ts';

/** One DER element of the given tag; the parts are joined as its contents. */
export function element(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  let length = 0;
  for (const part of parts) length += part.length;
  const lengthBytes = length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x10000 ? 2 : 3;
  const out = Buffer.allocUnsafe(2 + lengthBytes + length);
  out[0] = tag;
  if (lengthBytes === 0) {
    out[1] = length;
  } else {
    out[1] = 0x80 | lengthBytes;
    out.writeUIntBE(length, 2, lengthBytes); // throws above 16 MB
  }
  let offset = 2 + lengthBytes;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

/** SEQUENCE of the parts. */
export function sequence(...parts: readonly Uint8Array[]): Buffer {
  return element(tags.sequence, ...parts);
}

/** SET OF in the ascending order of X.690 §11.6. */
export function setOf(...parts: readonly Uint8Array[]): Buffer {
  return element(tags.set, ...parts.toSorted(Buffer.compare));
}

/** BOOLEAN TRUE. FALSE is always a default here, so it is never written (X.690 §11.5). */
export const booleanTrue: Buffer = element(tags.boolean, Buffer.of(0xff));

/** Non-negative INTEGER from big-endian bytes: leading zeros dropped, a sign byte added where needed. */
export function integer(value: Uint8Array): Buffer {
  let start = 0;
  while (start < value.length - 1 && value[start] === 0) start += 1;
  const digits = value.subarray(start);
  const first = digits[0];
  if (first === undefined) return element(tags.integer, Buffer.of(0));
  return first >= 0x80 ? element(tags.integer, Buffer.of(0), digits) : element(tags.integer, digits);
}

/** INTEGER from 0 to 2^31-1. */
export function smallInteger(value: number): Buffer {
  if (!Number.isInteger(value) || value < 0 || value > 0x7fffffff)
    throw new AppError('invalid-argument', `expected an integer from 0 to 2147483647, got ${value}`);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return integer(bytes);
}

/** BIT STRING of whole bytes. */
export function bitString(bytes: Uint8Array): Buffer {
  return element(tags.bitString, Buffer.of(0), bytes);
}

/** BIT STRING with named bits set, trailing zero bits dropped (X.690 §11.2). */
export function namedBits(bits: readonly number[]): Buffer {
  if (bits.length === 0) return element(tags.bitString, Buffer.of(0));
  const highest = Math.max(...bits);
  const bytes = Buffer.alloc(Math.floor(highest / 8) + 1);
  for (const bit of bits) {
    const index = Math.floor(bit / 8);
    bytes[index] = (bytes[index] ?? 0) | (0x80 >> (bit % 8));
  }
  return element(tags.bitString, Buffer.of(7 - (highest % 8)), bytes);
}

/** OCTET STRING. */
export function octetString(bytes: Uint8Array): Buffer {
  return element(tags.octetString, bytes);
}

/** OBJECT IDENTIFIER from dotted decimals. */
export function oid(text: string): Buffer {
  if (!/^[0-2](\.(0|[1-9][0-9]{0,38})){2,30}$/.test(text))
    throw new AppError('invalid-argument', `"${text}" is not an object identifier`);
  const [root = 0n, second = 0n, ...rest] = text.split('.').map(BigInt);
  if (root < 2n && second > 39n)
    throw new AppError('invalid-argument', `"${text}" is not an object identifier`);
  return element(tags.oid, Buffer.from([root * 40n + second, ...rest].flatMap(base128)));
}

function base128(arc: bigint): number[] {
  const digits = [Number(arc & 0x7fn)];
  for (let rest = arc >> 7n; rest > 0n; rest >>= 7n) digits.unshift(Number(rest & 0x7fn) | 0x80);
  return digits;
}

/** Time of RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime after; whole seconds, rounded down. */
export function time(ms: number): Buffer {
  if (!(ms >= Date.UTC(1950, 0) && ms < Date.UTC(10_000, 0)))
    throw new AppError('invalid-argument', `a certificate's times lie between 1950 and 9999, got ${ms} ms`);
  const iso = new Date(ms).toISOString();
  const digits = `${iso.slice(0, 4)}${iso.slice(5, 7)}${iso.slice(8, 10)}${iso.slice(11, 13)}${iso.slice(14, 16)}${iso.slice(17, 19)}Z`;
  return ms < Date.UTC(2050, 0)
    ? element(tags.utcTime, Buffer.from(digits.slice(2), 'latin1'))
    : element(tags.generalizedTime, Buffer.from(digits, 'latin1'));
}
