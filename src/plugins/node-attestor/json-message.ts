import { AppError } from '../../runtime/error.ts';
import { parseStrictJson } from '../../runtime/strict-json.ts';

/** What these functions throw for a message that is not what it should be. */
export function malformed(message: string): AppError {
  return new AppError('invalid-argument', message);
}

/** The object in a JSON message of an attestation; throws `invalid-argument`. */
export function parseJsonObject(json: Uint8Array, maxBytes: number): object {
  if (json.length > maxBytes) throw malformed(`expected at most ${maxBytes} bytes, got ${json.length}`);
  const value = parseStrictJson(Buffer.from(json).toString());
  if (!isObject(value)) throw malformed('expected a JSON object');
  return value;
}

/** A member as Go finds it: the case of the name, given in lower case, does not matter; null is nothing. */
export function fieldOf(object: object, name: string): unknown {
  const found = Object.entries(object).filter(([key]) => key.toLowerCase() === name);
  // Two readers could take different ones.
  if (found.length > 1) throw malformed(`"${name}" occurs twice`);
  return found[0]?.[1] ?? undefined;
}

/** A member that is an object, or nothing; throws `invalid-argument`. */
export function objectOf(object: object, name: string): object | undefined {
  const value = fieldOf(object, name);
  if (value === undefined || isObject(value)) return value;
  throw malformed(`"${name}": expected an object`);
}

/** The bytes of a Go `[]byte`: standard base64 with padding and nothing else in it; nothing is empty. */
export function bytesOf(text: unknown, what: string): Buffer {
  if (text === undefined || text === null) return Buffer.alloc(0);
  const decoded = typeof text === 'string' ? Buffer.from(text, 'base64') : undefined;
  if (decoded === undefined || decoded.toString('base64') !== text)
    throw malformed(`${what}: expected base64`);
  return decoded;
}

/** A JSON message. */
export function toJson(value: object): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** As Go writes a `[]byte`. */
export function base64(value: Uint8Array): string {
  return Buffer.from(value).toString('base64');
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
