import type { Logger } from '../runtime/log.ts';
import { LogLimiter } from '../runtime/log-limiter.ts';
import type { Clock } from '../runtime/time.ts';

/** One version of a secret that more than one proxy refuses. */
export interface SharedRefusal {
  /** Fit to print. */
  readonly name: string;
  readonly version: string;
  /** The words of the latest proxy, fit to print. */
  readonly error: string;
  /** Process IDs of those that refuse it, the first one first. */
  readonly pids: readonly number[];
}

/** What a proxy has against a secret; texts are fit to print already. */
export interface Refusal {
  readonly name: string;
  /** Of the content: the same in whatever bytes it was tried. */
  readonly version: string;
  readonly error: string;
}

interface Refused {
  readonly name: string;
  error: string;
  /** Who refuses it. */
  readonly by: Map<object, number>;
  isReported: boolean;
}

/** More versions than anybody looks at; only the latest refused are followed. */
const maxVersions = 1_000;

/**
 * What several proxies refuse is no whim of one of them: something is wrong with the secret itself. It is said once in
 * the log, and in the health report for as long as it is so.
 */
export class SharedRefusals {
  /** Two processes of anybody can refuse what they like, take it, and refuse it again. */
  readonly #limitedLog: LogLimiter;
  readonly #byVersion = new Map<string, Refused>();

  constructor(deps: { readonly clock: Clock; readonly log: Logger }) {
    this.#limitedLog = new LogLimiter(deps);
  }

  /** `proxy` stands for the proxy; a second refusal of the same version by it changes only the words. */
  add(proxy: object, pid: number, { name, version, error }: Refusal): void {
    const known = this.#byVersion.get(version);
    const refused = known ?? { name, error, by: new Map<object, number>(), isReported: false };
    // To the end: the oldest one goes first.
    this.#byVersion.delete(version);
    this.#byVersion.set(version, refused);
    refused.error = error;
    refused.by.set(proxy, pid);
    if (refused.by.size > 1 && !refused.isReported) {
      refused.isReported = true;
      const fields = { resource: name, version, pids: [...refused.by.values()], refusal: error };
      this.#limitedLog.write('error', fields, 'several proxies refuse a secret');
    }
    const [oldest] = this.#byVersion.keys();
    if (this.#byVersion.size > maxVersions && oldest !== undefined) this.#byVersion.delete(oldest);
  }

  /** Nothing happens when this proxy does not refuse it. */
  remove(proxy: object, version: string): void {
    const refused = this.#byVersion.get(version);
    if (refused?.by.delete(proxy) === true && refused.by.size === 0) this.#byVersion.delete(version);
  }

  /** What more than one proxy refuses now. */
  list(): readonly SharedRefusal[] {
    return [...this.#byVersion]
      .filter(([, { by }]) => by.size > 1)
      .map(([version, { name, error, by }]) => ({ name, version, error, pids: [...by.values()] }));
  }
}
