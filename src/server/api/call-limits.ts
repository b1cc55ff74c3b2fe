import type { BatchNewX509SVIDRequest } from '../../gen/spire/api/server/svid/v1/svid.ts';
import { type Caller, callerText } from '../../rpc/caller.ts';
import type { FailureBudget } from '../../rpc/failure-budget.ts';
import type { AdmitCall } from '../../rpc/handlers.ts';
import { TokenBuckets } from '../../rpc/token-buckets.ts';
import { AppError, type ErrorCode } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';

/** How much of what is allowed, as in the settings; 0 = no limit. */
export interface CallLimitSettings {
  readonly signing: { readonly perSecond: number; readonly totalPerSecond: number };
  readonly postStatus: { readonly perSecond: number };
  readonly attestation: { readonly failuresPerMinute: number };
}

/** A limit of one identity, which costs as much as `costOf` says, else 1; or that of the failed attestations of one address. */
type Limit =
  | {
      readonly per: 'identity';
      readonly of: 'signing' | 'postStatus';
      readonly costOf?: (request: never) => number;
    }
  | { readonly per: 'address'; readonly of: 'attestation' };

/** Which method is limited by what. A method that is not here is not limited; the admin socket never is. */
export const callLimits: Readonly<Record<string, Limit>> = {
  '/spire.api.server.svid.v1.SVID/BatchNewX509SVID': {
    per: 'identity',
    of: 'signing',
    costOf: ({ params }: BatchNewX509SVIDRequest) => params.length,
  },
  '/spire.api.server.agent.v1.Agent/RenewAgent': { per: 'identity', of: 'signing' },
  '/spire.api.server.agent.v1.Agent/PostStatus': { per: 'identity', of: 'postStatus' },
  '/spire.api.server.agent.v1.Agent/AttestAgent': { per: 'address', of: 'attestation' },
};

const allAgents = 'all';

/** What is not the caller's fault, and so not charged to its address. */
const ourFaults: ReadonlySet<ErrorCode> = new Set([
  'internal',
  'unavailable',
  'resource-exhausted',
  'aborted',
]);

/**
 * Holds callers to the table. An agent has a bucket for itself, by the identity it has proved. Who has none yet is
 * counted by address, and only for what fails: many honest agents may share one.
 */
export class CallLimiter {
  readonly #settings: CallLimitSettings;
  readonly #failures: FailureBudget;
  readonly #buckets: Readonly<Record<'signing' | 'postStatus', TokenBuckets>>;
  /** One bucket for all signatures. */
  readonly #total: TokenBuckets;

  constructor(
    settings: CallLimitSettings,
    deps: { readonly clock: Clock; readonly failures: FailureBudget },
  ) {
    this.#settings = settings;
    this.#failures = deps.failures;
    const bucketsOf = ({ perSecond }: { readonly perSecond: number }) =>
      new TokenBuckets(deps.clock, { perSecond, burst: perSecond });
    this.#total = bucketsOf({ perSecond: settings.signing.totalPerSecond });
    this.#buckets = { signing: bucketsOf(settings.signing), postStatus: bucketsOf(settings.postStatus) };
  }

  /** Throws `resource-exhausted` with the time after which to try again. */
  readonly admit: AdmitCall = ({ caller, method, request }) => {
    const limit = Object.hasOwn(callLimits, method) ? callLimits[method] : undefined;
    if (limit === undefined || caller.kind === 'local') return undefined;
    if (limit.per === 'address') return this.#admitAttestation(caller);
    const cost = limit.costOf?.(request as never) ?? 1;
    this.#spend(limit.of, caller, Math.max(1, cost));
    return undefined;
  };

  #spend(of: 'signing' | 'postStatus', caller: Caller, cost: number): void {
    const identity = caller.kind === 'svid' ? caller.id.toString() : callerText(caller);
    const { perSecond } = this.#settings[of];
    const waitMs = this.#buckets[of].waitMs(identity, cost);
    if (waitMs > 0) {
      throw exhausted(
        `at most ${perSecond} requests per second for one agent (limits.${of}.perSecond)`,
        waitMs,
      );
    }
    // Nobody is charged for what the other limit refuses.
    if (of === 'signing') this.#spendTotal(cost);
    this.#buckets[of].spend(identity, cost);
  }

  #spendTotal(cost: number): void {
    const waitMs = this.#total.take(allAgents, cost);
    if (waitMs === 0) return;
    const { totalPerSecond } = this.#settings.signing;
    throw exhausted(
      `at most ${totalPerSecond} signatures per second for all agents together (limits.signing.totalPerSecond)`,
      waitMs,
    );
  }

  #admitAttestation(caller: Caller): (error?: unknown) => void {
    const { failuresPerMinute } = this.#settings.attestation;
    const address = 'address' in caller ? caller.address : '';
    const waitMs = this.#failures.waitMs(address);
    if (waitMs > 0) {
      const limit = `${failuresPerMinute} in a minute (limits.attestation.failuresPerMinute)`;
      throw exhausted(`too many attempts from this address have failed, more than ${limit}`, waitMs);
    }
    return (error) => {
      if (isCallersFault(error)) this.#failures.charge(address);
    };
  }
}

function isCallersFault(error: unknown): boolean {
  return error instanceof AppError && !ourFaults.has(error.code);
}

function exhausted(why: string, waitMs: number): AppError {
  const retryAfterMs = Math.ceil(waitMs);
  return new AppError('resource-exhausted', `${why}; try again in ${(retryAfterMs / 1000).toFixed(1)} s`, {
    retryAfterMs,
  });
}
