import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { generatePrivateKey, type KeyType } from '../../x509/signature.ts';
import { checkKeyId, checkKeyType, inOrderOfId } from './key-id.ts';
import { createSoftwareKey, pemOf, type SoftwareKey } from './software-key.ts';

/** Keys that end with the process: a restarted server makes a new root, a restarted agent attests again. */
export class MemoryKeyManager implements KeyManager {
  readonly #keys = new Map<string, SoftwareKey>();

  async generateKey(id: string, type: KeyType): Promise<ManagedKey> {
    checkKeyId(id);
    const key = createSoftwareKey(id, await generatePrivateKey(checkKeyType(type)));
    this.#keys.set(id, key);
    return key.managed;
  }

  async findKey(id: string): Promise<ManagedKey | undefined> {
    return this.#keys.get(checkKeyId(id))?.managed;
  }

  async listKeys(): Promise<readonly ManagedKey[]> {
    return inOrderOfId([...this.#keys.values()].map(({ managed }) => managed));
  }

  async deleteKey(id: string): Promise<void> {
    this.#keys.delete(checkKeyId(id));
  }

  async exportKey(id: string): Promise<string> {
    return pemOf(id, this.#keys.get(checkKeyId(id)));
  }
}
