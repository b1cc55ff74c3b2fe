import type { ManagedKey, StrayKey } from '../../plugin-api/key-manager.ts';
import { inOrderOfId, isKeyId } from './key-id.ts';
import type { TokenKey } from './pkcs11-protocol.ts';

interface KnownKey {
  readonly inToken: TokenKey;
  readonly managed: ManagedKey;
}

/** The pairs of keys in a token, by CKA_ID. Of several with one label the newest counts, the others are strays. */
export class TokenKeys {
  readonly #sign: (key: TokenKey, data: Uint8Array) => Promise<Uint8Array>;
  #known: ReadonlyMap<string, KnownKey> = new Map();

  constructor(sign: (key: TokenKey, data: Uint8Array) => Promise<Uint8Array>) {
    this.#sign = sign;
  }

  /** Takes over what the token has now; keys that stay are the same objects as before. */
  replaceAll(keys: readonly TokenKey[]): void {
    this.#known = new Map(keys.map((key) => [key.id, this.#known.get(key.id) ?? this.#toKnown(key)]));
  }

  add(key: TokenKey): ManagedKey {
    const known = this.#toKnown(key);
    this.#known = new Map([...this.#known, [key.id, known]]);
    return known.managed;
  }

  remove(objectId: string): void {
    this.#known = new Map([...this.#known].filter(([id]) => id !== objectId));
  }

  /** The CKA_IDs of all pairs with this label. */
  idsOf(label: string): readonly string[] {
    return [...this.#known.values()]
      .filter(({ inToken }) => inToken.label === label)
      .map((k) => k.inToken.id);
  }

  find(label: string): ManagedKey | undefined {
    return this.current().find(({ id }) => id === label);
  }

  /** Those that count, in order of id. */
  current(): readonly ManagedKey[] {
    return inOrderOfId([...this.#newest().values()].map(({ managed }) => managed));
  }

  isCurrent(objectId: string): boolean {
    return [...this.#newest().values()].some(({ inToken }) => inToken.id === objectId);
  }

  /** Those of `found` that do not count. */
  others(found: readonly TokenKey[]): readonly StrayKey[] {
    return found
      .filter(({ id }) => !this.isCurrent(id))
      .map(({ id, label }) => ({
        handle: id,
        keyId: label,
        why: isKeyId(label) ? 'not the newest key of this name' : 'its label is no key id of ours',
      }));
  }

  /** By label. */
  #newest(): ReadonlyMap<string, KnownKey> {
    const newest = new Map<string, KnownKey>();
    for (const known of this.#known.values()) {
      const { id, label } = known.inToken;
      const rival = newest.get(label);
      if (isKeyId(label) && (rival === undefined || rival.inToken.id < id)) newest.set(label, known);
    }
    return newest;
  }

  #toKnown(key: TokenKey): KnownKey {
    const { label, type, publicKey } = key;
    return { inToken: key, managed: { id: label, type, publicKey, sign: (data) => this.#sign(key, data) } };
  }
}
