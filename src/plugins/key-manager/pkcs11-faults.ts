import type { Fault } from './pkcs11-protocol.ts';

/**
 * What to do about a fault. `session`: new sessions and a login help; `token`: the module must be initialized anew,
 * perhaps again and again; `process`: the worker is gone or hangs, another one is needed; `pin`: the login was
 * refused, and a second try could lock the token; `refused`: it would only fail again.
 */
export type FaultClass = 'session' | 'token' | 'process' | 'pin' | 'refused';

const classes: Readonly<Record<Exclude<FaultClass, 'token'>, readonly string[]>> = {
  session: [
    'CKR_SESSION_HANDLE_INVALID',
    'CKR_SESSION_CLOSED',
    // Handles of private objects end with the login that they were found in.
    'CKR_OBJECT_HANDLE_INVALID',
    'CKR_KEY_HANDLE_INVALID',
    'CKR_USER_NOT_LOGGED_IN',
    'CKR_OPERATION_ACTIVE',
    'CKR_OPERATION_NOT_INITIALIZED',
  ],
  process: ['WORKER_ENDED', 'NO_ANSWER'],
  pin: [
    'CKR_PIN_INCORRECT',
    'CKR_PIN_INVALID',
    'CKR_PIN_LEN_RANGE',
    'CKR_PIN_EXPIRED',
    'CKR_PIN_LOCKED',
    'CKR_USER_PIN_NOT_INITIALIZED',
    'CKR_USER_TYPE_INVALID',
    'PIN_REFUSED_BEFORE',
  ],
  refused: [
    'NOT_INSTALLED',
    'MODULE_NOT_LOADED',
    'TOKEN_AMBIGUOUS',
    'PIN_FILE_UNUSABLE',
    // Seen without a login: looking again costs nothing.
    'PIN_FINAL_TRY',
    'PIN_LOCKED',
    'KEY_NOT_FOUND',
    'KEY_NOT_PROTECTED',
    'KEY_NOT_AS_WANTED',
    'CKR_MECHANISM_INVALID',
    'CKR_MECHANISM_PARAM_INVALID',
    'CKR_TEMPLATE_INCOMPLETE',
    'CKR_TEMPLATE_INCONSISTENT',
    'CKR_ATTRIBUTE_READ_ONLY',
    'CKR_ATTRIBUTE_TYPE_INVALID',
    'CKR_ATTRIBUTE_VALUE_INVALID',
    'CKR_DOMAIN_PARAMS_INVALID',
    'CKR_CURVE_NOT_SUPPORTED',
    'CKR_KEY_SIZE_RANGE',
    'CKR_KEY_TYPE_INCONSISTENT',
    'CKR_KEY_FUNCTION_NOT_PERMITTED',
    'CKR_ACTION_PROHIBITED',
    'CKR_ARGUMENTS_BAD',
    'CKR_DATA_INVALID',
    'CKR_DATA_LEN_RANGE',
    'CKR_DEVICE_MEMORY',
    'CKR_FUNCTION_NOT_SUPPORTED',
    'CKR_SESSION_READ_ONLY',
    'CKR_TOKEN_WRITE_PROTECTED',
  ],
};

const classByName: ReadonlyMap<string, FaultClass> = new Map(
  Object.entries(classes).flatMap(([kind, names]) => names.map((name) => [name, kind as FaultClass])),
);

/** What the module, or the way to it, has answered instead of a result. */
export class TokenFault extends Error {
  override readonly name = 'TokenFault';
  readonly fault: Fault;

  constructor(fault: Fault) {
    super(describeFault(fault));
    this.fault = fault;
  }

  get class(): FaultClass {
    return classByName.get(this.fault.name) ?? 'token';
  }
}

const texts: Readonly<Record<string, string>> = {
  WORKER_ENDED: 'the process that runs the PKCS#11 module has ended',
  NO_ANSWER: 'the PKCS#11 module does not answer; its process was stopped',
  NOT_INSTALLED:
    'the package "pkcs11js" is not installed or not built for this Node.js; run: npm install pkcs11js (which takes a C++ compiler, make and python3)',
  MODULE_NOT_LOADED: 'the PKCS#11 module cannot be loaded',
  TOKEN_NOT_FOUND: 'the PKCS#11 module shows no such token',
  TOKEN_AMBIGUOUS: 'more than one token is called so; name it with tokenSerial',
  PIN_FILE_UNUSABLE: 'the PIN file cannot be used',
  PIN_FINAL_TRY:
    'one more wrong PIN would lock the token, so none is tried; log in once with the right one, as with pkcs11-tool --login',
  PIN_LOCKED: 'the PIN of the token is locked; its security officer can set it again',
  PIN_REFUSED_BEFORE: 'the token has refused this PIN before',
  KEY_NOT_FOUND: 'the key is not in the token any more',
  KEY_NOT_PROTECTED: 'the token made a key that can be taken out of it',
  KEY_NOT_AS_WANTED: 'the token made a key of another type than it was asked for',
  BAD_SIGNATURE: 'a signature of the token does not fit the public key',
};

/** One line about a fault, such as `CKR_DEVICE_ERROR in C_Sign`. */
export function describeFault({ name, method, detail }: Fault): string {
  const what = texts[name] ?? (method === '' ? name : `${name} in ${method}`);
  return detail === undefined ? what : `${what}: ${detail}`;
}
