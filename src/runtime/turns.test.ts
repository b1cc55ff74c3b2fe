import { setImmediate as nextRound } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Turns } from './turns.ts';

/** A call with `pieces` to do, each of which it puts into `log`. */
async function call(turns: Turns, name: string, options: { pieces: number; log: string[] }): Promise<void> {
  for (let i = 0; i < options.pieces; i += 1) {
    await turns.next();
    options.log.push(name);
  }
}

describe('turns', () => {
  it('let the first pieces run at once', async () => {
    const log: string[] = [];
    const done = call(new Turns(4), 'a', { pieces: 4, log });
    // Promises only: no round of the event loop has passed.
    for (let i = 0; i < 10; i += 1) await Promise.resolve();
    expect(log).toHaveLength(4);
    await done;
  });

  it('run no more pieces in one round than they may, and all of them in the end', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 8 }),
        fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 8 }),
        async (perRound, calls) => {
          const turns = new Turns(perRound);
          const log: string[] = [];
          let isOver = false;
          const all = Promise.all(calls.map((pieces, i) => call(turns, String(i), { pieces, log })));
          const over = all.then(() => {
            isOver = true;
          });
          let before = log.length;
          while (!isOver) {
            await nextRound();
            // Seen from here, what two of its rounds did may lie between two of ours.
            expect(log.length - before).toBeLessThanOrEqual(2 * perRound);
            before = log.length;
          }
          await over;
          expect(log).toHaveLength(calls.reduce((sum, pieces) => sum + pieces, 0));
        },
      ),
      { numRuns: 100 },
    );
  });

  it('serve a small call soon although large ones came first', async () => {
    const turns = new Turns(2);
    const log: string[] = [];
    const large = ['a', 'b', 'c'].map((name) => call(turns, name, { pieces: 100, log }));
    await nextRound();
    await call(turns, 'small', { pieces: 1, log });
    expect(log.indexOf('small')).toBeLessThan(20);
    await Promise.all(large);
  });

  it('let others use the event loop meanwhile', async () => {
    const log: string[] = [];
    const large = call(new Turns(5), 'piece', { pieces: 100, log });
    const rounds = (async () => {
      for (let i = 0; i < 5; i += 1) {
        await nextRound();
        log.push('round');
      }
    })();
    await Promise.all([large, rounds]);
    expect(log.lastIndexOf('round')).toBeLessThan(80);
  });
});
