import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { AppError } from './error.ts';
import { createLogger, type LogLevel, silentLogger } from './log.ts';

function setUp(level: LogLevel = 'info', format: 'json' | 'pretty' = 'json') {
  const lines: string[] = [];
  const log = createLogger({ level, format, write: (line) => lines.push(line) });
  return { log, lines, parsed: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

const privateKeyPem = '-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n';

describe('a JSON log line', () => {
  it('has time, level, message and fields, and ends with a line end', () => {
    const { log, lines, parsed } = setUp();
    log.info({ count: 3 }, 'svids signed');
    log.warn('no fields');
    expect(parsed()).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
        count: 3,
        message: 'svids signed',
      },
      { level: 'warn', time: expect.any(String), message: 'no fields' },
    ]);
    expect(lines.every((line) => line.endsWith('}\n'))).toBe(true);
  });

  it('has the fields of its child logger', () => {
    const { log, parsed } = setUp();
    log.child({ service: 'sync', token: 'secret-1' }).child({ id: 1 }).error({ b: 2 }, 'x');
    expect(parsed()).toMatchObject([{ service: 'sync', token: '[redacted]', id: 1, b: 2 }]);
  });

  it.each([
    'token',
    'joinToken',
    'join_token',
    'privateKey',
    'private-key',
    'privateKeyPem',
    'key',
    'pin',
    'password',
    'PASSWORD',
    'csr',
    'payload',
    'authorization',
  ])('never shows a field named %s, at any depth', (name) => {
    const { log, lines } = setUp('trace');
    log.info({ [name]: 'hunter2' }, 'flat');
    log.info({ a: { b: [{ [name]: { inner: 'hunter2' } }] } }, 'deep');
    log.info({ a: new Map([[name, Buffer.from('hunter2')]]) }, 'map');
    expect(lines).toHaveLength(3);
    expect(lines.join('')).not.toContain('hunter2');
    expect(lines.join('').match(/\[redacted\]/g)).toHaveLength(3);
  });

  it('never shows a private key, whatever the field or error is called', () => {
    const { log, lines } = setUp('trace');
    log.info({ output: privateKeyPem, list: [privateKeyPem] }, 'x');
    log.error({ error: new Error(`cannot read ${privateKeyPem}`) }, 'y');
    log.child({ inherited: privateKeyPem }).info('z');
    expect(lines).toHaveLength(3);
    expect(lines.join('')).not.toContain('MC4CAQ');
  });

  it('shows names that only look like secrets, and secrets that are absent', () => {
    const { log, parsed } = setUp();
    log.info(
      { keyId: 'x509-ca-a', tokenHash: 'abcdef01', keyType: 'ec-p256', token: undefined, pin: null },
      'x',
    );
    expect(parsed()[0]).toMatchObject({
      keyId: 'x509-ca-a',
      tokenHash: 'abcdef01',
      keyType: 'ec-p256',
      pin: null,
    });
  });

  it('shows an error as text with its causes, code and reason, without a stack', () => {
    const { log, parsed } = setUp();
    const cause = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    log.error(
      { error: new AppError('unavailable', 'server cannot be reached', { cause, reason: 'DOWN' }) },
      'sync failed',
    );
    log.error({ error: cause }, 'sync failed');
    expect(parsed().map((line) => line['error'])).toEqual([
      { message: 'server cannot be reached: connect ECONNREFUSED', code: 'unavailable', reason: 'DOWN' },
      { message: 'connect ECONNREFUSED', code: 'ECONNREFUSED' },
    ]);
  });

  it('shows the stack of an error when the level is debug', () => {
    const { log, parsed } = setUp('debug');
    log.error({ error: new Error('broken') }, 'x');
    expect(parsed()[0]?.['error']).toMatchObject({ stack: expect.stringContaining('log.test.ts') });
  });

  it('shows values that have a text of their own as that text, and bytes as their number', () => {
    const { log, parsed } = setUp();
    const id = SpiffeId.parse('spiffe://td/a');
    log.info(
      {
        id,
        domain: id.trustDomain,
        at: new Date(0),
        big: 2n ** 64n,
        der: Buffer.alloc(9),
        set: new Set([1]),
      },
      'x',
    );
    expect(parsed()[0]).toMatchObject({
      id: 'spiffe://td/a',
      domain: 'td',
      at: '1970-01-01T00:00:00.000Z',
      big: '18446744073709551616',
      der: '[9 bytes]',
      set: [1],
    });
  });

  it('survives cycles, huge values and empty prototypes', () => {
    const { log, lines } = setUp();
    const cycle: Record<string, unknown> = Object.assign(Object.create(null), {
      list: Array.from({ length: 1000 }),
    });
    cycle['self'] = cycle;
    log.info({ cycle, text: 'x'.repeat(100_000), f: () => 1, date: new Date(Number.NaN) }, 'x');
    expect(lines).toHaveLength(1);
    expect(lines[0]?.length).toBeLessThan(10_000);
  });
});

