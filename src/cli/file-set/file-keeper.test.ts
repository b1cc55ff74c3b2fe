import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { AppError } from '../../runtime/error.ts';
import { Observable } from '../../runtime/observable.ts';
import { eventually } from '../../testing/eventually.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { FileDirectory } from './file-directory.ts';
import { FileKeeper, type Wanted } from './file-keeper.ts';
import { type FileSystem, nodeFileSystem } from './file-system.ts';
import { Notifier } from './notifier.ts';

const hourMs = 3_600_000;

/** The files of one certificate. */
function version(number: number, expiresAtMs: number | undefined = undefined): Wanted {
  const files = [
    { name: 'svid.pem', content: `cert ${number}`, mode: 0o644 },
    { name: 'svid_key.pem', content: `key ${number}`, mode: 0o600 },
  ];
  return { files, expiresAtMs, about: { number } };
}

interface Starting {
  readonly onWithdraw?: 'keep' | 'remove';
  /** Of the certificate that is there already. */
  readonly expiresAtMs?: number;
  readonly path?: string;
}

/** A keeper with a real directory on a disk that fails while `disk.problem` is set. */
async function start({ onWithdraw = 'keep', expiresAtMs, path = join(tempDir(), 'svid') }: Starting = {}) {
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const disk = { problem: undefined as string | undefined };
  const files: FileSystem = {
    ...nodeFileSystem,
    writeNewFile: async (file, content, as) => {
      if (disk.problem !== undefined) throw Object.assign(new Error(`write ${file}`), { code: disk.problem });
      await nodeFileSystem.writeNewFile(file, content, as);
    },
  };
  const directory = await FileDirectory.open(path, { clock, files, owner: undefined });
  const told = { times: 0, cert: '' };
  const reload = {
    name: 'test',
    run: async () => {
      told.times += 1;
      told.cert = existsSync(join(path, 'svid.pem')) ? readFileSync(join(path, 'svid.pem'), 'utf8') : 'gone';
    },
  };
  const notifier = new Notifier({ clock, log }, [reload]);
  const keeper = new FileKeeper({ directory, notifier, clock, log, onWithdraw }, expiresAtMs);
  const wanted = new Observable<Wanted | 'nothing yet'>('nothing yet');
  const stop = new AbortController();
  const running = keeper.run(async function* (signal) {
    for await (const value of wanted.watch(signal)) if (value !== 'nothing yet') yield value;
  }, stop.signal);
  running.catch(() => undefined);
  const read = () => ['svid.pem', 'svid_key.pem'].map((name) => readFileSync(join(path, name), 'utf8'));
  const messages = (level: string) =>
    lines.filter((line) => line['level'] === level).map((line) => line['message']);
  /** Lets time pass; what the keeper does on the real disk is done before more of it passes. */
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 1_000) {
      await clock.advance(Math.min(left, 1_000));
      await clock.untilSleepers(1);
    }
  };
  const end = async () => {
    stop.abort();
    await running.catch(() => undefined);
    await directory.close();
  };
  onTestFinished(end);
  return { clock, disk, wanted, told, read, lines, messages, pass, path, stop, running, end };
}

describe('files that are kept', () => {
  it('follow the updates, and the application is told when they are there', async () => {
    const { wanted, read, told } = await start();
    for (const number of [1, 2, 3]) {
      wanted.set(version(number));
      await eventually(() => expect(told).toEqual({ times: number, cert: `cert ${number}` }));
      expect(read()).toEqual([`cert ${number}`, `key ${number}`]);
    }
  });

  it('are not written again for an update without news', async () => {
    const { wanted, told, pass, messages } = await start();
    wanted.set(version(1));
    await eventually(() => expect(told.times).toBe(1));
    wanted.set(version(1));
    await pass(20_000);
    expect(told.times).toBe(1);
    expect(messages('info').filter((message) => message === 'files written')).toHaveLength(1);
  });

  it('skip to the latest update when the disk is slow', async () => {
    const { wanted, told, read } = await start();
    for (let number = 1; number <= 20; number += 1) wanted.set(version(number));
    await eventually(() => expect(told.cert).toBe('cert 20'));
    expect(read()).toEqual(['cert 20', 'key 20']);
    expect(told.times).toBeLessThan(20);
  });

  it('are told of once more when a later run finds them as they are: the application may not know', async () => {
    const first = await start();
    first.wanted.set(version(1));
    await eventually(() => expect(first.told.times).toBe(1));
    await first.end();
    const second = await start({ path: first.path });
    second.wanted.set(version(1));
    await eventually(() => expect(second.told.times).toBe(1));
    expect(second.read()).toEqual(['cert 1', 'key 1']);
  });
});

