import type { ServerClient } from '../clients/server-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import { askedWaitMs, type Clock } from '../runtime/time.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../x509/signature.ts';
import { type DueSvid, drawRenewalMs, type RenewalWindows } from './rotation-policy.ts';
import type { SvidCache } from './svid-cache.ts';
import type { HeldSvid } from './workload-view.ts';

/**
 * CSRs in one call: small enough that the first identities are there soon, far below SPIRE's 500. An RSA key takes up
 * to seconds of a thread that others wait for.
 */
const batchSizeOf = (type: KeyType): number => (type.startsWith('rsa') ? 2 : 100);

/** A batch is tried again this often when the server asks for a wait, and for a wait of at most so long. */
const maxWaits = 10;
const longestWaitMs = 5_000;

interface Deps {
  readonly client: () => ServerClient;
  readonly cache: SvidCache;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Which keys SVIDs get, and when they are renewed. */
export interface SigningSettings {
  readonly keyType: KeyType;
  readonly windows: RenewalWindows;
}

/** A CSR on its way, and the key that must come back signed. */
interface SigningRequest {
  readonly due: DueSvid;
  readonly entryId: string;
  readonly csr: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly privateKeyPem: string;
}

/** Has the server sign what the cache says is due, and puts only what every peer would accept into the cache. */
export class SvidSigning {
  readonly #deps: Deps;
  readonly #settings: SigningSettings;

  constructor(deps: Deps, settings: SigningSettings) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /** Has all SVIDs signed that are due; throws `unavailable` with the first failure when there were any. */
  async signDue(signal: AbortSignal): Promise<void> {
    const due = this.#deps.cache.due();
    const failures: string[] = [];
    const batchSize = batchSizeOf(this.#settings.keyType);
    for (let start = 0; start < due.length && !signal.aborted; start += batchSize) {
      failures.push(...(await this.#sign(due.slice(start, start + batchSize), signal)));
    }
    if (failures[0] !== undefined) {
      throw new AppError(
        'unavailable',
        `${failures.length} SVIDs could not be signed, the first: ${failures[0]}`,
      );
    }
  }

  /** Signs one batch and puts what is good into the cache; returns what failed. */
  async #sign(batch: readonly DueSvid[], signal: AbortSignal): Promise<readonly string[]> {
    const { cache, log } = this.#deps;
    const requests = await Promise.all(batch.map((due) => this.#request(due)));
    const answers = await this.#answers(requests, signal);
    const held: HeldSvid[] = [];
    const failures: string[] = [];
    for (const [i, request] of requests.entries()) {
      try {
        held.push(this.#checked(request, answers[i]));
      } catch (error) {
        failures.push(`${request.due.entry.spiffeId}: ${errorText(error)}`);
      }
    }
    cache.putSvids(held);
    for (const { svid } of held) {
      log.debug({ spiffeId: svid.id.toString(), expiresAt: new Date(svid.notAfterMs) }, 'SVID signed');
    }
    return failures;
  }

  /** A short wait that the server asks for, such as for its limit on signing, belongs to the work. */
  async #answers(requests: readonly SigningRequest[], signal: AbortSignal) {
    const { client, clock } = this.#deps;
    for (let waits = 0; ; waits += 1) {
      try {
        return await client().batchNewX509Svid(requests, { signal });
      } catch (error) {
        const waitMs = isAppError(error, 'resource-exhausted') ? askedWaitMs(error) : 0;
        if (waitMs === 0 || waitMs > longestWaitMs || waits === maxWaits) throw error;
        await clock.sleep(waitMs, signal);
      }
    }
  }

  /** A new key for each certificate. */
  async #request(due: DueSvid): Promise<SigningRequest> {
    const key = await generatePrivateKey(this.#settings.keyType);
    const signer = createSoftwareSigner(key);
    const csr = await buildCsr({ signer, uris: [due.entry.spiffeId.toString()] });
    const privateKeyPem = key.export({ type: 'pkcs8', format: 'pem' }).toString();
    return { due, entryId: due.entry.id, csr, publicKey: signer.publicKey, privateKeyPem };
  }

  /** Nothing that a peer would refuse gets into the cache: profile, chain to our bundle, identity and key. */
  #checked(request: SigningRequest, answer: readonly Certificate[] | AppError | undefined): HeldSvid {
    const { cache, clock } = this.#deps;
    const { entry, reason } = request.due;
    if (answer === undefined) throw new AppError('internal', 'the server left out an answer');
    if (answer instanceof AppError) throw answer;
    const nowMs = clock.now();
    const svid = verifyX509Svid({
      chain: answer,
      bundles: () => cache.bundle,
      nowMs,
    });
    if (!svid.id.equals(entry.spiffeId)) {
      throw new AppError('internal', `the server signed the identity "${svid.id}" instead`);
    }
    if (svid.chain[0] === undefined || Buffer.compare(svid.chain[0].spki, request.publicKey) !== 0) {
      throw new AppError('internal', 'the server signed another key than the one it was asked for');
    }
    const renewAtMs = drawRenewalMs({
      issuedAtMs: nowMs,
      notAfterMs: svid.notAfterMs,
      isFirst: reason !== 'renewal',
      windows: this.#settings.windows,
    });
    return { entry, svid, privateKeyPem: request.privateKeyPem, issuedAtMs: nowMs, renewAtMs };
  }
}
