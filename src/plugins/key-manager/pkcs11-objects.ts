import type { Handle, KeyPair, PKCS11, Template } from 'pkcs11js';
import { type KeyType, keyTypeOfSpki } from '../../x509/signature.ts';
import { ck } from './pkcs11-constants.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { faultOf, quietly } from './pkcs11-module.ts';
import type { StrayObject, TokenKey } from './pkcs11-protocol.ts';
import { publicTemplate, spkiOfModulus, spkiOfPoint, tokenKeyTypes } from './pkcs11-public-key.ts';

/** What lies in the token under one prefix. */
export interface FoundKeys {
  readonly keys: readonly (TokenKey & { readonly handle: Handle })[];
  readonly strays: readonly StrayObject[];
}

interface FoundObject {
  readonly handle: Handle;
  /** CKA_ID, hex. */
  readonly id: string;
  /** Without the prefix. */
  readonly label: string;
}

/** The objects of a token whose labels begin with one prefix, looked at through one logged-in session. */
export class TokenObjects {
  readonly #api: PKCS11;
  readonly #session: Handle;
  readonly #labelPrefix: string;

  constructor(api: PKCS11, session: Handle, labelPrefix: string) {
    this.#api = api;
    this.#session = session;
    this.#labelPrefix = labelPrefix;
  }

  /** Pairs are private and public objects of one CKA_ID; whatever else is under the prefix is a stray. */
  list(): FoundKeys {
    const publicHalves = new Map(this.#find(ck.CKO_PUBLIC_KEY).map((object) => [object.id, object]));
    const keys: (TokenKey & { readonly handle: Handle })[] = [];
    const strays: StrayObject[] = [];
    for (const { handle, id, label } of this.#find(ck.CKO_PRIVATE_KEY)) {
      const half = publicHalves.get(id);
      publicHalves.delete(id);
      const publicKey = half === undefined ? undefined : this.#spkiOf(half.handle);
      const type = publicKey === undefined ? undefined : keyTypeOfSpki(publicKey);
      if (publicKey !== undefined && type !== undefined) keys.push({ handle, id, label, type, publicKey });
      else if (half === undefined) strays.push({ id, label, why: 'a private key without its public key' });
      else strays.push({ id, label, why: 'a key of a kind that is not used here' });
    }
    for (const { id, label } of publicHalves.values()) {
      strays.push({ id, label, why: 'a public key without its private key' });
    }
    return { keys, strays };
  }

  /** Makes a pair in the token and reads it back; what is not as it must be is destroyed again. */
  async generate(wanted: { id: string; label: string; type: KeyType }): Promise<FoundKeys['keys'][number]> {
    try {
      // The handles are good at once; that a list has the new objects is not so sure (tpm2-pkcs11 1.9).
      const made = await this.#generatePair(wanted);
      this.#requireProtected(made.privateKey);
      const publicKey = this.#spkiOf(made.publicKey);
      if (publicKey !== undefined && keyTypeOfSpki(publicKey) === wanted.type)
        return { ...wanted, handle: made.privateKey, publicKey };
      throw new TokenFault({ name: 'KEY_NOT_AS_WANTED', method: 'C_GenerateKeyPair' });
    } catch (error) {
      quietly(() => this.destroy(wanted.id));
      throw faultOf(error, 'C_GenerateKeyPair');
    }
  }

  /** Destroys what has this CKA_ID and our prefix, private objects first. */
  destroy(id: string): number {
    const doomed = [ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY].flatMap((kind) =>
      this.#find(kind, id).filter((object) => object.id === id),
    );
    for (const { handle } of doomed) this.#api.C_DestroyObject(this.#session, handle);
    return doomed.length;
  }

  async #generatePair({ id, label, type }: { id: string; label: string; type: KeyType }): Promise<KeyPair> {
    const isEc = tokenKeyTypes[type].family === 'ec';
    const both = [
      { type: ck.CKA_TOKEN, value: true },
      { type: ck.CKA_KEY_TYPE, value: isEc ? ck.CKK_EC : ck.CKK_RSA },
      { type: ck.CKA_ID, value: Buffer.from(id, 'hex') },
      { type: ck.CKA_LABEL, value: this.#labelPrefix + label },
    ];
    // Nothing of CKA_VERIFY: a TPM that must not decrypt says that it cannot verify either, and refuses the key.
    const publicHalf = [
      ...both,
      { type: ck.CKA_CLASS, value: ck.CKO_PUBLIC_KEY },
      { type: ck.CKA_PRIVATE, value: false },
      ...publicTemplate(type),
    ];
    const privateHalf = [
      ...both,
      { type: ck.CKA_CLASS, value: ck.CKO_PRIVATE_KEY },
      { type: ck.CKA_PRIVATE, value: true },
      { type: ck.CKA_SENSITIVE, value: true },
      { type: ck.CKA_EXTRACTABLE, value: false },
      { type: ck.CKA_SIGN, value: true },
      { type: ck.CKA_DECRYPT, value: false },
      { type: ck.CKA_UNWRAP, value: false },
      { type: ck.CKA_DERIVE, value: false },
    ];
    const mechanism = isEc ? ck.CKM_EC_KEY_PAIR_GEN : ck.CKM_RSA_PKCS_KEY_PAIR_GEN;
    // In the thread pool: an RSA key may take a minute, and signatures go on meanwhile.
    return this.#api.C_GenerateKeyPairAsync(this.#session, { mechanism }, publicHalf, privateHalf);
  }

  /** A token that ignores what it was asked for must not pass for one that keeps its keys. */
  #requireProtected(privateKey: Handle): void {
    const isTrue = (type: number) => this.#attribute(privateKey, type)?.[0] === 1;
    if (isTrue(ck.CKA_SENSITIVE) && !isTrue(ck.CKA_EXTRACTABLE)) return;
    throw new TokenFault({ name: 'KEY_NOT_PROTECTED', method: 'C_GenerateKeyPair' });
  }

