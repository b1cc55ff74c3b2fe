import { describe, expect, it } from 'vitest';
import type { Caller } from '../../rpc/caller.ts';
import { FailureBudget } from '../../rpc/failure-budget.ts';
import { AppError, type ErrorCode } from '../../runtime/error.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { TestIdentity } from '../../testing/certificates.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { serverMethods } from '../../testing/service-definitions.ts';
import { CallLimiter, type CallLimitSettings, callLimits } from './call-limits.ts';

const batch = '/spire.api.server.svid.v1.SVID/BatchNewX509SVID';
const renew = '/spire.api.server.agent.v1.Agent/RenewAgent';
const postStatus = '/spire.api.server.agent.v1.Agent/PostStatus';
const attest = '/spire.api.server.agent.v1.Agent/AttestAgent';

const { certificate } = await TestIdentity.root('example.org');
const agent = (name: string): Caller => ({
  kind: 'svid',
  id: SpiffeId.parse(`spiffe://example.org/spire/agent/${name}`),
  certificate,
  address: '192.0.2.1:1',
});
const nobodyAt = (address: string): Caller => ({ kind: 'anonymous', address });
const csrs = (count: number) => ({ params: Array(count).fill({}) });

function setUp(settings: Partial<CallLimitSettings> = {}) {
  const clock = new FakeClock();
  const all = {
    signing: { perSecond: 100, totalPerSecond: 0 },
    postStatus: { perSecond: 10 },
    attestation: { failuresPerMinute: 6 },
    ...settings,
  };
  const failures = new FailureBudget(clock, { perMinute: all.attestation.failuresPerMinute });
  const limiter = new CallLimiter(all, { clock, failures });
  const admit = (caller: Caller, method: string, request: unknown = {}) =>
    limiter.admit({ caller, method, request });
  return { clock, admit };
}

/** Undefined when it may go on. */
function refusalOf(call: () => unknown): AppError | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}

describe('the limit on signing', () => {
  it('counts each CSR and each renewal, of one agent, over all its calls', async () => {
    const { clock, admit } = setUp();
    admit(agent('a'), batch, csrs(60));
    admit(agent('a'), batch, csrs(39));
    admit(agent('a'), renew);
    expect(refusalOf(() => admit(agent('a'), renew))).toMatchObject({
      code: 'resource-exhausted',
      retryAfterMs: 10,
      message: expect.stringContaining('limits.signing.perSecond'),
    });
    expect(refusalOf(() => admit(agent('a'), batch, csrs(50)))).toMatchObject({ retryAfterMs: 500 });
    expect(refusalOf(() => admit(agent('b'), batch, csrs(100)))).toBeUndefined();
    await clock.advance(500);
    expect(refusalOf(() => admit(agent('a'), batch, csrs(50)))).toBeUndefined();
  });

  it('lets a batch that is larger than the limit through, after a pause', async () => {
    const { clock, admit } = setUp();
    expect(refusalOf(() => admit(agent('a'), batch, csrs(500)))).toBeUndefined();
    expect(refusalOf(() => admit(agent('a'), batch, csrs(500)))).toMatchObject({ retryAfterMs: 5_000 });
    await clock.advance(5_000);
    expect(refusalOf(() => admit(agent('a'), batch, csrs(500)))).toBeUndefined();
  });

  it('counts a batch of none as one', () => {
    const { admit } = setUp({ signing: { perSecond: 1, totalPerSecond: 0 } });
    admit(agent('a'), batch, csrs(0));
    expect(refusalOf(() => admit(agent('a'), batch, csrs(0)))).toMatchObject({ code: 'resource-exhausted' });
  });

  it('can be switched off', () => {
    const { admit } = setUp({ signing: { perSecond: 0, totalPerSecond: 0 } });
    for (let i = 0; i < 100; i += 1) admit(agent('a'), batch, csrs(500));
  });

  it('can be one for all agents together, and charges nobody for what it refuses', async () => {
    const { clock, admit } = setUp({ signing: { perSecond: 100, totalPerSecond: 150 } });
    admit(agent('a'), batch, csrs(100));
    expect(refusalOf(() => admit(agent('b'), batch, csrs(100)))).toMatchObject({
      code: 'resource-exhausted',
      retryAfterMs: 334,
      message: expect.stringContaining('limits.signing.totalPerSecond'),
    });
    await clock.advance(334);
    expect(refusalOf(() => admit(agent('b'), batch, csrs(100)))).toBeUndefined();
    expect(refusalOf(() => admit(agent('c'), renew))).toMatchObject({ retryAfterMs: 6 });
  });

  it('has nothing to do with reports, which have their own', () => {
    const { admit } = setUp();
    admit(agent('a'), batch, csrs(100));
    for (let i = 0; i < 10; i += 1) admit(agent('a'), postStatus);
    expect(refusalOf(() => admit(agent('a'), postStatus))).toMatchObject({ retryAfterMs: 100 });
  });

  it('is not for the admin socket, and methods without a row have none', () => {
    const { admit } = setUp({ signing: { perSecond: 1, totalPerSecond: 0 } });
    for (let i = 0; i < 100; i += 1) {
      admit({ kind: 'local' }, batch, csrs(500));
      admit({ kind: 'local' }, attest);
      for (const path of ['/spire.api.server.entry.v1.Entry/ListEntries', 'constructor', '__proto__']) {
        expect(admit(agent('a'), path)).toBeUndefined();
      }
    }
  });
});

