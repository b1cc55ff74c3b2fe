import { type Check, HealthService, State } from '../gen/signet/health/v1/health.ts';
import { version } from '../runtime/version.ts';
import { serviceOf, unary } from './handlers.ts';

/** One thing that can be well or not, and what to do about it. */
export interface HealthCheck {
  readonly name: string;
  readonly state: 'ok' | 'degraded' | 'not-ready';
  readonly message: string;
  /** Empty when nothing is to do. */
  readonly nextStep?: string;
}

const wireState = { ok: State.OK, degraded: State.DEGRADED, 'not-ready': State.NOT_READY } as const;

/** `signet.health.v1.Health`: how this process is, found out anew with each call. */
export function healthApi(process: {
  readonly role: 'server' | 'agent';
  readonly trustDomain: string;
  readonly startedAtMs: number;
  readonly checks: () => Promise<readonly HealthCheck[]>;
}) {
  return serviceOf(HealthService, {
    getHealth: unary(async () => {
      const checks: Check[] = (await process.checks()).map((check) => ({
        name: check.name,
        state: wireState[check.state],
        message: check.message,
        nextStep: check.nextStep ?? '',
      }));
      return {
        role: process.role,
        version,
        trustDomain: process.trustDomain,
        startedAt: BigInt(Math.floor(process.startedAtMs / 1000)),
        state: checks.reduce<State>((worst, check) => (check.state > worst ? check.state : worst), State.OK),
        checks,
      };
    }),
  });
}
