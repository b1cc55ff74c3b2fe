import { AppError } from './error.ts';

/**
 * Parses JSON as JSON.parse does, but refuses an object that has a key twice, and gives whole numbers that a
 * double cannot hold exactly as bigint. JSON.parse keeps the last of two keys and rounds silently, so two readers
 * of one document could see two different things. Throws `invalid-argument`.
 */
export function parseStrictJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text, exactNumber);
  } catch {
    throw new AppError('invalid-argument', 'must be JSON');
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate === undefined) return value;
  throw new AppError('invalid-argument', `key ${JSON.stringify(duplicate)} occurs twice in one object`);
}

function exactNumber(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  const source = context?.source ?? '';
  return /^-?\d+$/.test(source) ? BigInt(source) : value;
}

/** Only for text that JSON.parse has accepted: then strings and brackets are all there is to see. */
function findDuplicateKey(text: string): string | undefined {
  const keysOfOpenObjects: Set<string>[] = [];
  for (const [token, colon] of text.matchAll(/[{}]|"(?:[^"\\]|\\.)*"(\s*:)?/g)) {
    if (token === '{') keysOfOpenObjects.push(new Set());
    else if (token === '}') keysOfOpenObjects.pop();
    else if (colon !== undefined) {
      const key = JSON.parse(token.slice(0, -colon.length)) as string;
      const keys = keysOfOpenObjects.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return undefined;
}