describe('the limits on attestation', () => {
  const failed = new AppError('invalid-argument', 'no such token');

  it('charge an address for failures only', async () => {
    const { clock, admit } = setUp();
    for (let i = 0; i < 100; i += 1) admit(nobodyAt(`192.0.2.1:${i}`), attest)?.();
    for (let i = 0; i < 6; i += 1) admit(nobodyAt(`192.0.2.1:${i}`), attest)?.(failed);
    expect(refusalOf(() => admit(nobodyAt('192.0.2.1:7'), attest))).toMatchObject({
      code: 'resource-exhausted',
      retryAfterMs: 10_000,
      message: expect.stringContaining('limits.attestation.failuresPerMinute'),
    });
    expect(refusalOf(() => admit(agent('a'), attest))).toMatchObject({ code: 'resource-exhausted' });
    admit(nobodyAt('192.0.2.2:1'), attest)?.();
    await clock.advance(10_000);
    expect(refusalOf(() => admit(nobodyAt('192.0.2.1:7'), attest))).toBeUndefined();
  });

  it.each<{ code: ErrorCode | 'none'; isCharged: boolean }>([
    { code: 'invalid-argument', isCharged: true },
    { code: 'permission-denied', isCharged: true },
    { code: 'failed-precondition', isCharged: true },
    { code: 'deadline-exceeded', isCharged: true },
    { code: 'cancelled', isCharged: true },
    { code: 'internal', isCharged: false },
    { code: 'unavailable', isCharged: false },
    { code: 'resource-exhausted', isCharged: false },
    { code: 'none', isCharged: false },
  ])('take $code for the failure of the caller: $isCharged', ({ code, isCharged }) => {
    const { admit } = setUp({ attestation: { failuresPerMinute: 1 } });
    admit(nobodyAt('192.0.2.1:1'), attest)?.(code === 'none' ? undefined : new AppError(code, ''));
    expect(refusalOf(() => admit(nobodyAt('192.0.2.1:1'), attest)) !== undefined).toBe(isCharged);
  });

  it('do not charge for our own faults that are no AppError', () => {
    const { admit } = setUp({ attestation: { failuresPerMinute: 1 } });
    admit(nobodyAt('192.0.2.1:1'), attest)?.(new TypeError('x is undefined'));
    expect(refusalOf(() => admit(nobodyAt('192.0.2.1:1'), attest))).toBeUndefined();
  });

  it('can be switched off', () => {
    const { admit } = setUp({ attestation: { failuresPerMinute: 0 } });
    for (let i = 0; i < 1_000; i += 1) admit(nobodyAt('192.0.2.1:1'), attest);
    for (let i = 0; i < 1_000; i += 1) admit(nobodyAt('192.0.2.1:1'), attest)?.(failed);
  });
});

it('the table of limits names methods that exist', async () => {
  const paths = (await serverMethods()).map(({ path }) => path);
  expect(Object.keys(callLimits).filter((path) => !paths.includes(path))).toEqual([]);
});