  /** Our objects of one class, or those with this CKA_ID. */
  #find(objectClass: number, id?: string): readonly FoundObject[] {
    const template = [
      { type: ck.CKA_CLASS, value: objectClass },
      ...(id === undefined ? [] : [{ type: ck.CKA_ID, value: Buffer.from(id, 'hex') }]),
    ];
    return this.#handlesOf(template).flatMap((handle) => {
      const label = this.#attribute(handle, ck.CKA_LABEL)?.toString('utf8') ?? '';
      if (!label.startsWith(this.#labelPrefix)) return [];
      const found = this.#attribute(handle, ck.CKA_ID)?.toString('hex') ?? '';
      return [{ handle, id: found, label: label.slice(this.#labelPrefix.length) }];
    });
  }

  #handlesOf(template: Template): readonly Handle[] {
    const handles = new Map<string, Handle>();
    this.#api.C_FindObjectsInit(this.#session, template);
    try {
      for (;;) {
        const some = this.#api.C_FindObjects(this.#session, 100);
        // tpm2-pkcs11 has shown an object twice.
        for (const handle of some) handles.set(handle.toString('hex'), handle);
        if (some.length === 0) return [...handles.values()];
      }
    } finally {
      quietly(() => this.#api.C_FindObjectsFinal(this.#session));
    }
  }

  #spkiOf(handle: Handle): Buffer | undefined {
    const read = (type: number) => this.#attribute(handle, type);
    const [parameters, point] = [read(ck.CKA_EC_PARAMS), read(ck.CKA_EC_POINT)];
    if (parameters !== undefined && point !== undefined) return spkiOfPoint(parameters, point);
    const [modulus, exponent] = [read(ck.CKA_MODULUS), read(ck.CKA_PUBLIC_EXPONENT)];
    return modulus === undefined || exponent === undefined ? undefined : spkiOfModulus(modulus, exponent);
  }

  /** Undefined when the object has no such attribute, or does not show it. */
  #attribute(handle: Handle, type: number): Buffer | undefined {
    try {
      const [found] = this.#api.C_GetAttributeValue(this.#session, handle, [{ type }]);
      return found === undefined || !Buffer.isBuffer(found.value) ? undefined : found.value;
    } catch (error) {
      const { name } = faultOf(error).fault;
      if (name === 'CKR_ATTRIBUTE_TYPE_INVALID' || name === 'CKR_ATTRIBUTE_SENSITIVE') return undefined;
      throw error;
    }
  }
}
