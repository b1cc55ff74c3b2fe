import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { AppError } from './error.ts';
import { runServices, type Service } from './lifecycle.ts';
import { createLogger, silentLogger } from './log.ts';

/** Writes what it does into `events`; hooks change one step of its life. */
function service(
  name: string,
  events: string[],
  hooks: {
    readonly start?: () => Promise<void>;
    readonly serve?: Promise<void>;
    readonly stop?: () => Promise<void>;
  } = {},
): Service {
  return {
    name,
    async run(signal, ready) {
      events.push(`${name} starting`);
      await hooks.start?.();
      events.push(`${name} ready`);
      ready();
      const aborted = new Promise<void>((resolve) => {
        if (signal.aborted) resolve();
        signal.addEventListener('abort', () => resolve());
      });
      await Promise.race([aborted, hooks.serve ?? aborted]);
      if (!signal.aborted) return;
      events.push(`${name} stopping`);
      await hooks.stop?.();
      events.push(`${name} stopped`);
    },
  };
}

const life = (...names: string[]) => names.flatMap((name) => [`${name} starting`, `${name} ready`]);
const death = (...names: string[]) => names.flatMap((name) => [`${name} stopping`, `${name} stopped`]);
const never = new Promise<void>(() => undefined);

function setUp() {
  const events: string[] = [];
  const stop = new AbortController();
  const ready = Promise.withResolvers<void>();
  const clock = new FakeClock();
  const options = { signal: stop.signal, log: silentLogger, clock, onReady: () => ready.resolve() };
  return { events, stop, ready: ready.promise, clock, options };
}

describe('running services', () => {
  it('starts them one after another, and stops them one after another in reverse', async () => {
    const { events, stop, ready, options } = setUp();
    const done = runServices([service('a', events), service('b', events), service('c', events)], options);
    await ready;
    expect(events).toEqual(life('a', 'b', 'c'));
    stop.abort();
    await done;
    expect(events).toEqual([...life('a', 'b', 'c'), ...death('c', 'b', 'a')]);
  });

  it('stops those that run when a later one fails to start, and rethrows its error', async () => {
    const { events, options } = setUp();
    const failure = new AppError('unavailable', 'port taken');
    const broken = service('c', events, { start: () => Promise.reject(failure) });
    const done = runServices(
      [service('a', events), service('b', events), broken, service('d', events)],
      options,
    );
    await expect(done).rejects.toBe(failure);
    expect(events).toEqual([...life('a', 'b'), 'c starting', ...death('b', 'a')]);
  });

  it('stops all when one fails while it serves', async () => {
    const { events, ready, options } = setUp();
    const broken = Promise.withResolvers<void>();
    const services = [
      service('a', events),
      service('b', events, { serve: broken.promise }),
      service('c', events),
    ];
    const done = runServices(services, options);
    await ready;
    const failure = new Error('broken');
    broken.reject(failure);
    await expect(done).rejects.toBe(failure);
    expect(events).toEqual([...life('a', 'b', 'c'), ...death('c', 'a')]);
  });

  it('ends a start that takes for ever when an earlier service fails meanwhile', async () => {
    const { events, clock, options } = setUp();
    const broken = Promise.withResolvers<void>();
    const slow: Service = {
      name: 'slow',
      run: (signal) => new Promise((resolve) => signal.addEventListener('abort', () => resolve())),
    };
    const done = runServices([service('a', events, { serve: broken.promise }), slow], options);
    await clock.advance(0);
    broken.reject(new Error('broken'));
    await expect(done).rejects.toThrow('broken');
  });

  it.each([
    { when: 'before it was ready', quitter: { name: 'quitter', run: async () => undefined } },
    {
      when: 'while it served',
      quitter: { name: 'quitter', run: async (_: AbortSignal, ready: () => void) => ready() },
    },
  ])('treats a service that ends by itself $when as a failure', async ({ quitter }) => {
    const { events, options } = setUp();
    const done = runServices([service('a', events), quitter], options);
    await expect(done).rejects.toMatchObject({
      code: 'internal',
      message: 'service "quitter" ended by itself',
    });
    expect(events).toEqual([...life('a'), ...death('a')]);
  });

  it('treats an error that is thrown before the first await as a failure', async () => {
    const { options } = setUp();
    const thrower: Service = {
      name: 'thrower',
      run() {
        throw new Error('at once');
      },
    };
    await expect(runServices([thrower], options)).rejects.toThrow('at once');
  });

  it('goes on with the others when one does not stop in time, and says so in the end', async () => {
    const { events, stop, ready, clock, options } = setUp();
    const stuck = service('b', events, { stop: () => never });
    const done = runServices([service('a', events), stuck, service('c', events)], {
      ...options,
      stopTimeoutMs: 5000,
    });
    await ready;
    stop.abort();
    const result = expect(done).rejects.toMatchObject({
      code: 'deadline-exceeded',
      message: expect.stringContaining('"b"'),
    });
    await clock.untilSleepers(1);
    await clock.advance(4999);
    expect(events.slice(-3)).toEqual(['c stopping', 'c stopped', 'b stopping']);
    await clock.advance(1);
    await result;
    expect(events.slice(-2)).toEqual(death('a'));
  });

  it('rethrows an error that happens while stopping, when nothing failed before', async () => {
    const { events, stop, ready, options } = setUp();
    const services = [
      service('a', events),
      service('b', events, { stop: () => Promise.reject(new Error('flush failed')) }),
    ];
    const done = runServices(services, options);
    await ready;
    stop.abort();
    await expect(done).rejects.toThrow('flush failed');
    expect(events.slice(-2)).toEqual(death('a'));
  });

  it('rethrows the first failure and logs the one that came while stopping', async () => {
    const { events, ready, options } = setUp();
    const lines: string[] = [];
    const log = createLogger({ level: 'info', format: 'json', write: (line) => lines.push(line) });
    const broken = Promise.withResolvers<void>();
    const services = [
      service('a', events, { stop: () => Promise.reject(new Error('second')) }),
      service('b', events, { serve: broken.promise }),
    ];
    const done = runServices(services, { ...options, log });
    await ready;
    broken.reject(new Error('first'));
    await expect(done).rejects.toThrow('first');
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      { service: 'a', error: { message: 'second' } },
    ]);
  });

  it('stops what was started when it is told to stop during the start, without an error', async () => {
    const { events, stop, options } = setUp();
    const starting = Promise.withResolvers<void>();
    const slow: Service = {
      name: 'slow',
      run: (signal) => {
        starting.resolve();
        return new Promise((resolve) => signal.addEventListener('abort', () => resolve()));
      },
    };
    const done = runServices([service('a', events), slow, service('z', events)], options);
    await starting.promise;
    stop.abort();
    await done;
    expect(events).toEqual([...life('a'), ...death('a')]);
  });

  it('starts nothing when it is already told to stop', async () => {
    const { events, options } = setUp();
    await runServices([service('a', events)], { ...options, signal: AbortSignal.abort() });
    expect(events).toEqual([]);
  });

  it('leaves no sleeper behind', async () => {
    const { events, stop, ready, clock, options } = setUp();
    const done = runServices([service('a', events), service('b', events)], options);
    await ready;
    stop.abort();
    await done;
    await clock.advance(0);
    expect(clock.sleepers).toBe(0);
  });
});
