import type { KeyType } from '../../x509/signature.ts';

/**
 * What server and worker process say to each other. Each request has a number and gets one answer with it, in any
 * order. Handles of the module never leave the worker: keys are named by their CKA_ID, in lower-case hex, and each
 * request by the generation of the connection that it is meant for, so that none reaches a later one by mistake.
 */
export interface Operations {
  /** Lets go of what there was and connects anew, as `generation`. */
  connect: { request: ConnectRequest; answer: TokenFacts };
  sign: { request: { readonly id: string; readonly data: Uint8Array }; answer: Uint8Array };
  /** Looks what is in the token now. */
  list: { request: object; answer: Pick<TokenFacts, 'keys' | 'strays'> };
  /** Makes a key pair and reads it back. */
  generate: {
    request: { readonly id: string; readonly label: string; readonly type: KeyType };
    answer: TokenKey;
  };
  /** Removes what has this CKA_ID and our prefix; answers how many objects that were. */
  destroy: { request: { readonly id: string }; answer: number };
  /** Proves that the sessions are alive. */
  ping: { request: object; answer: undefined };
  /** Logs out; the worker ends afterwards. */
  close: { request: object; answer: undefined };
}

/** The name of one operation. */
export type Operation = keyof Operations;

/** Which token, as which user, with how many sessions. */
export interface TokenSettings {
  readonly module: string;
  readonly tokenLabel: string | undefined;
  readonly tokenSerial: string | undefined;
  readonly slot: number | undefined;
  readonly pinFile: string;
  readonly userType: number;
  /** For signatures; one more is opened for everything else. */
  readonly sessions: number;
  /** What labels begin with, the slash included. */
  readonly labelPrefix: string;
}

export interface ConnectRequest {
  readonly settings: TokenSettings;
  /** `renew`: new sessions; `reinitialize`: C_Finalize and C_Initialize before. */
  readonly rung: 'renew' | 'reinitialize';
  /** The PIN file that the token accepted before, or refused; see `PinFileIdentity`. */
  readonly accepted: string | undefined;
}

/** What the worker found in the token. */
export interface TokenFacts {
  readonly label: string;
  readonly serial: string;
  /** Manufacturer and model. */
  readonly product: string;
  /** Those that the token can make and sign with. */
  readonly keyTypes: readonly KeyType[];
  /** Pairs under our prefix. */
  readonly keys: readonly TokenKey[];
  /** What else is there under our prefix. */
  readonly strays: readonly StrayObject[];
  /** Of the PIN file that was used, undefined when the token wants no login. */
  readonly pinFile: string | undefined;
}

/** One pair of keys. */
export interface TokenKey {
  /** CKA_ID, lower-case hex. */
  readonly id: string;
  /** CKA_LABEL without the prefix. */
  readonly label: string;
  readonly type: KeyType;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
}

/** Half a pair, or a pair of a kind that we have no use for. */
export interface StrayObject {
  readonly id: string;
  readonly label: string;
  readonly why: string;
}

/** Why an operation failed, with nothing in it that could be secret. */
export interface Fault {
  /** `CKR_…`, or one of our own of `pkcs11-faults.ts`. */
  readonly name: string;
  /** The function of the module, such as `C_Sign`. */
  readonly method: string;
  /** More, for people; never from the module's own texts but that of the system's loader. */
  readonly detail?: string;
  /** Identity of the PIN file that the token refused. */
  readonly pinFile?: string;
}

export interface RequestMessage<Op extends Operation = Operation> {
  readonly number: number;
  readonly operation: Op;
  readonly generation: number;
  readonly request: Operations[Op]['request'];
}

export type AnswerMessage =
  | { readonly number: number; readonly answer: unknown }
  | { readonly number: number; readonly fault: Fault };
