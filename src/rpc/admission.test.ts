import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { EntryService } from '../gen/spire/api/server/entry/v1/entry.ts';
import { AppError } from '../runtime/error.ts';
import { eventually } from '../testing/eventually.ts';
import { channelTo, sampleServices, startListener } from '../testing/grpc-listener.ts';
import { callServerStream, callUnary, openBidi } from './grpc-client.ts';
import type { AdmitCall } from './handlers.ts';

const { check, watch } = HealthService;
const sync = EntryService.syncAuthorizedEntries;

/** A listener whose limiter refuses requests that say `refuse`, and remembers what it is asked and told. */
async function start() {
  const asked: unknown[] = [];
  const ended: unknown[] = [];
  const handled: string[] = [];
  const admit: AdmitCall = ({ caller, method, request }) => {
    asked.push([caller.kind, method.slice(method.lastIndexOf('/') + 1), request]);
    const text = JSON.stringify(request);
    if (text.includes('refuse')) {
      throw new AppError('resource-exhausted', 'too many', { retryAfterMs: 1_500 });
    }
    return (error) => ended.push(error === undefined ? 'well' : (error as AppError).code);
  };
  const handle = (text: string) => {
    handled.push(text);
    if (text.includes('fail')) throw new AppError('invalid-argument', 'bad');
  };
  const services = sampleServices({
    check: async (text) => handle(text),
    async *watch(text) {
      yield handle(text);
    },
    sync: async (ids, { signal }) => {
      handle(ids.join());
      if (ids.includes('wait')) await once(signal, 'abort');
    },
  });
  const listener = await startListener({ services, admit });
  return { channel: channelTo(listener), listener, asked, ended, handled };
}

const refusal = { code: 'resource-exhausted', message: 'too many', retryAfterMs: 1_500 };

describe('a limiter of calls', () => {
  it('sees each request before its handler does, and how the call ends', async () => {
    const { channel, asked, ended, handled } = await start();
    await callUnary(channel, check, { service: 'a' });
    await expect(callUnary(channel, check, { service: 'fail' })).rejects.toMatchObject({ message: 'bad' });
    await expect(callUnary(channel, check, { service: 'refuse' })).rejects.toMatchObject(refusal);
    expect(asked).toEqual(['a', 'fail', 'refuse'].map((service) => ['local', 'Check', { service }]));
    expect({ ended, handled }).toEqual({ ended: ['well', 'invalid-argument'], handled: ['a', 'fail'] });
  });

  it('sees the request of a stream', async () => {
    const { channel, ended, handled } = await start();
    for await (const _ of callServerStream(channel, watch, { service: 'a' }));
    const refused = callServerStream(channel, watch, { service: 'refuse' });
    await expect(refused.next()).rejects.toMatchObject(refusal);
    expect({ ended, handled }).toEqual({ ended: ['well'], handled: ['a'] });
  });

  it('sees the first message of a stream in both directions, and none before it has come', async () => {
    const { channel, asked, ended, handled } = await start();
    const call = openBidi(channel, sync);
    const refused = openBidi(channel, sync);
    refused.send({ outputMask: undefined, ids: ['refuse'] });
    await expect(refused.next()).rejects.toMatchObject(refusal);
    expect(asked).toHaveLength(1);
    for (const id of ['one', 'refuse no more']) {
      call.send({ outputMask: undefined, ids: [id] });
      await call.next();
    }
    call.conclude();
    await eventually(() => expect(ended).toEqual(['well']));
    expect({ asked: asked.length, handled }).toEqual({ asked: 2, handled: ['one', 'refuse no more'] });
  });

  it('takes a caller who leaves for one who failed', async () => {
    const { channel, ended, handled } = await start();
    const call = openBidi(channel, sync);
    call.send({ outputMask: undefined, ids: ['wait'] });
    await eventually(() => expect(handled).toEqual(['wait']));
    call.cancel();
    await eventually(() => expect(ended).toEqual(['cancelled']));
  });
});

describe('a method without a handler', () => {
  it('says why to who may call it, and nothing to others', async () => {
    const services = sampleServices({});
    const missing = { [check.path]: 'checks are not made yet; use your eyes' };
    const open = channelTo(await startListener({ services, missing }));
    await expect(callUnary(open, check, { service: '' })).rejects.toMatchObject({
      code: 'unimplemented',
      message: missing[check.path],
    });
    await expect(callServerStream(open, watch, { service: '' }).next()).rejects.toMatchObject({
      code: 'unimplemented',
      message: `${watch.path} is not implemented`,
    });
    const authorize = () => {
      throw new AppError('permission-denied', 'not you');
    };
    const shut = channelTo(await startListener({ services, missing, authorize }));
    const refused = { code: 'permission-denied', message: 'not you' };
    await expect(callUnary(shut, check, { service: '' })).rejects.toMatchObject(refused);
    await expect(callServerStream(shut, watch, { service: '' }).next()).rejects.toMatchObject(refused);
    const stream = openBidi(shut, sync);
    await expect(stream.next()).rejects.toMatchObject(refused);
  });
});
