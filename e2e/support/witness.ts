import { setTimeout as sleep } from 'node:timers/promises';
import { verifyX509Svid } from '../../src/spiffe/x509-svid.ts';
import type { Certificate } from '../../src/x509/certificate.ts';
import { buildCsr } from '../../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../../src/x509/signature.ts';
import type { SignetServer } from './signet.ts';

/** A leaf with what stands above it, and the root below which it was when it was issued. */
interface Issued {
  readonly chain: readonly Certificate[];
  readonly root: Certificate;
}

/**
 * Fetches the trust bundle and then has a certificate made, over and over, whenever the server answers: a peer that
 * has had the bundle just before must accept it.
 */
export class Witness {
  readonly #server: SignetServer;
  readonly #csr: Uint8Array;
  readonly #issued: Issued[] = [];
  readonly #problems: string[] = [];
  #rounds = 0;
  #isOn = true;
  #end: Promise<void> = Promise.resolve();

  private constructor(server: SignetServer, csr: Uint8Array) {
    this.#server = server;
    this.#csr = csr;
  }

  static async start(server: SignetServer): Promise<Witness> {
    const signer = createSoftwareSigner(await generatePrivateKey('ec-p256'));
    const csr = await buildCsr({ signer, uris: [`spiffe://${server.trustDomain}/witness`] });
    const witness = new Witness(server, csr);
    witness.#end = witness.#run();
    return witness;
  }

  /** All that was issued. */
  get issued(): readonly Issued[] {
    return this.#issued;
  }

  /** What no peer would have accepted, and why. */
  get problems(): readonly string[] {
    return this.#problems;
  }

  /** Waits for a certificate that was asked for, bundle first, after this call. */
  async wholeRound(): Promise<void> {
    // One may be under way.
    const goal = this.#rounds + 2;
    await this.#server.process.until('a certificate', () => this.#rounds >= goal);
  }

  async stop(): Promise<void> {
    this.#isOn = false;
    await this.#end;
  }

  async #run(): Promise<void> {
    while (this.#isOn) {
      // No server, or one that cannot sign yet, is no problem here.
      await this.#round().catch(() => undefined);
      await sleep(25);
    }
  }

  async #round(): Promise<void> {
    const { bundle, chain } = await this.#server.call(async ({ bundles, svids }, signal) => ({
      bundle: await bundles.getOwn({ signal }),
      chain: await svids.mintX509({ csr: this.#csr, ttlSeconds: 3_600, signal }),
    }));
    this.#rounds += 1;
    try {
      verifyX509Svid({ chain, bundles: () => bundle, nowMs: Date.now() });
      const root = bundle.certificates().find((one) => chain.at(-1)?.verifySignedBy(one) === true);
      if (root !== undefined) this.#issued.push({ chain, root });
    } catch (error) {
      this.#problems.push(String(error));
    }
  }
}
