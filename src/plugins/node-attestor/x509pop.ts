import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type {
  AgentNodeAttestor,
  Ask,
  NodeAttestation,
  ServerNodeAttestor,
  ServerNodeAttestorContext,
} from '../../plugin-api/node-attestor.ts';
import { AppError, errorText, isAppError } from '../../runtime/error.ts';
import { readPrivateFile } from '../../runtime/private-file.ts';
import { Certificate, parsePemCertificates } from '../../x509/certificate.ts';
import { describeKey, type KeyType, keyTypeOfSpki, keyTypes } from '../../x509/signature.ts';
import type { X509popAgentConfig, X509popServerConfig } from './x509pop-config.ts';
import { NodeFacts } from './x509pop-node.ts';
import {
  encodePayload,
  maxCertificates,
  newChallenge,
  parsePayload,
  respond,
  verifyResponse,
} from './x509pop-protocol.ts';
import { NodeTrust } from './x509pop-trust.ts';

/**
 * The server's half: a node has a certificate of an authority we trust, and proves by a signature over two fresh
 * nonces that it holds the key. Payloads, texts, agent IDs and selectors are SPIRE's.
 */
export class X509popServerAttestor implements ServerNodeAttestor {
  readonly #config: X509popServerConfig;
  readonly #context: ServerNodeAttestorContext;
  readonly #trust: NodeTrust;

  private constructor(config: X509popServerConfig, context: ServerNodeAttestorContext, trust: NodeTrust) {
    this.#config = config;
    this.#context = context;
    this.#trust = trust;
  }

  /** Reads the trusted files; throws `failed-precondition` that names the one that cannot be used. */
  static async open(
    config: X509popServerConfig,
    context: ServerNodeAttestorContext,
  ): Promise<X509popServerAttestor> {
    return new X509popServerAttestor(config, context, await NodeTrust.open(config, context));
  }

  async verify(payload: Uint8Array, { ask }: { readonly ask: Ask }): Promise<NodeAttestation> {
    const { leaf, type, path } = await inItsName(() => this.#verifyCertificate(payload));
    // Only a certificate that is trusted is worth a round trip.
    const { message, nonce } = newChallenge(type);
    const response = await ask(message);
    return inItsName(() => {
      verifyResponse(response, { spki: leaf.spki, type, nonce });
      const facts = new NodeFacts(leaf, path, this.#context.trustDomain);
      const agentPath = this.#config.agentPathTemplate.render(facts);
      return { agentPath, selectors: facts.selectors(), canReattest: true };
    });
  }

  async #verifyCertificate(payload: Uint8Array) {
    const [first, ...others] = parsePayload(payload);
    if (first === undefined) throw new AppError('invalid-argument', 'no certificate to attest');
    const leaf = parseCertificate(first, 'leaf certificate');
    const intermediates = others.map((der, i) => parseCertificate(der, `intermediate certificate ${i}`));
    const type = requireSigningKey(leaf);
    return { leaf, type, path: await this.#trust.verify(leaf, intermediates) };
  }
}

/** Whoever has the key of an authority can make any node; nobody keeps it on one. */
function requireSigningKey(leaf: Certificate): KeyType {
  if (leaf.isCa) {
    throw refused(
      'certificate verification failed: the first certificate is an authority, not one of a node',
    );
  }
  if (leaf.keyUsage?.has('digitalSignature') !== true)
    throw refused('unable to generate challenge: certificate not intended for digital signature use');
  const type = keyTypeOfSpki(leaf.spki);
  if (type !== undefined) return type;
  throw refused(
    `unable to generate challenge: unsupported public key type "${describeKey(leaf.spki)}"; expected one of ${keyTypes.join(', ')}`,
  );
}

function parseCertificate(der: Uint8Array, what: string): Certificate {
  try {
    return Certificate.parse(der);
  } catch (error) {
    throw new AppError('invalid-argument', `unable to parse ${what}: ${errorText(error)}`);
  }
}

/** SPIRE's users search for texts that start with the plugin's name. */
async function inItsName<T>(step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    if (!isAppError(error)) throw error;
    const { code, reason, cause, message } = error;
    const options = { ...(reason === undefined ? {} : { reason }), cause };
    throw new AppError(code, `nodeattestor(x509pop): ${message}`, options);
  }
}

function refused(message: string): AppError {
  return new AppError('permission-denied', message);
}

/** The agent's half: shows the node's certificate and signs the server's challenge with its key. */
export class X509popAgentAttestor implements AgentNodeAttestor {
  readonly #config: X509popAgentConfig;
  #key: KeyObject | undefined;

  constructor(config: X509popAgentConfig) {
    this.#config = config;
  }

  /** Reads the files at each call: a certificate that was renewed counts at once. Throws `failed-precondition`. */
  async payload(): Promise<Uint8Array> {
    const { certFile, intermediatesFile } = this.#config;
    const chain = await readCertificates('certFile', certFile);
    if (intermediatesFile !== undefined)
      chain.push(...(await readCertificates('intermediatesFile', intermediatesFile)));
    if (chain.length > maxCertificates)
      throw unusable(
        'certFile',
        `with its intermediates ${chain.length} certificates; at most ${maxCertificates}`,
      );
    // The answer must be signed by the key of this very certificate, even if the files change in between.
    this.#key = await this.#readKey(chain[0]);
    return encodePayload(chain.map(({ der }) => der));
  }

  async answer(challenge: Uint8Array): Promise<Uint8Array> {
    const key = this.#key;
    if (key === undefined)
      throw new AppError('failed-precondition', 'x509pop: challenged before anything was shown');
    return respond(challenge, key);
  }

  async #readKey(leaf: Certificate | undefined): Promise<KeyObject> {
    const { certFile, keyFile } = this.#config;
    const pem = await readPrivateFile(keyFile);
    if (pem === undefined) throw unusable('keyFile', `there is no file "${keyFile}"`);
    const key = parseKey(pem, keyFile);
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    if (keyTypeOfSpki(spki) === undefined) {
      const kinds = keyTypes.join(', ');
      throw unusable(
        'keyFile',
        `"${keyFile}" has a key of kind "${describeKey(spki)}"; expected one of ${kinds}`,
      );
    }
    if (leaf?.spki.equals(spki) === true) return key;
    throw unusable('keyFile', `"${keyFile}" is not the key of the first certificate in "${certFile}"`);
  }
}

async function readCertificates(setting: string, path: string): Promise<Certificate[]> {
  try {
    return parsePemCertificates(await readFile(path, 'latin1'));
  } catch (error) {
    throw unusable(setting, `cannot use "${path}": ${errorText(error)}`);
  }
}

/** PKCS#8, PKCS#1 or SEC 1. The cause is dropped, since OpenSSL may quote what it read. */
function parseKey(pem: Buffer, path: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch {
    const fix = 'openssl pkey -in FILE -out NEW-FILE';
    throw unusable('keyFile', `"${path}" holds no private key as unencrypted PEM; convert it: ${fix}`);
  }
}

function unusable(setting: string, problem: string): AppError {
  return new AppError('failed-precondition', `nodeAttestor.x509pop.${setting}: ${problem}`);
}