describe('a disk that is no good', () => {
  it('at the start is an error', async () => {
    const { wanted, disk, running, path } = await start();
    disk.problem = 'ENOSPC';
    wanted.set(version(1));
    await expect(running).rejects.toThrow(`cannot write files into "${path}": the disk is full (ENOSPC)`);
  });

  it.each(['ENOSPC', 'EROFS', 'EIO'])(
    'later leaves the files as they are until it is good again: %s',
    async (code) => {
      const { wanted, disk, told, read, messages, pass, lines } = await start();
      wanted.set(version(1));
      await eventually(() => expect(told.times).toBe(1));
      disk.problem = code;
      wanted.set(version(2));
      await eventually(() => expect(messages('error')).toHaveLength(1));
      await pass(300_000);
      expect(read()).toEqual(['cert 1', 'key 1']);
      // Said once, although it has been tried many times.
      expect(messages('error')).toEqual([
        'new files cannot be written; the old ones stay, and it is tried again',
      ]);
      expect(messages('debug').length).toBeGreaterThan(5);
      expect(JSON.stringify(lines)).not.toContain('svid_key.pem');
      disk.problem = undefined;
      await pass(31_000);
      await eventually(() => expect(told).toEqual({ times: 2, cert: 'cert 2' }));
      expect(read()).toEqual(['cert 2', 'key 2']);
    },
  );
});

describe('an identity that is withdrawn', () => {
  it('leaves its files, and the log says until when they are good and when they are no more', async () => {
    const { clock, wanted, told, read, pass, messages, lines } = await start();
    const expiresAtMs = clock.now() + hourMs;
    wanted.set(version(1, expiresAtMs));
    await eventually(() => expect(told.times).toBe(1));
    wanted.set(undefined);
    await pass(29_000);
    expect(messages('warn')).toEqual([]);
    await pass(2_000);
    await eventually(() => expect(messages('warn')).toHaveLength(1));
    expect(lines.at(-1)).toMatchObject({ certificateExpires: new Date(expiresAtMs).toISOString() });
    await clock.advance(hourMs);
    await pass(11_000);
    expect(messages('warn')).toEqual([
      'this process may not have the identity (any more); files that are there stay',
      'the certificate in the files has expired',
    ]);
    await pass(60_000);
    expect(messages('warn')).toHaveLength(2);
    expect(read()).toEqual(['cert 1', 'key 1']);
    expect(told.times).toBe(1);
  });

  it('takes its files with it when that is asked for, and the application is told', async () => {
    const { wanted, told, pass, path, messages } = await start({ onWithdraw: 'remove' });
    wanted.set(version(1));
    await eventually(() => expect(told.times).toBe(1));
    wanted.set(undefined);
    await pass(31_000);
    await eventually(() => expect(told).toEqual({ times: 2, cert: 'gone' }));
    expect(existsSync(join(path, 'svid_key.pem'))).toBe(false);
    expect(messages('warn')).toHaveLength(1);
    wanted.set(undefined);
    await pass(60_000);
    expect(told.times).toBe(2);
    // Granted again, it is back.
    wanted.set(version(1));
    await eventually(() => expect(told).toEqual({ times: 3, cert: 'cert 1' }));
  });

  it('for less than half a minute, as when an agent restarts, was never away', async () => {
    const { wanted, told, pass, read, messages } = await start({ onWithdraw: 'remove' });
    wanted.set(version(1));
    await eventually(() => expect(told.times).toBe(1));
    wanted.set(undefined);
    await pass(29_000);
    wanted.set(version(1));
    await pass(120_000);
    expect(read()).toEqual(['cert 1', 'key 1']);
    expect({ told: told.times, warnings: messages('warn') }).toEqual({ told: 1, warnings: [] });
  });
});

describe('files of an earlier run', () => {
  it('that have expired are said to be so while the agent is away', async () => {
    const { messages, pass } = await start({ expiresAtMs: Date.UTC(2026, 0, 1) + 5_000 });
    expect(messages('warn')).toEqual([]);
    await pass(21_000);
    expect(messages('warn')).toEqual(['the certificate in the files has expired']);
  });
});

describe('the end', () => {
  it('comes when it is asked for, and the files stay', async () => {
    const { wanted, told, read, stop, running } = await start();
    wanted.set(version(1));
    await eventually(() => expect(told.times).toBe(1));
    stop.abort();
    await running;
    expect(read()).toEqual(['cert 1', 'key 1']);
  });

  it('comes with what waiting cannot mend', async () => {
    const clock = new FakeClock();
    const { log } = memoryLogger();
    const directory = await FileDirectory.open(tempDir(), { clock, files: nodeFileSystem, owner: undefined });
    const notifier = new Notifier({ clock, log }, []);
    const keeper = new FileKeeper({ directory, notifier, clock, log, onWithdraw: 'keep' }, undefined);
    const fatal = new AppError('unimplemented', 'no such method');
    const running = keeper.run(async function* () {
      yield version(1);
      throw fatal;
    }, new AbortController().signal);
    await expect(running).rejects.toBe(fatal);
  });
});
