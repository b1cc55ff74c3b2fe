import fc from 'fast-check';
import { expect, it } from 'vitest';
import { SerialQueue } from './serial-queue.ts';

it('a serial queue runs one work at a time, in order, and gives each its own outcome', async () => {
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.array(fc.boolean(), { maxLength: 8 }), async (scheduler, fates) => {
      const queue = new SerialQueue();
      const log: string[] = [];
      const outcomes = fates.map((isWell, i) =>
        queue.run(async () => {
          log.push(`begin ${i}`);
          await scheduler.schedule(Promise.resolve());
          log.push(`end ${i}`);
          if (!isWell) throw new Error(`failed ${i}`);
          return i;
        }),
      );
      const settled = Promise.allSettled(outcomes);
      await scheduler.waitFor(settled);
      expect(log).toEqual(fates.flatMap((_, i) => [`begin ${i}`, `end ${i}`]));
      expect((await settled).map(({ status }) => status === 'fulfilled')).toEqual(fates);
    }),
  );
});
