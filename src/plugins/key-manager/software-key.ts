import type { KeyObject } from 'node:crypto';
import type { ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError } from '../../runtime/error.ts';
import { createSoftwareSigner } from '../../x509/signature.ts';

/** A private key that this process holds, under its id. */
export interface SoftwareKey {
  readonly managed: ManagedKey;
  /** PKCS#8. */
  readonly pem: string;
}

/** Wraps a private key; throws `invalid-argument` for one that is outside `keyTypes`. */
export function createSoftwareKey(id: string, key: KeyObject): SoftwareKey {
  const signer = createSoftwareSigner(key);
  return {
    managed: { id, type: signer.type, publicKey: signer.publicKey, sign: (data) => signer.sign(data) },
    pem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

/** Throws `invalid-argument` unless `id` is `[a-zA-Z0-9._-]{1,64}`: it becomes part of a file name. */
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

/** The keys in order of id, in code units. */
export function inOrderOfId(keys: Iterable<SoftwareKey>): readonly ManagedKey[] {
  return [...keys].map((key) => key.managed).sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** The PEM of a key that must be there; throws `not-found`. */
export function pemOf(id: string, key: SoftwareKey | undefined): string {
  if (key === undefined) throw new AppError('not-found', `there is no key "${id}"`);
  return key.pem;
}
