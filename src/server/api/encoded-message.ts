/**
 * An encoded message: its bytes, or, where it is kept for long, a text with one character (U+0000 to U+00FF) for
 * each byte. Of a few hundred bytes the text takes half the memory, for it is nothing but these bytes.
 */
export type Encoded = Uint8Array | string;

/** A repeated field of messages that are encoded already. */
export interface EncodedField {
  /** Its number, below 16. */
  readonly field: number;
  readonly messages: readonly Encoded[];
}

/** The bytes in the form to be kept. */
export function keptEncoded(bytes: Uint8Array): Encoded {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/**
 * Puts a protobuf message together from parts: fields of encoded messages, and bytes that are whole fields
 * themselves. Faster than encoding again what was encoded before.
 */
export function encodedMessage(parts: readonly (EncodedField | Uint8Array)[]): Buffer {
  const bytes = Buffer.allocUnsafe(parts.reduce((sum, part) => sum + sizeOf(part), 0));
  let at = 0;
  for (const part of parts) {
    if (part instanceof Uint8Array) {
      bytes.set(part, at);
      at += part.length;
      continue;
    }
    // Wire type 2: a length and as many bytes.
    const tag = (part.field << 3) | 2;
    for (const message of part.messages) {
      bytes[at] = tag;
      at = writeLength(bytes, at + 1, message.length);
      if (typeof message === 'string') bytes.write(message, at, 'latin1');
      else bytes.set(message, at);
      at += message.length;
    }
  }
  return bytes;
}

function sizeOf(part: EncodedField | Uint8Array): number {
  if (part instanceof Uint8Array) return part.length;
  return part.messages.reduce((sum, { length }) => sum + 1 + lengthBytes(length) + length, 0);
}

/** Seven bits in each byte, the lowest first; all but the last have the top bit. Returns where the next byte goes. */
function writeLength(bytes: Buffer, start: number, length: number): number {
  let at = start;
  for (let rest = length; ; rest >>>= 7) {
    bytes[at] = rest < 0x80 ? rest : (rest & 0x7f) | 0x80;
    at += 1;
    if (rest < 0x80) return at;
  }
}

function lengthBytes(length: number): number {
  let count = 1;
  for (let rest = length; rest >= 0x80; rest >>>= 7) count += 1;
  return count;
}
