import { createPublicKey, generateKeyPair, KeyObject, sign, verify } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import { AppError } from '../runtime/error.ts';
import { tags } from './der-reader.ts';
import { element, oid, sequence } from './der-writer.ts';
import { parseRsaKey, parseSpki, type SubjectPublicKeyInfo } from './spki.ts';

/** The kinds of key Signet makes and certifies. */
export const keyTypes = ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-3072', 'rsa-4096'] as const;
/** One kind of key. */
export type KeyType = (typeof keyTypes)[number];

/** A private key that may live elsewhere: in memory, on disk, in an HSM. */
export interface Signer {
  readonly type: KeyType;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** The signature of `data` with `signatureAlgorithmOf(type)`: ECDSA as DER (RFC 3279 §2.2.3), RSA PKCS#1 v1.5. */
  sign(data: Uint8Array): Promise<Uint8Array>;
}

/** One signature algorithm of certificates: its names and its parts. */
export interface SignatureAlgorithm {
  readonly name: string;
  readonly oid: string;
  /** AlgorithmIdentifier, DER. */
  readonly identifier: Uint8Array;
  readonly hash: 'sha256' | 'sha384' | 'sha512';
  readonly family: 'ec' | 'rsa';
}

function ecdsa(hash: SignatureAlgorithm['hash'], oidText: string): SignatureAlgorithm {
  // RFC 5758 §3.2: parameters absent.
  const name = `ecdsa-with-${hash.toUpperCase()}`;
  return { name, oid: oidText, identifier: sequence(oid(oidText)), hash, family: 'ec' };
}

function rsa(hash: SignatureAlgorithm['hash'], oidText: string): SignatureAlgorithm {
  // RFC 4055 §5: parameters NULL.
  const identifier = sequence(oid(oidText), element(tags.null));
  return { name: `${hash}WithRSAEncryption`, oid: oidText, identifier, hash, family: 'rsa' };
}

const ecdsaSha256 = ecdsa('sha256', '1.2.840.10045.4.3.2');
const ecdsaSha384 = ecdsa('sha384', '1.2.840.10045.4.3.3');
const rsaSha256 = rsa('sha256', '1.2.840.113549.1.1.11');

/** Accepted in verification: no MD5, no SHA-1 (RFC 9155 §2), nothing that names its own hash. */
const accepted: ReadonlyMap<string, SignatureAlgorithm> = new Map(
  [
    ecdsaSha256,
    ecdsaSha384,
    ecdsa('sha512', '1.2.840.10045.4.3.4'),
    rsaSha256,
    rsa('sha384', '1.2.840.113549.1.1.12'),
    rsa('sha512', '1.2.840.113549.1.1.13'),
  ].map((algorithm) => [algorithm.oid, algorithm]),
);

const signedWith = {
  'ec-p256': ecdsaSha256,
  'ec-p384': ecdsaSha384,
  'rsa-2048': rsaSha256,
  'rsa-3072': rsaSha256,
  'rsa-4096': rsaSha256,
} as const satisfies Record<KeyType, SignatureAlgorithm>;

/** The algorithm a key of this type signs with. */
export function signatureAlgorithmOf(type: KeyType): SignatureAlgorithm {
  return signedWith[type];
}

/** The algorithm with this OID, when signatures made with it are accepted. */
export function findSignatureAlgorithm(algorithmOid: string): SignatureAlgorithm | undefined {
  return accepted.get(algorithmOid);
}

/** By the DER of the curve's OID (RFC 5480 §2.1.1.1); a wrong length tells a damaged point before OpenSSL sees it. */
const curves: ReadonlyMap<
  string,
  { readonly name: string; readonly pointBytes: number; readonly type?: KeyType }
> = new Map([
  [oid('1.2.840.10045.3.1.7').toString('hex'), { name: 'P-256', pointBytes: 65, type: 'ec-p256' }],
  [oid('1.3.132.0.34').toString('hex'), { name: 'P-384', pointBytes: 97, type: 'ec-p384' }],
  [oid('1.3.132.0.35').toString('hex'), { name: 'P-521', pointBytes: 133 }],
]);

const EC_PUBLIC_KEY = '1.2.840.10045.2.1';
const RSA_ENCRYPTION = '1.2.840.113549.1.1.1';
const otherKeyNames: ReadonlyMap<string, string> = new Map([
  ['1.3.101.112', 'Ed25519'],
  ['1.3.101.113', 'Ed448'],
  ['1.2.840.113549.1.1.10', 'RSASSA-PSS'],
  ['1.2.840.10040.4.1', 'DSA'],
]);

const RSA_MIN_BITS = 2048;
/** OpenSSL verifies up to 16384 bits; an attacker's key of that size costs 100 times the work of ours. */
const RSA_MAX_BITS = 8192;

interface KeyFacts {
  /** For people, such as `RSA-1024` or `EC P-521`. */
  readonly name: string;
  /** The family whose signatures this key may verify; undefined when the key is too weak, too large or unknown. */
  readonly family: SignatureAlgorithm['family'] | undefined;
  readonly type: KeyType | undefined;
}

