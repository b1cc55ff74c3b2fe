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

/** The PEM of a key that must be there; throws `not-found`. */
export function pemOf(id: string, key: SoftwareKey | undefined): string {
  if (key === undefined) throw new AppError('not-found', `there is no key "${id}"`);
  return key.pem;
}
