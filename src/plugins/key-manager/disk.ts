import { createPrivateKey, type KeyObject } from 'node:crypto';
import { open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError } from '../../runtime/error.ts';
import { ensurePrivateDirectory, readPrivateFile, writePrivateFile } from '../../runtime/private-file.ts';
import { SerialQueue } from '../../runtime/serial-queue.ts';
import { generatePrivateKey, type KeyType } from '../../x509/signature.ts';
import { checkKeyId, checkKeyType, inOrderOfId, isKeyId } from './key-id.ts';
import { createSoftwareKey, pemOf, type SoftwareKey } from './software-key.ts';

const suffix = '.pem';
/** What `writePrivateFile` leaves behind when the process dies in the middle of it: part of a key nobody uses. */
const leftOver = /^\..+\.pem\.[0-9a-f]+\.tmp$/;

/** Keys as PKCS#8 PEM files (0600), one each, in the directory `keys` of the role's data directory. */
export class DiskKeyManager implements KeyManager {
  readonly #directory: string;
  readonly #keys: Map<string, SoftwareKey>;
  readonly #changes = new SerialQueue();

  private constructor(directory: string, keys: Map<string, SoftwareKey>) {
    this.#directory = directory;
    this.#keys = keys;
  }

  /** Reads all keys; one file that is damaged or open to others is an error that names it (`failed-precondition`). */
  static async open(deps: { readonly dataDir: string }): Promise<DiskKeyManager> {
    const directory = join(deps.dataDir, 'keys');
    await ensurePrivateDirectory(directory);
    const keys = new Map<string, SoftwareKey>();
    for (const name of await readdir(directory)) {
      if (leftOver.test(name)) await rm(join(directory, name), { force: true });
      const id = name.endsWith(suffix) ? name.slice(0, -suffix.length) : '';
      const key = isKeyId(id) ? await readKey(id, join(directory, name)) : undefined;
      if (key !== undefined) keys.set(id, key);
    }
    return new DiskKeyManager(directory, keys);
  }

  async generateKey(id: string, type: KeyType): Promise<ManagedKey> {
    const path = this.#pathOf(id);
    const key = createSoftwareKey(id, await generatePrivateKey(checkKeyType(type)));
    await this.#inTurn(async () => {
      await writePrivateFile(path, key.pem);
      this.#keys.set(id, key);
    });
    return key.managed;
  }

  async findKey(id: string): Promise<ManagedKey | undefined> {
    return this.#keys.get(checkKeyId(id))?.managed;
  }

  async listKeys(): Promise<readonly ManagedKey[]> {
    return inOrderOfId([...this.#keys.values()].map(({ managed }) => managed));
  }

  async deleteKey(id: string): Promise<void> {
    const path = this.#pathOf(id);
    await this.#inTurn(async () => {
      try {
        await rm(path, { force: true });
        await syncDirectory(this.#directory);
      } catch (cause) {
        throw new AppError('failed-precondition', `cannot delete key file "${path}"`, { cause });
      }
      this.#keys.delete(id);
    });
  }

  async exportKey(id: string): Promise<string> {
    return pemOf(id, this.#keys.get(checkKeyId(id)));
  }

  #pathOf(id: string): string {
    return join(this.#directory, checkKeyId(id) + suffix);
  }

  /** One change at a time: else file and memory could end up with different keys under one id. */
  #inTurn(change: () => Promise<void>): Promise<void> {
    return this.#changes.run(change);
  }
}

async function readKey(id: string, path: string): Promise<SoftwareKey | undefined> {
  const pem = await readPrivateFile(path);
  if (pem === undefined) return undefined;
  try {
    return createSoftwareKey(id, parsePkcs8(pem.toString('latin1')));
  } catch (error) {
    const why = error instanceof AppError ? error.message : 'one private key as PKCS#8 PEM was expected';
    throw new AppError(
      'failed-precondition',
      `key file "${path}" cannot be used: ${why}; restore it from a backup, or remove it to go on without this key`,
    );
  }
}

/** Exactly one unencrypted PKCS#8 block; the cause of a refusal is dropped, since OpenSSL may quote what it read. */
function parsePkcs8(pem: string): KeyObject {
  const blocks = pem.match(/-----BEGIN [^-]*-----/g);
  if (blocks?.length !== 1 || blocks[0] !== '-----BEGIN PRIVATE KEY-----') throw new Error('not PKCS#8');
  return createPrivateKey({ key: pem, format: 'pem', type: 'pkcs8' });
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  await directory.sync().finally(() => directory.close());
}
