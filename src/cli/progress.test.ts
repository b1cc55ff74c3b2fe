import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { Progress } from './progress.ts';

function progressOn(isTTY: boolean) {
  const clock = new FakeClock();
  const written: string[] = [];
  const stream = { isTTY, write: (text: string) => written.push(text) };
  const progress = new Progress({ what: 'entries', total: 10_000, clock, stream });
  return { clock, written, progress };
}

describe('progress', () => {
  it('on a terminal is one line that is overwritten and gone in the end', async () => {
    const { clock, written, progress } = progressOn(true);
    progress.update(1);
    await clock.advance(100);
    progress.update(500);
    progress.update(600);
    await clock.advance(100);
    progress.update(1000);
    progress.clear();
    progress.clear();
    expect(written).toEqual([
      '\rsignet: 500 of 10000 entries',
      '\rsignet: 1000 of 10000 entries',
      '\r\u001b[K',
    ]);
  });

  it('in a log is a line now and then', async () => {
    const { clock, written, progress } = progressOn(false);
    for (let done = 0; done < 10_000; done += 500) {
      progress.update(done);
      await clock.advance(500);
    }
    progress.clear();
    expect(written).toEqual(['signet: 5000 of 10000 entries\n']);
  });
});
