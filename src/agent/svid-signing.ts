import type { ServerClient } from '../clients/server-client.ts';
import { AppError, errorText, isAppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import { askedWaitMs, type Clock } from '../runtime/time.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { buildCsr } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../x509/signature.ts';
import { type DueSvid, drawRenewalMs, type RenewalWindows } from './rotation-policy.ts';
import type { SvidCache } from './svid-cache.ts';
import type { HeldSvid } from './workload-view.ts';

/** CSRs in one call: small enough that the first identities are there soon, far below SPIRE's 500. */
const batchSize = 100;
/** The same for RSA keys, each of which takes up to seconds of a thread that others wait for. */
const slowBatchSize = 2;
const isSlow = ({ keyType }: DueSvid): boolean => keyType.startsWith('rsa');
/** When the server does not sign an RSA key, no new one is made for so long. */
const slowRetryMs = 30_000;

/** A batch is tried again this often when the server asks for a wait, and for a wait of at most so long. */
const maxWaits = 10;
const longestWaitMs = 5_000;

interface Deps {
  readonly client: () => Pick<ServerClient, 'batchNewX509Svid'>;
  readonly cache: SvidCache;
  readonly clock: Clock;
  readonly log: Logger;
}

/** When SVIDs are renewed. */
export interface SigningSettings {
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

/**
 * Has the server sign what the cache says is due, and puts only what every peer would accept into the cache. RSA keys
 * are made beside the rest, for which no round of the sync and no other kind of key waits.
 */
export class SvidSigning {
  readonly #deps: Deps;
  readonly #settings: SigningSettings;
  /** What the server refused in the last run, RSA keys apart. */
  readonly #failed = new Set<string>();
  /** The run that makes RSA keys, while there is one. */
  #slow: Promise<void> | undefined;
  /** What ended the last such run early. */
  #slowProblem: string | undefined;
  /** RSA keys that the server did not sign and that are still due. */
  readonly #slowFailures = new Map<string, { readonly atMs: number; readonly text: string }>();

  constructor(deps: Deps, settings: SigningSettings) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /**
   * Has the SVIDs signed that are due, and starts on those with RSA keys. Ends after the batch during which the time
   * came for something else, and returns whether everything has been tried. Throws `unavailable` with the first failure
   * when there were any, of RSA keys those of the last run that is over.
   */
  async signDue(signal: AbortSignal, isTimeUp: () => boolean = () => false): Promise<boolean> {
    const due = this.#deps.cache.due();
    const failures = this.#startSlow(due.filter(isSlow), signal);
    const quick = this.#failedLast(due.filter((one) => !isSlow(one)));
    this.#failed.clear();
    let start = 0;
    while (start < quick.length && !signal.aborted && (start === 0 || !isTimeUp())) {
      const batch = quick.slice(start, start + batchSize);
      start += batch.length;
      const failed = await this.#sign(batch, signal);
      for (const one of failed.keys()) this.#failed.add(keyOf(one));
      failures.push(...failed.values());
    }
    if (failures[0] !== undefined) {
      throw new AppError(
        'unavailable',
        `${failures.length} SVIDs could not be signed, the first: ${failures[0]}`,
      );
    }
    return start >= quick.length;
  }

  /** Else those that the server refuses, when they are many, would keep the rest from being tried. */
  #failedLast(due: readonly DueSvid[]): readonly DueSvid[] {
    const { false: others = [], true: failed = [] } = Object.groupBy(due, (one) =>
      this.#failed.has(keyOf(one)) ? 'true' : 'false',
    );
    return [...others, ...failed];
  }

  /** Resolves when nothing is made beside the rounds any more. */
  async settled(): Promise<void> {
    await this.#slow;
  }

  /** Starts a run unless there is one; returns what has failed until now. */
  #startSlow(due: readonly DueSvid[], signal: AbortSignal): string[] {
    const keys = new Set(due.map(keyOf));
    for (const key of this.#slowFailures.keys()) if (!keys.has(key)) this.#slowFailures.delete(key);
    const problems = due.length === 0 || this.#slowProblem === undefined ? [] : [this.#slowProblem];
    const failures = [...problems, ...[...this.#slowFailures.values()].map(({ text }) => text)];
    if (due.length > 0) {
      this.#slow ??= this.#signSlow(signal)
        .then(() => undefined, errorText)
        .then((problem) => {
          this.#slowProblem = problem;
          this.#slow = undefined;
        });
    }
    return failures;
  }

  /** Looks for what is due before each batch, since what has become urgent meanwhile goes first. */
  async #signSlow(signal: AbortSignal): Promise<void> {
    const { cache, clock } = this.#deps;
    while (!signal.aborted) {
      const triedMs = (one: DueSvid) => this.#slowFailures.get(keyOf(one))?.atMs ?? Number.NEGATIVE_INFINITY;
      const due = cache.due().filter((one) => isSlow(one) && triedMs(one) + slowRetryMs <= clock.now());
      const batch = due.slice(0, slowBatchSize);
      if (batch.length === 0) return;
      const failed = await this.#sign(batch, signal);
      for (const one of batch) {
        const text = failed.get(one);
        if (text === undefined) this.#slowFailures.delete(keyOf(one));
        else this.#slowFailures.set(keyOf(one), { atMs: clock.now(), text });
      }
    }
  }

  /** Signs one batch and puts what is good into the cache; returns what failed, and why. */
  async #sign(batch: readonly DueSvid[], signal: AbortSignal): Promise<ReadonlyMap<DueSvid, string>> {
    const { cache, log } = this.#deps;
    const requests = await Promise.all(batch.map((due) => this.#request(due)));
    const answers = await this.#answers(requests, signal);
    const held: HeldSvid[] = [];
    const failures = new Map<DueSvid, string>();
    for (const [i, request] of requests.entries()) {
      try {
        held.push(this.#checked(request, answers[i]));
      } catch (error) {
        failures.set(request.due, `${request.due.entry.spiffeId}: ${errorText(error)}`);
      }
    }
    cache.putSvids(held);
    cache.noteUnsigned([...failures.keys()]);
    for (const { svid, keyType } of held) {
      log.debug(
        { spiffeId: svid.id.toString(), keyType, expiresAt: new Date(svid.notAfterMs) },
        'SVID signed',
      );
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
    const key = await generatePrivateKey(due.keyType);
    const signer = createSoftwareSigner(key);
    const csr = await buildCsr({ signer, uris: [due.entry.spiffeId.toString()] });
    const privateKeyPem = key.export({ type: 'pkcs8', format: 'pem' }).toString();
    return { due, entryId: due.entry.id, csr, publicKey: signer.publicKey, privateKeyPem };
  }

  /** Nothing that a peer would refuse gets into the cache: profile, chain to our bundle, identity and key. */
  #checked(request: SigningRequest, answer: readonly Certificate[] | AppError | undefined): HeldSvid {
    const { cache, clock } = this.#deps;
    const { entry, keyType, reason } = request.due;
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
    return { entry, svid, keyType, privateKeyPem: request.privateKeyPem, issuedAtMs: nowMs, renewAtMs };
  }
}

function keyOf({ entry, keyType }: DueSvid): string {
  return `${keyType} ${entry.id}`;
}
