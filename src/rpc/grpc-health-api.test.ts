import { describe, expect, it } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { LoggerService } from '../gen/spire/api/server/logger/v1/logger.ts';
import { AppError } from '../runtime/error.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { callServerStream, callUnary } from './grpc-client.ts';
import { grpcHealthApi } from './grpc-health-api.ts';
import { serviceOf } from './handlers.ts';
import type { HealthCheck } from './health-api.ts';

const loggerName = 'spire.api.server.logger.v1.Logger';
const [serving, notServing, unknown] = [{ status: 1 }, { status: 2 }, { status: 3 }];

async function start(openWatch?: () => { close(): void }) {
  const clock = new FakeClock();
  const state: { now: HealthCheck['state'] | Error; asked: number } = { now: 'ok', asked: 0 };
  const health = grpcHealthApi({
    services: [serviceOf(LoggerService, {})],
    checks: async () => {
      state.asked += 1;
      if (state.now instanceof Error) throw state.now;
      return [
        { name: 'a', state: 'ok', message: '' },
        { name: 'b', state: state.now, message: '' },
      ];
    },
    clock,
    ...(openWatch && { openWatch }),
  });
  const channel = channelTo(await startListener({ services: [health] }));
  const check = (service = '') => callUnary(channel, HealthService.check, { service });
  const watch = (service = '') => callServerStream(channel, HealthService.watch, { service });
  return { channel, clock, state, check, watch };
}

describe('a health check', () => {
  it.each([
    { name: 'ok', now: 'ok' as const, expected: serving },
    { name: 'degraded', now: 'degraded' as const, expected: serving },
    { name: 'not ready', now: 'not-ready' as const, expected: notServing },
    { name: 'not to be found out', now: new Error('broken'), expected: notServing },
  ])('of what is $name', async ({ now, expected }) => {
    const { state, check } = await start();
    state.now = now;
    expect(await check()).toEqual(expected);
    expect(await check(loggerName)).toEqual(expected);
    expect(await check('grpc.health.v1.Health')).toEqual(expected);
  });

  it('of a service that is not here is not found', async () => {
    const { check } = await start();
    await expect(check('no.such.Service')).rejects.toMatchObject({ code: 'not-found' });
  });

  it('lists all services', async () => {
    const { channel } = await start();
    expect(await callUnary(channel, HealthService.list, {})).toEqual({
      statuses: { '': serving, [loggerName]: serving, 'grpc.health.v1.Health': serving },
    });
  });

  it('costs no more than one look in a second, however many ask', async () => {
    const { clock, state, check } = await start();
    await Promise.all(Array.from({ length: 50 }, () => check()));
    expect(state.asked).toBe(1);
    state.now = 'not-ready';
    expect(await check()).toEqual(serving);
    await clock.advance(1_000);
    expect(await check()).toEqual(notServing);
    expect(state.asked).toBe(2);
  });
});

describe('a health watch', () => {
  it('says how it is at once, and each change once', async () => {
    const { clock, state, watch } = await start();
    const [one, other] = [watch(), watch(loggerName)];
    expect([(await one.next()).value, (await other.next()).value]).toEqual([serving, serving]);
    const changes = [one.next(), other.next()];
    await clock.advance(5_000);
    state.now = 'not-ready';
    await clock.advance(1_000);
    expect((await Promise.all(changes)).map(({ value }) => value)).toEqual([notServing, notServing]);
    state.now = 'ok';
    const back = one.next();
    await clock.advance(1_000);
    expect((await back).value).toEqual(serving);
    await Promise.all([one.return(), other.return()]);
    await eventually(async () => {
      await clock.advance(1_000);
      expect(clock.sleepers).toBeLessThanOrEqual(1);
    });
    const { asked } = state;
    await clock.advance(10_000);
    expect(state.asked).toBe(asked);
    expect((await watch().next()).value).toEqual(serving);
  });

  it('of a service that is not here says so and stays', async () => {
    const { watch } = await start();
    const stream = watch('no.such.Service');
    expect((await stream.next()).value).toEqual(unknown);
    await stream.return();
  });

  it('is counted for its caller, and given back', async () => {
    const open = { now: 0 };
    const { watch } = await start(() => {
      if (open.now === 1) throw new AppError('resource-exhausted', 'too many streams');
      open.now += 1;
      return {
        close: () => {
          open.now -= 1;
        },
      };
    });
    const first = watch();
    await first.next();
    await expect(watch().next()).rejects.toMatchObject({ code: 'resource-exhausted' });
    await first.return();
    await eventually(() => expect(open.now).toBe(0));
    expect((await watch().next()).value).toEqual(serving);
  });
});
