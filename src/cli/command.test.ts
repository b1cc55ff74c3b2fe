import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { moment, parsedBy, requireSocket, seconds, several } from './command.ts';

describe('a duration option', () => {
  it.each([
    ['1s', 1],
    ['90s', 90],
    ['15m', 900],
    ['24h', 86_400],
    ['7d', 604_800],
    ['1500ms', 1],
  ] as const)('%s is %d seconds', (text, expected) => {
    expect(seconds(text)).toBe(expected);
  });

  it.each(['', '5', 's', '-5s', '1.5h', '5 m', '1h30m', '0s', '999ms', '5w', '99999999d', ' 5s'])(
    'refuses %j',
    (text) => {
      expect(() => seconds(text)).toThrow(InvalidArgumentError);
    },
  );
});

describe('a time option', () => {
  const noon = Date.UTC(2027, 0, 31, 12) / 1000;
  it.each([
    ['2027-01-31T12:00:00Z', noon],
    ['2027-01-31T12:00Z', noon],
    ['2027-01-31T12:00:00.999Z', noon],
    ['2027-01-31T13:00:00+01:00', noon],
    ['2027-01-30T23:30:00-12:30', noon],
    ['2028-02-29T00:00:00Z', Date.UTC(2028, 1, 29) / 1000],
    ['9999-12-31T23:59:59Z', 253_402_300_799],
  ] as const)('%s is %d', (text, expected) => {
    expect(moment(text)).toBe(expected);
  });

  it.each([
    '',
    'tomorrow',
    '1800000000',
    '2027-01-31',
    '2027-01-31 12:00:00Z',
    // Without an offset it would be another moment on another machine.
    '2027-01-31T12:00:00',
    '2027-01-31T12:00',
    '2027-02-29T12:00:00Z',
    '2027-04-31T12:00:00Z',
    '2027-13-01T12:00:00Z',
    '2027-01-31T25:00:00Z',
    '2027-01-31T12:60:00Z',
    '2027-01-31T12:00:00+0100',
    // Would mean never.
    '1970-01-01T00:00:00Z',
    '1969-12-31T23:59:59Z',
  ])('refuses %j', (text) => {
    expect(() => moment(text)).toThrow(InvalidArgumentError);
  });
});

describe('an option with a value of our own', () => {
  it('is parsed, and what is wrong counts as wrong usage', () => {
    const parse = parsedBy(SpiffeId.parse);
    expect(parse('spiffe://a/b').path).toBe('/b');
    expect(() => parse('x')).toThrow(InvalidArgumentError);
    expect(() => parse('x')).toThrow(/must start with "spiffe:\/\/"/);
  });

  it('may come several times', () => {
    const collect = several(Number);
    expect(collect('2', collect('1', undefined))).toEqual([1, 2]);
    expect(() => several(SpiffeId.parse)('x', [])).toThrow(InvalidArgumentError);
  });
});

describe('a socket', () => {
  it('that is there is fine', () => {
    const path = join(tempDir(), 'socket');
    writeFileSync(path, '');
    expect(() => requireSocket(path, 'server', '--socket PATH', 'signet server run')).not.toThrow();
  });

  it('that is missing is said with how to name it and what to start', () => {
    expect(() => requireSocket('/nowhere', 'server', '--socket PATH', 'signet server run')).toThrow(
      expect.objectContaining({
        code: 'unavailable',
        message: expect.stringMatching(/"\/nowhere".*--socket PATH.*signet server run/),
      }),
    );
  });
});
