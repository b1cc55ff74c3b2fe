import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SignQueue } from './sign-queue.ts';

const turn = () => new Promise(setImmediate);
const never = new AbortController().signal;

describe('the queue for signatures', () => {
  it('runs as many at a time as it may, in the order in which they came', async () => {
    const queue = new SignQueue({ concurrency: 2, limit: 10 });
    const started: number[] = [];
    const gates = Array.from({ length: 4 }, () => Promise.withResolvers<number>());
    const all = gates.map((gate, i) =>
      queue.run(() => {
        started.push(i);
        return gate.promise;
      }, never),
    );
    expect(started).toEqual([0, 1]);
    expect(queue.length).toBe(2);
    gates[1]?.resolve(1);
    await all[1];
    await turn();
    expect(started).toEqual([0, 1, 2]);
    gates[0]?.reject(new Error('lost'));
    await expect(all[0]).rejects.toThrow('lost');
    await turn();
    expect(started).toEqual([0, 1, 2, 3]);
    gates[2]?.resolve(2);
    gates[3]?.resolve(3);
    expect(await Promise.all(all.slice(1))).toEqual([1, 2, 3]);
    expect(queue.length).toBe(0);
  });

  it('refuses one more than may wait, and says when to come again', async () => {
    const queue = new SignQueue({ concurrency: 1, limit: 1 });
    const gate = Promise.withResolvers<void>();
    const served = [queue.run(() => gate.promise, never), queue.run(async () => undefined, never)];
    await expect(queue.run(async () => undefined, never)).rejects.toMatchObject({
      code: 'resource-exhausted',
      retryAfterMs: 1_000,
    });
    gate.resolve();
    await Promise.all(served);
    await queue.run(async () => undefined, never);
  });

  it('lets go of those who wait no more, and forgets nobody else', async () => {
    const queue = new SignQueue({ concurrency: 1, limit: 2 });
    const gate = Promise.withResolvers<void>();
    const impatient = new AbortController();
    const first = queue.run(() => gate.promise, never);
    const second = queue.run(async () => 'second', impatient.signal);
    const third = queue.run(async () => 'third', never);
    impatient.abort(new Error('too late'));
    await expect(second).rejects.toThrow('too late');
    expect(queue.length).toBe(1);
    gate.resolve();
    await first;
    expect(await third).toBe('third');
  });

  it('never runs too many, and everything ends, whatever happens in between', async () => {
    const step = fc.constantFrom('come', 'finish', 'fail', 'leave');
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 3 }),
        fc.array(step, { maxLength: 60 }),
        async (most, steps) => {
          const queue = new SignQueue({ concurrency: most, limit: 5 });
          const running: PromiseWithResolvers<void>[] = [];
          const patience: AbortController[] = [];
          const ended: Promise<unknown>[] = [];
          for (const what of steps) {
            if (what === 'come') {
              const own = new AbortController();
              patience.push(own);
              const work = () => {
                const gate = Promise.withResolvers<void>();
                running.push(gate);
                return gate.promise;
              };
              ended.push(queue.run(work, own.signal).catch(() => undefined));
            } else if (what === 'leave') patience.shift()?.abort(new Error('left'));
            else if (what === 'finish') running.shift()?.resolve();
            else running.shift()?.reject(new Error('failed'));
            await turn();
            expect(running.length).toBeLessThanOrEqual(most);
            if (queue.length > 0) expect(running.length).toBe(most);
          }
          while (running.length > 0 || queue.length > 0) {
            running.shift()?.resolve();
            await turn();
          }
          await Promise.all(ended);
        },
      ),
      { numRuns: 50 },
    );
  });
});
