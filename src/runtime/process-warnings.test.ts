import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger } from '../testing/grpc-listener.ts';
import { logProcessWarnings } from './process-warnings.ts';

describe("Node's warnings", () => {
  const { log, lines } = memoryLogger();
  const printed: Error[] = [];
  const print = (warning: Error) => void printed.push(warning);
  let end: () => void;
  beforeEach(() => {
    process.on('warning', print);
    end = logProcessWarnings({ log, clock: new FakeClock() });
  });
  afterEach(() => {
    end();
    process.off('warning', print);
  });

  it('become lines of the log, not more than a few, and nothing else', async () => {
    for (let i = 0; i < 100; i += 1)
      process.emitWarning(`-${i} is a negative number.`, 'TimeoutNegativeWarning');
    await turn();
    expect(printed).toEqual([]);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines.length).toBeLessThan(50);
    expect(lines[0]).toMatchObject({
      level: 'warn',
      warning: 'TimeoutNegativeWarning',
      error: { message: '-0 is a negative number.' },
      message: 'Node warns',
    });
    end();
    expect(process.listeners('warning')).toContain(print);
  });
});
