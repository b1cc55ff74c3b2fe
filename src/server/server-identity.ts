import type { TlsIdentity } from '../rpc/tls-listener.ts';
import { errorText } from '../runtime/error.ts';
import type { Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import { Observable } from '../runtime/observable.ts';
import { Backoff, type Clock } from '../runtime/time.ts';
import { Certificate } from '../x509/certificate.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../x509/signature.ts';
import type { Authority } from './authority/authority.ts';
import type { BundleKeeper } from './bundles/bundle-keeper.ts';

/** Timers do not run while a machine is suspended, certificates do expire: the wall clock is looked at this often. */
const longestWaitMs = 10_000;

interface Deps {
  readonly authority: Authority;
  readonly bundles: BundleKeeper;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The server's own X.509-SVID: a key of its own in memory, signed anew at half of its life and whenever another
 * root takes over, so that the listener never presents a certificate of a root that is about to go.
 */
export class ServerIdentity implements Service {
  readonly name = 'server identity';
  readonly #deps: Deps;
  readonly #settings: { readonly keyType: KeyType; readonly ttlMs: number };
  readonly #tls = new Observable<TlsIdentity | undefined>(undefined);

  constructor(deps: Deps, settings: { readonly keyType: KeyType; readonly ttlMs: number }) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /** Defined from the moment the service is ready. */
  get tls(): Observable<TlsIdentity | undefined> {
    return this.#tls;
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { authority, bundles, clock, log } = this.#deps;
    const backoff = new Backoff({ baseMs: 200, capMs: 10_000 });
    let wake = new AbortController();
    let isOutdated = false;
    const stopWatching = [
      // Also while a certificate is being made, which then may still be of the root before.
      authority.active.subscribe(() => {
        isOutdated = true;
        wake.abort();
      }),
      bundles.own.subscribe(() => {
        const tls = this.#tls.value;
        if (tls !== undefined) this.#tls.set({ ...tls, clientCaPem: bundles.own.value.toPem() });
      }),
    ];
    let renewAtMs = await this.#renew();
    ready();
    while (!signal.aborted) {
      const waitMs = Math.min(longestWaitMs, Math.max(0, renewAtMs - clock.now()));
      if (!isOutdated) await clock.sleep(waitMs, AbortSignal.any([signal, wake.signal]));
      if (signal.aborted) break;
      wake = new AbortController();
      if (!isOutdated && clock.now() < renewAtMs) continue;
      try {
        isOutdated = false;
        renewAtMs = await this.#renew();
        backoff.reset();
      } catch (error) {
        log.error(
          { error: errorText(error) },
          'the server cannot renew its own certificate; it is tried again',
        );
        renewAtMs = clock.now() + backoff.nextMs();
      }
    }
    for (const stop of stopWatching) stop();
  }

  /** Signs a new certificate; returns when the next one is due, Unix ms. */
  async #renew(): Promise<number> {
    const { authority, bundles, clock } = this.#deps;
    const key = await generatePrivateKey(this.#settings.keyType);
    const signer = createSoftwareSigner(key);
    const svid = await authority.signServerSvid({ spki: signer.publicKey, ttlMs: this.#settings.ttlMs });
    this.#tls.set({
      certificateChainPem: svid.chain.map((der) => Certificate.parse(der).toPem()).join(''),
      privateKeyPem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
      clientCaPem: bundles.own.value.toPem(),
    });
    return clock.now() + (svid.notAfterMs - clock.now()) / 2;
  }
}
