import type { Logger } from '../../runtime/log.ts';
import { LogLimiter } from '../../runtime/log-limiter.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { chainProblem, pathProblem } from './chain-check.ts';
import type { CertificateResource, ServedResource, TrustResource } from './resource.ts';
import { secretProblem } from './secret-check.ts';
import { secretBytes } from './secrets.ts';

/** What is wrong, as of any moment from `fromMs` to just before `untilMs`. */
interface Verdict {
  readonly problem: string | undefined;
  readonly fromMs: number;
  readonly untilMs: number;
}

/**
 * Checks every secret before it may be sent, since what Envoy makes of a bad one is anything from refusing good ones to
 * letting everybody in (envoy-sds.md §1.7). Verdicts are kept with the objects they are about, so that thousands of
 * streams cost one check; what depends on the time is looked at again when a certificate begins or ends.
 */
export class Preflight {
  readonly #clock: Clock;
  readonly #limitedLog: LogLimiter;
  readonly #verdicts = new WeakMap<ServedResource, { readonly problem: string | undefined }>();
  readonly #paths = new WeakMap<CertificateResource, WeakMap<TrustResource, Verdict>>();
  #failures = 0;
  #latest: string | undefined;

  constructor(deps: { readonly clock: Clock; readonly log: Logger }) {
    this.#clock = deps.clock;
    this.#limitedLog = new LogLimiter(deps);
  }

  /** How many checks have failed since the start; each state of an object counts once. */
  get failures(): number {
    return this.#failures;
  }

  /** The problem that was found last. */
  get latest(): string | undefined {
    return this.#latest;
  }

  /** What is wrong with a certificate for callers who are served these anchors of its trust domain. */
  certificateProblem(resource: CertificateResource, own: TrustResource): string | undefined {
    return this.#ownProblem(resource) ?? this.#pathProblem(resource, own);
  }

  /** What is wrong with a validation context. */
  trustProblem(resource: TrustResource): string | undefined {
    return this.#ownProblem(resource);
  }

  /** Counts and logs what was found wrong; to be called once for each state of an object. */
  note(fields: object, problem: string): void {
    this.#failures += 1;
    this.#latest = problem;
    this.#limitedLog.write('error', { ...fields, problem }, 'secret is unfit; it is not sent to any proxy');
  }

  #ownProblem(resource: ServedResource): string | undefined {
    const known = this.#verdicts.get(resource);
    if (known !== undefined) return known.problem;
    const problem =
      (resource.kind === 'certificate' ? chainProblem(resource.held.svid.chain) : undefined) ??
      // A name takes no part in this: it is checked again, with its name, whenever a secret is encoded.
      secretProblem(secretBytes('', resource), '', resource);
    this.#verdicts.set(resource, { problem });
    if (problem !== undefined) this.note(subject(resource), problem);
    return problem;
  }

  #pathProblem(resource: CertificateResource, own: TrustResource): string | undefined {
    const nowMs = this.#clock.now();
    const verdicts = this.#paths.get(resource) ?? new WeakMap<TrustResource, Verdict>();
    this.#paths.set(resource, verdicts);
    const known = verdicts.get(own);
    if (known !== undefined && known.fromMs <= nowMs && nowMs < known.untilMs) return known.problem;
    const problem = pathProblem(resource.held.svid, own, nowMs);
    const anchors = own.domains.flatMap(({ certificates }) => certificates);
    verdicts.set(own, { problem, ...steadyTime([...resource.held.svid.chain, ...anchors], nowMs) });
    if (problem !== undefined && problem !== known?.problem) this.note(subject(resource), problem);
    return problem;
  }
}

/** The longest time around now in which none of the certificates begins or ends. */
function steadyTime(
  certificates: readonly Certificate[],
  nowMs: number,
): Pick<Verdict, 'fromMs' | 'untilMs'> {
  // notAfter is the last valid millisecond.
  const turns = certificates.flatMap(({ notBeforeMs, notAfterMs }) => [notBeforeMs, notAfterMs + 1]);
  return {
    fromMs: Math.max(Number.NEGATIVE_INFINITY, ...turns.filter((turn) => turn <= nowMs)),
    untilMs: Math.min(Number.POSITIVE_INFINITY, ...turns.filter((turn) => turn > nowMs)),
  };
}

function subject(resource: ServedResource): object {
  if (resource.kind === 'trust') {
    return { trustDomains: resource.domains.slice(0, 5).map(({ trustDomain }) => trustDomain) };
  }
  const { entry, svid } = resource.held;
  return { spiffeId: svid.id.toString(), entryId: entry.id, serial: svid.leaf.serialHex };
}
