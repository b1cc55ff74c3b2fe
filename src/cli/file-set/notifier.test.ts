import { describe, expect, it, onTestFinished } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { eventually } from '../../testing/eventually.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { Notifier } from './notifier.ts';
import type { Reload } from './reload.ts';

/** A reload that a test lets end, well or not. */
class HeldReload implements Reload {
  readonly name = 'held';
  runs = 0;
  atOnce = 0;
  mostAtOnce = 0;
  #end = Promise.withResolvers<void>();

  async run(): Promise<void> {
    this.runs += 1;
    this.atOnce += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.atOnce);
    try {
      await this.#end.promise;
    } finally {
      this.atOnce -= 1;
    }
  }

  /** Ends what runs, or the next run, and holds those after it. */
  end(error?: AppError): void {
    const { resolve, reject } = this.#end;
    this.#end = Promise.withResolvers();
    if (error === undefined) resolve();
    else reject(error);
  }
}

function start(reloads: readonly Reload[]) {
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const notifier = new Notifier({ clock, log }, reloads);
  const stop = new AbortController();
  const running = notifier.run(stop.signal);
  onTestFinished(async () => {
    stop.abort();
    await running;
  });
  const levels = () =>
    lines.map(({ level, problem }) => (problem === undefined ? level : `${level}: ${problem}`));
  return { clock, notifier, lines, levels, stop, running };
}

/** Fails as told, time after time. */
function failing(error: AppError, times: number) {
  const state = { runs: 0 };
  const run = async () => {
    state.runs += 1;
    if (state.runs <= times) throw error;
  };
  return { state, reload: { name: 'failing', run } };
}

const broken = new AppError('failed-precondition', 'exit code 1');
const nobody = new AppError('not-found', 'there is no process 4');

describe('an application', () => {
  it('is told of nothing while nothing changes', async () => {
    const reload = new HeldReload();
    const { clock } = start([reload]);
    await clock.advance(60_000);
    expect(reload.runs).toBe(0);
  });

  it('is told once of the changes that come while it is being told, and never twice at a time', async () => {
    const reload = new HeldReload();
    const { notifier, lines } = start([reload]);
    notifier.request();
    await eventually(() => expect(reload.runs).toBe(1));
    for (let change = 0; change < 5; change += 1) notifier.request();
    reload.end();
    await eventually(() => expect(reload.runs).toBe(2));
    reload.end();
    await eventually(() => expect(lines).toHaveLength(2));
    expect(reload).toMatchObject({ runs: 2, mostAtOnce: 1, atOnce: 0 });
  });

  it('is told again after a failure, and the log says so once', async () => {
    const { state, reload } = failing(broken, 2);
    const { notifier, clock, levels } = start([reload]);
    notifier.request();
    await eventually(() => expect(state.runs).toBe(1));
    await clock.advance(5_000);
    await eventually(() => expect(state.runs).toBe(3));
    await clock.advance(60_000);
    expect(state.runs).toBe(3);
    expect(levels()).toEqual(['warn: exit code 1', 'debug: exit code 1', 'info']);
  });

  it('is given up after some tries, until the next change', async () => {
    const { state, reload } = failing(broken, 5);
    const { notifier, clock, levels } = start([reload]);
    notifier.request();
    await eventually(() => expect(state.runs).toBe(1));
    for (let second = 0; second < 60; second += 1) await clock.advance(1_000);
    expect(state.runs).toBe(5);
    expect(levels().at(-1)).toBe('error: exit code 1');
    notifier.request();
    await eventually(() => expect(levels().at(-1)).toBe('info'));
    expect(state.runs).toBe(6);
  });

  it('that does not run is no failure: it reads the files when it starts', async () => {
    const { state, reload } = failing(nobody, 5);
    const { notifier, clock, levels } = start([reload]);
    notifier.request();
    await eventually(() => expect(state.runs).toBe(1));
    for (let second = 0; second < 60; second += 1) await clock.advance(1_000);
    expect(levels()[0]).toBe('info: there is no process 4');
    expect(levels().filter((line) => /^(warn|error)/.test(String(line)))).toEqual([
      'warn: there is no process 4',
    ]);
  });

  it('is told in every way there is, also when one of them fails', async () => {
    const { reload: bad } = failing(broken, 99);
    const good = failing(broken, 0);
    const { notifier } = start([bad, good.reload]);
    notifier.request();
    await eventually(() => expect(good.state.runs).toBe(1));
  });

  it('is not told any more when this ends, even between two tries', async () => {
    const { state, reload } = failing(broken, 99);
    const { notifier, clock, stop, running } = start([reload]);
    notifier.request();
    await eventually(() => expect(clock.sleepers).toBe(1));
    stop.abort();
    await running;
    expect(state.runs).toBe(1);
  });

  it('told just once gets no second try', async () => {
    const { state, reload } = failing(broken, 1);
    const { log } = memoryLogger();
    const notifier = new Notifier({ clock: new FakeClock(), log }, [reload]);
    await expect(notifier.once(new AbortController().signal)).rejects.toBe(broken);
    await notifier.once(new AbortController().signal);
    expect(state.runs).toBe(2);
  });
});
