import { createHash } from 'node:crypto';
import type { Handle, PKCS11 } from 'pkcs11js';
import type { KeyType } from '../../x509/signature.ts';
import { signatureAlgorithmOf } from '../../x509/signature.ts';
import { ck } from './pkcs11-constants.ts';
import { TokenFault } from './pkcs11-faults.ts';
import { faultOf, quietly, type TokenAbilities, type TokenModule, unpadded } from './pkcs11-module.ts';
import { TokenObjects } from './pkcs11-objects.ts';
import { readPin } from './pkcs11-pin.ts';
import type { ConnectRequest, TokenFacts, TokenKey } from './pkcs11-protocol.ts';
import { derOfEcSignature, sha256DigestInfo, tokenKeyTypes } from './pkcs11-public-key.ts';

/** Larger than the signature of any key type. */
const signatureMaxBytes = 1024;

/** One connection to a token: its sessions, the login, and the handles that are good as long as these. */
export class OpenToken {
  readonly #api: PKCS11;
  readonly #slot: Handle;
  readonly #abilities: TokenAbilities;
  readonly #objects: TokenObjects;
  readonly #keys = new Map<string, { readonly handle: Handle; readonly type: KeyType }>();
  /** Sessions that nothing uses right now. */
  readonly #idle: Handle[] = [];
  readonly #inUse = new Set<readonly Buffer[]>();

  private constructor(
    api: PKCS11,
    parts: { slot: Handle; abilities: TokenAbilities; objects: TokenObjects },
  ) {
    this.#api = api;
    this.#slot = parts.slot;
    this.#abilities = parts.abilities;
    this.#objects = parts.objects;
  }

  /** Finds the token, opens its sessions, logs in and finds our keys. Throws TokenFault. */
  static async open(
    module: TokenModule,
    { settings, accepted }: ConnectRequest,
  ): Promise<{ readonly token: OpenToken; readonly facts: TokenFacts }> {
    const { slot, info } = module.findToken(settings);
    const { api } = module;
    // Sessions of a connection before this one.
    quietly(() => api.C_CloseAllSessions(slot));
    const session = openSession(api, slot);
    const pinFile = (info.flags & ck.CKF_LOGIN_REQUIRED) === 0 ? undefined : await readPin(settings.pinFile);
    if (pinFile !== undefined) {
      requireTries(info.flags, pinFile.identity === accepted);
      logIn(api, session, settings.userType, pinFile);
    }
    const abilities = module.abilities(slot);
    const objects = new TokenObjects(api, session, settings.labelPrefix);
    const token = new OpenToken(api, { slot, abilities, objects });
    for (let i = 0; i < settings.sessions; i += 1) token.#idle.push(openSession(api, slot));
    const found = token.list();
    return {
      token,
      facts: {
        label: unpadded(info.label),
        serial: unpadded(info.serialNumber),
        product: `${unpadded(info.manufacturerID)} ${unpadded(info.model)}`.trim(),
        keyTypes: abilities.keyTypes,
        ...found,
        pinFile: pinFile?.identity,
      },
    };
  }

  /** The signature as certificates have it: ECDSA as DER, RSA PKCS#1 v1.5. */
  async sign({ id, data }: { readonly id: string; readonly data: Uint8Array }): Promise<Uint8Array> {
    const key = this.#keys.get(id);
    if (key === undefined) throw new TokenFault({ name: 'KEY_NOT_FOUND', method: '' });
    const session = this.#idle.pop() ?? openSession(this.#api, this.#slot);
    try {
      const signature = await this.#signIn(session, key, data);
      this.#idle.push(session);
      return signature;
    } catch (error) {
      // After an error nobody knows what state it is in.
      quietly(() => this.#api.C_CloseSession(session));
      throw faultOf(error, 'C_Sign');
    }
  }

  list(): Pick<TokenFacts, 'keys' | 'strays'> {
    const { keys, strays } = this.#objects.list();
    return { keys: keys.map((key) => this.#remember(key)), strays };
  }

  async generate(wanted: {
    readonly id: string;
    readonly label: string;
    readonly type: KeyType;
  }): Promise<TokenKey> {
    return this.#remember(await this.#objects.generate(wanted));
  }

  destroy({ id }: { readonly id: string }): number {
    this.#keys.delete(id);
    return this.#objects.destroy(id);
  }

  /** Asks for each idle session, and after a key: some modules answer the first without asking the token. */
  ping(): undefined {
    for (const session of this.#idle) this.#api.C_GetSessionInfo(session);
    const [session] = this.#idle;
    const [key] = this.#keys.values();
    if (session !== undefined && key !== undefined)
      this.#api.C_GetAttributeValue(session, key.handle, [{ type: ck.CKA_ID }]);
  }

  /** Ends all sessions, and with them the login. Nothing may be under way. */
  close(): void {
    quietly(() => this.#api.C_CloseAllSessions(this.#slot));
  }

  async #signIn(
    session: Handle,
    { handle, type }: { readonly handle: Handle; readonly type: KeyType },
    data: Uint8Array,
  ): Promise<Uint8Array> {
    const isEc = tokenKeyTypes[type].family === 'ec';
    const mechanism = isEc ? { mechanism: ck.CKM_ECDSA } : this.#abilities.rsaMechanism;
    const input = inputFor(mechanism.mechanism, type, data);
    this.#api.C_SignInit(session, mechanism, handle);
    const buffers = [input, Buffer.alloc(signatureMaxBytes)] as const;
    // pkcs11js keeps only pointers to them: they must not be collected while another thread reads and writes there.
    this.#inUse.add(buffers);
    const raw = await this.#api.C_SignAsync(session, ...buffers).finally(() => this.#inUse.delete(buffers));
    return isEc ? derOfEcSignature(raw) : raw;
  }

  #remember({ handle, ...key }: TokenKey & { readonly handle: Handle }): TokenKey {
    this.#keys.set(key.id, { handle, type: key.type });
    return key;
  }
}

/** What the token is given to sign: a hash, or all, where it can hash itself. */
function inputFor(mechanism: number, type: KeyType, data: Uint8Array): Buffer {
  if (mechanism === ck.CKM_SHA256_RSA_PKCS) return Buffer.from(data);
  const hash = createHash(signatureAlgorithmOf(type).hash).update(data).digest();
  return mechanism === ck.CKM_ECDSA ? hash : Buffer.concat([sha256DigestInfo, hash]);
}

function openSession(api: PKCS11, slot: Handle): Handle {
  return api.C_OpenSession(slot, ck.CKF_SERIAL_SESSION | ck.CKF_RW_SESSION);
}

/** The last try is not ours, unless this very PIN was right before: somebody else has been guessing then. */
function requireTries(flags: number, isKnownPin: boolean): void {
  if ((flags & ck.CKF_USER_PIN_LOCKED) !== 0) throw new TokenFault({ name: 'PIN_LOCKED', method: '' });
  if ((flags & ck.CKF_USER_PIN_FINAL_TRY) !== 0 && !isKnownPin)
    throw new TokenFault({ name: 'PIN_FINAL_TRY', method: '' });
}

function logIn(
  api: PKCS11,
  session: Handle,
  userType: number,
  { pin, identity }: { readonly pin: string; readonly identity: string },
): void {
  try {
    api.C_Login(session, userType, pin);
  } catch (error) {
    const { fault } = faultOf(error, 'C_Login');
    if (fault.name === 'CKR_USER_ALREADY_LOGGED_IN') return;
    throw new TokenFault({ ...fault, pinFile: identity });
  }
}