describe('the level', () => {
  it('leaves out what is below it', () => {
    const { log, parsed } = setUp('warn');
    for (const level of ['trace', 'debug', 'info', 'warn', 'error'] as const) log[level](level);
    expect(parsed().map((line) => line['message'])).toEqual(['warn', 'error']);
  });

  it('can be changed while running, for children made before as well', () => {
    const { log, parsed } = setUp('info');
    const child = log.child({ a: 1 });
    child.debug('unseen');
    log.level = 'debug';
    child.debug('seen');
    child.level = 'error';
    log.info('unseen');
    expect(parsed().map((line) => line['message'])).toEqual(['seen']);
    expect(log.level).toBe('error');
  });

  it('stays when the new one is unknown', () => {
    const { log } = setUp('info');
    log.level = 'loud';
    expect(log.level).toBe('info');
  });
});

describe('a logger without a writer', () => {
  it('writes to stderr, and goes on when nobody reads that any more', async () => {
    const url = JSON.stringify(new URL('./log.ts', import.meta.url).href);
    const module = `
      import { createLogger } from ${url};
      const log = createLogger({ level: 'info', format: 'json' });
      log.info('first');
      process.stdin.once('data', () => {
        for (let i = 0; i < 100; i += 1) log.info({ i }, 'nobody reads this');
        setImmediate(() => process.exit(7));
      });`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', module], {
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    const exited = once(child, 'exit');
    const [line] = (await once(child.stderr, 'data')) as [Buffer];
    expect(JSON.parse(String(line))).toMatchObject({ message: 'first' });
    child.stderr.destroy();
    child.stdin.write('go');
    expect(await exited).toEqual([7, null]);
  });

  it('goes on when the disk under the log is full', async () => {
    const url = JSON.stringify(new URL('./log.ts', import.meta.url).href);
    const module = `
      import { createLogger } from ${url};
      const log = createLogger({ level: 'info', format: 'json' });
      for (let i = 0; i < 100; i += 1) log.info({ i }, 'no room for this');
      setImmediate(() => process.exit(7));`;
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, ['--input-type=module', '--eval', module], {
      stdio: ['ignore', 'ignore', full],
    });
    closeSync(full);
    expect(await once(child, 'exit')).toEqual([7, null]);
  });
});

describe('a pretty log line', () => {
  it('is one line for people', () => {
    const { log, lines } = setUp('info', 'pretty');
    log.info({ id: 'spiffe://td/a', text: 'two words', n: 1 }, 'svid signed');
    expect(lines[0]).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} INFO {2}svid signed id=spiffe:\/\/td\/a text="two words" n=1\n$/,
    );
  });

  it('shows an error in short form', () => {
    const { log, lines } = setUp('info', 'pretty');
    log.error({ error: new AppError('unavailable', 'gone') }, 'sync failed');
    expect(lines[0]).toMatch(/ERROR sync failed error=gone error.code=unavailable\n$/);
  });

  it('lets no value forge a line or steer the terminal', () => {
    const { log, lines } = setUp('info', 'pretty');
    log.info({ name: 'a\nERROR forged \x1b[2J\u009b', other: 'x token=1' }, 'mess\x1bage');
    expect(lines).toHaveLength(1);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these must not be there
    expect(lines[0]?.slice(0, -1)).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
    expect(lines[0]).toContain('other="x token=1"');
  });
});

describe('the silent logger', () => {
  it('has everything a logger has', () => {
    silentLogger.child({ a: 1 }).error({ b: 1 }, 'nothing');
    expect(silentLogger.level).toBe('silent');
  });
});
