import type { Handle, Mechanism, PKCS11, TokenInfo } from 'pkcs11js';
import { errorText } from '../../runtime/error.ts';
import type { KeyType } from '../../x509/signature.ts';
import { keyTypes } from '../../x509/signature.ts';
import { ck } from './pkcs11-constants.ts';
import { TokenFault } from './pkcs11-faults.ts';
import type { TokenSettings } from './pkcs11-protocol.ts';
import { tokenKeyTypes } from './pkcs11-public-key.ts';

/** A slot with the token in it. */
export interface TokenSlot {
  readonly slot: Handle;
  readonly info: TokenInfo;
}

/** A PKCS#11 module in this process: loaded once, initialized as often as needed. */
export class TokenModule {
  readonly api: PKCS11;
  #isInitialized = false;

  private constructor(api: PKCS11) {
    this.api = api;
  }

  /** Loads the native package and the module; throws TokenFault `NOT_INSTALLED` or `MODULE_NOT_LOADED`. */
  static async load(path: string): Promise<TokenModule> {
    const { PKCS11 } = await import('pkcs11js')
      .then((library) => library.default)
      .catch((error: unknown) => {
        // It may be there and made for another Node.js.
        const [detail = ''] = errorText(error).split('\n');
        throw new TokenFault({ name: 'NOT_INSTALLED', method: '', detail: detail.slice(0, 200) });
      });
    const api = new PKCS11();
    try {
      api.load(path);
    } catch (error) {
      throw new TokenFault({ name: 'MODULE_NOT_LOADED', method: '', detail: errorText(error).slice(0, 300) });
    }
    return new TokenModule(api);
  }

  /** C_Initialize, once. */
  initialize(): void {
    if (this.#isInitialized) return;
    try {
      this.api.C_Initialize({ flags: ck.CKF_OS_LOCKING_OK });
    } catch (error) {
      if (faultOf(error).fault.name !== 'CKR_CRYPTOKI_ALREADY_INITIALIZED') throw error;
    }
    this.#isInitialized = true;
  }

  /** C_Finalize; a module that is in trouble may well refuse it. */
  finalize(): void {
    this.#isInitialized = false;
    quietly(() => this.api.C_Finalize());
  }

  /** The one slot that holds the token; throws TokenFault `TOKEN_NOT_FOUND` or `TOKEN_AMBIGUOUS`. */
  findToken(settings: TokenSettings): TokenSlot {
    const found = this.api
      .C_GetSlotList(true)
      .map((slot) => ({ slot, info: quietly(() => this.api.C_GetTokenInfo(slot)) }))
      .filter((candidate): candidate is TokenSlot => candidate.info !== undefined)
      .filter(({ slot, info }) => isMeant(settings, slot, info));
    const [token, another] = found;
    if (token === undefined) throw new TokenFault({ name: 'TOKEN_NOT_FOUND', method: '' });
    if (another !== undefined) throw new TokenFault({ name: 'TOKEN_AMBIGUOUS', method: '' });
    return token;
  }

  /** The key types that the token can make and sign with, and how it signs with RSA. */
  abilities(slot: Handle): TokenAbilities {
    // A TPM lists both and can only do the first with a key that must not decrypt.
    const known = new Set(this.api.C_GetMechanismList(slot));
    const rsa = [ck.CKM_SHA256_RSA_PKCS, ck.CKM_RSA_PKCS].find((mechanism) => known.has(mechanism));
    const generators = { ec: ck.CKM_EC_KEY_PAIR_GEN, rsa: ck.CKM_RSA_PKCS_KEY_PAIR_GEN };
    const signs = { ec: known.has(ck.CKM_ECDSA), rsa: rsa !== undefined };
    const usable = keyTypes.filter((type) => {
      const { family, bits } = tokenKeyTypes[type];
      if (!signs[family] || !known.has(generators[family])) return false;
      const { minKeySize, maxKeySize } = this.api.C_GetMechanismInfo(slot, generators[family]);
      // Some modules leave the sizes out.
      return maxKeySize === 0 || (bits >= minKeySize && bits <= maxKeySize);
    });
    return { keyTypes: usable, rsaMechanism: { mechanism: rsa ?? ck.CKM_RSA_PKCS } };
  }
}

/** What a token can do for us. */
export interface TokenAbilities {
  readonly keyTypes: readonly KeyType[];
  readonly rsaMechanism: Mechanism;
}

function isMeant(settings: TokenSettings, slot: Handle, info: TokenInfo): boolean {
  if (settings.slot !== undefined) return numberOf(slot) === BigInt(settings.slot);
  if (settings.tokenSerial !== undefined) return unpadded(info.serialNumber) === settings.tokenSerial;
  return unpadded(info.label) === settings.tokenLabel;
}

/** Handles are numbers of the machine's own size and order; all that we run on begin with the lowest byte. */
function numberOf(handle: Handle): bigint {
  return handle.length === 8 ? handle.readBigUInt64LE() : BigInt(handle.readUInt32LE());
}

/** Texts of a token are filled up with blanks, or, against the standard, with zeros. */
export function unpadded(text: string): string {
  return text.replace(/[\s\0]+$/u, '');
}

/** The result, or undefined when the module refuses. */
export function quietly<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch {
    return undefined;
  }
}

/** Codes that are newer than the package's own list of names. */
const newerNames: ReadonlyMap<number, string> = new Map([
  [0x1b, 'CKR_ACTION_PROHIBITED'],
  [0x140, 'CKR_CURVE_NOT_SUPPORTED'],
]);

/** What was thrown, as a fault: the name of the code and of the function, and nothing else of the module's texts. */
export function faultOf(error: unknown, method = ''): TokenFault {
  if (error instanceof TokenFault) return error;
  const text = error instanceof Error ? `${error.message}\n${error.stack ?? ''}` : '';
  const [, name, number] = /(CKR_\w+)(?::(\d+))?/.exec(text) ?? [];
  if (name === undefined) {
    return new TokenFault({ name: 'WORKER_FAILED', method, detail: errorText(error).slice(0, 300) });
  }
  const [, called = method] = /PKCS11\.(C_\w+)/.exec(text) ?? [];
  if (name !== 'CKR_VENDOR_DEFINED') return new TokenFault({ name, method: called });
  const code = Number(number ?? (error as { readonly code?: unknown }).code);
  return new TokenFault({ name: newerNames.get(code) ?? `CKR_0x${code.toString(16)}`, method: called });
}