function keyFacts(spki: Uint8Array): KeyFacts {
  const info = parseSpki(spki);
  if (info.algorithm === EC_PUBLIC_KEY) return ecFacts(info);
  if (info.algorithm === RSA_ENCRYPTION) return rsaFacts(info);
  return unusable(otherKeyNames.get(info.algorithm) ?? `unknown (${info.algorithm})`);
}

function unusable(name: string): KeyFacts {
  return { name, family: undefined, type: undefined };
}

function ecFacts({ parameters, key }: SubjectPublicKeyInfo): KeyFacts {
  const curve = parameters && curves.get(parameters.encoded.toString('hex'));
  // Explicit curve parameters let the sender choose the generator and with it the private key (CVE-2020-0601).
  if (curve === undefined) return unusable('EC (unknown curve)');
  const isUncompressed = key[0] === 0x04 && key.length === curve.pointBytes;
  if (!isUncompressed) return unusable(`EC ${curve.name} (not an uncompressed point)`);
  return { name: `EC ${curve.name}`, family: 'ec', type: curve.type };
}

function rsaFacts({ parameters, key }: SubjectPublicKeyInfo): KeyFacts {
  const { modulusBits, hasSoundExponent } = parseRsaKey(key);
  const name = `RSA-${modulusBits}`;
  // RFC 3279 §2.3.1: parameters NULL.
  const hasNull = parameters?.tag === tags.null && parameters.contents.length === 0;
  if (!hasNull || !hasSoundExponent) return unusable(`${name} (unsound parameters)`);
  const isUsable = modulusBits >= RSA_MIN_BITS && modulusBits <= RSA_MAX_BITS;
  const type = keyTypes.find((candidate) => candidate === `rsa-${modulusBits}`);
  return { name, family: isUsable ? 'rsa' : undefined, type };
}

/** The type of a public key, or undefined when it is none of `keyTypes` or not a key at all. */
export function keyTypeOfSpki(spki: Uint8Array): KeyType | undefined {
  try {
    return keyFacts(spki).type;
  } catch {
    return undefined;
  }
}

/** A key named for error texts: `RSA-1024`, `EC P-521`, `Ed25519`, `unreadable`. */
export function describeKey(spki: Uint8Array): string {
  try {
    return keyFacts(spki).name;
  } catch {
    return 'unreadable';
  }
}

/** Makes a private key of this type. */
export async function generatePrivateKey(type: KeyType): Promise<KeyObject> {
  const generate = promisify(generateKeyPair);
  const pair = type.startsWith('ec')
    ? await generate('ec', { namedCurve: type === 'ec-p256' ? 'P-256' : 'P-384' })
    : await generate('rsa', { modulusLength: Number(type.slice('rsa-'.length)) });
  return pair.privateKey;
}

/** P-256 signs on the calling thread; after this many signatures other work gets a turn. */
const SIGNATURES_PER_TURN = 16;

/** A signer over a private key in memory; throws AppError `invalid-argument` for a key outside `keyTypes`. */
export function createSoftwareSigner(key: KeyObject): Signer {
  if (key.type !== 'private')
    throw new AppError('invalid-argument', `expected a private key, got a ${key.type} key`);
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' });
  const type = keyTypeOfSpki(publicKey);
  if (type === undefined) {
    const message = `cannot sign with a key of kind "${describeKey(publicKey)}"; expected one of ${keyTypes.join(', ')}`;
    throw new AppError('invalid-argument', message);
  }
  const { hash } = signatureAlgorithmOf(type);
  // A thread-pool round trip costs more than a P-256 signature; the slower keys would block the event loop.
  if (type !== 'ec-p256') return { type, publicKey, sign: (data) => signOnThreadPool(hash, data, key) };
  let signatures = 0;
  return {
    type,
    publicKey,
    async sign(data) {
      signatures += 1;
      if (signatures % SIGNATURES_PER_TURN === 0) await setImmediate();
      return sign(hash, data, key);
    },
  };
}

function signOnThreadPool(hash: string, data: Uint8Array, key: KeyObject): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    sign(hash, data, key, (error, signature) => (error === null ? resolve(signature) : reject(error)));
  });
}

/** What `verifySignature` is asked. */
export interface SignatureToVerify {
  /** The public key: SubjectPublicKeyInfo DER, or a KeyObject made from one. */
  readonly spki: Uint8Array | KeyObject;
  readonly algorithmOid: string;
  readonly data: Uint8Array;
  readonly signature: Uint8Array;
}

/** True for a valid signature; false for anything else: unknown algorithm, key of another family, weak or bad key. */
export function verifySignature({ spki, algorithmOid, data, signature }: SignatureToVerify): boolean {
  const algorithm = findSignatureAlgorithm(algorithmOid);
  if (algorithm === undefined) return false;
  try {
    const der = spki instanceof KeyObject ? spki.export({ format: 'der', type: 'spki' }) : spki;
    if (keyFacts(der).family !== algorithm.family) return false;
    const key =
      spki instanceof KeyObject
        ? spki
        : createPublicKey({ key: Buffer.from(der), format: 'der', type: 'spki' });
    return verify(algorithm.hash, data, key, signature);
  } catch {
    return false;
  }
}
