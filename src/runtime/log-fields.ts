import { errorText } from './error.ts';

/** Field names whose values are never written, in lower case without `-` and `_`. */
const secretNames: ReadonlySet<string> = new Set([
  'authorization',
  'csr',
  'jointoken',
  'key',
  'keypem',
  'passphrase',
  'password',
  'payload',
  'pin',
  'pkcs8',
  'privatekey',
  'privatekeypem',
  'secret',
  'token',
]);
const privateKeyBlock = /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----/;
const redacted = '[redacted]';
/** Log lines are for people: what lies deeper, or further along, is cut. It also ends cycles. */
const maxDepth = 5;
const maxItems = 50;
const maxTextLength = 4096;

/**
 * Makes fields fit for a log line: secrets are replaced by their field name or by their look, errors become text
 * and code (with a stack only when asked), values with a text form of their own become that text.
 */
export function logFields(fields: object, withStacks: boolean): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields))
    result[name] = field(name, value, { withStacks, depth: 0 });
  return result;
}

interface Context {
  readonly withStacks: boolean;
  readonly depth: number;
}

function field(name: string, value: unknown, context: Context): unknown {
  const isSecret = secretNames.has(name.toLowerCase().replaceAll(/[-_]/g, ''));
  return isSecret && value !== undefined && value !== null ? redacted : printable(value, context);
}

function printable(value: unknown, context: Context): unknown {
  switch (typeof value) {
    case 'string':
      return text(value);
    case 'bigint':
    case 'symbol':
      return String(value);
    case 'function':
      return '[function]';
    case 'object':
      return value === null ? null : printableObject(value, context);
    default:
      return value;
  }
}

function printableObject(value: object, context: Context): unknown {
  if (value instanceof Error) return errorFields(value, context.withStacks);
  if (value instanceof Uint8Array) return `[${value.length} bytes]`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
  if (context.depth >= maxDepth) return '[…]';
  const deeper = { ...context, depth: context.depth + 1 };
  if (Array.isArray(value) || value instanceof Set) {
    return [...value].slice(0, maxItems).map((item) => printable(item, deeper));
  }
  // SpiffeId, TrustDomain, URL: anything that says itself how it reads.
  if (value.toString !== undefined && value.toString !== Object.prototype.toString)
    return text(String(value));
  const entries = Object.entries(value instanceof Map ? Object.fromEntries(value) : value).slice(0, maxItems);
  return Object.fromEntries(entries.map(([name, inner]) => [name, field(name, inner, deeper)]));
}

function errorFields(error: Error, withStack: boolean): object {
  const { code, reason } = error as { code?: unknown; reason?: unknown };
  return {
    message: text(errorText(error)),
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    ...(typeof reason === 'string' ? { reason } : {}),
    ...(withStack && error.stack !== undefined ? { stack: text(error.stack) } : {}),
  };
}

function text(value: string): string {
  if (privateKeyBlock.test(value)) return redacted;
  return value.length > maxTextLength ? `${value.slice(0, maxTextLength)}…` : value;
}
