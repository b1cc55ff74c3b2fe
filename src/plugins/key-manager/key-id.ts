import { AppError } from '../../runtime/error.ts';
import { type KeyType, keyTypes } from '../../x509/signature.ts';

/** Throws `invalid-argument` unless `id` is `[a-zA-Z0-9._-]{1,64}`: it becomes part of file names and labels. */
export function checkKeyId(id: string): string {
  if (isKeyId(id)) return id;
  throw new AppError(
    'invalid-argument',
    `key id ${JSON.stringify(id.slice(0, 80))} must be 1 to 64 letters, digits, dots, dashes or underscores`,
  );
}

/** True for what `checkKeyId` lets pass. */
export function isKeyId(id: string): boolean {
  return /^[a-zA-Z0-9._-]{1,64}$/.test(id);
}

/** Throws `invalid-argument` for what only claims to be a key type. */
export function checkKeyType(type: KeyType): KeyType {
  if (keyTypes.includes(type)) return type;
  throw new AppError(
    'invalid-argument',
    `unknown key type "${type}"; expected one of ${keyTypes.join(', ')}`,
  );
}

/** In order of id, in code units. */
export function inOrderOfId<T extends { readonly id: string }>(keys: Iterable<T>): readonly T[] {
  return [...keys].sort((a, b) => (a.id < b.id ? -1 : 1));
}
