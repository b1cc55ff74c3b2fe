import { describe, expect, it } from 'vitest';
import { parseYaml } from '../runtime/config-file.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { print, printDocument, printRecord, printRows, type Row, remark } from './output.ts';

const web: Row = {
  id: 'web-1',
  spiffeId: 'spiffe://example.org/web',
  selectors: ['unix:uid:1', 'unix:gid:2'],
  admin: false,
  revision: 0,
  hint: '',
  dnsNames: [],
};
const db: Row = { id: '2', spiffeId: 'spiffe://example.org/a/longer/one', selectors: [] };
const columns = ['id', 'spiffeId', 'selectors'];

describe('a record', () => {
  it('as a table has a line for each field that says something', () => {
    const output = new CapturedOutput();
    printRecord(web, 'table');
    expect(output.stdout.split('\n')).toEqual([
      'id         web-1',
      'spiffe id  spiffe://example.org/web',
      'selectors  unix:uid:1, unix:gid:2',
      'admin      false',
      'revision   0',
      '',
    ]);
  });

  it.each([
    { format: 'json', parse: JSON.parse },
    { format: 'yaml', parse: (text: string) => parseYaml(text, 'output') },
  ] as const)('as $format is one document with all keys', ({ format, parse }) => {
    const output = new CapturedOutput();
    printRecord(web, format);
    expect(parse(output.stdout)).toEqual(web);
    expect(output.stdout.endsWith('\n')).toBe(true);
  });
});

describe('records', () => {
  it('as a table have the named columns, in line', () => {
    const output = new CapturedOutput();
    printRows([web, db], columns, 'table');
    expect(output.stdout.split('\n')).toEqual([
      'ID     SPIFFE ID                          SELECTORS',
      'web-1  spiffe://example.org/web           unix:uid:1, unix:gid:2',
      '2      spiffe://example.org/a/longer/one',
      '',
    ]);
  });

  it('that are none have their head', () => {
    const output = new CapturedOutput();
    printRows([], columns, 'table');
    expect(output.stdout).toBe('ID  SPIFFE ID  SELECTORS\n');
  });

  it.each(['json', 'yaml'] as const)('that are none are an empty list as %s', (format) => {
    const output = new CapturedOutput();
    printRows([], columns, format);
    expect(parseYaml(output.stdout, 'output')).toEqual([]);
  });

  it('may be very many', () => {
    const output = new CapturedOutput();
    printRows(
      Array.from({ length: 150_000 }, (_, i) => ({ id: String(i) })),
      ['id'],
      'table',
    );
    expect(output.stdout.length).toBeGreaterThan(150_000);
  });
});

describe('a table', () => {
  it('lets no text move the cursor or fake a line', () => {
    const output = new CapturedOutput();
    const row = { hint: 'a\nid  fake\u001b[2J\u0007', dnsNames: ['b\r\n'] };
    printRecord(row, 'table');
    printRows([row], ['hint', 'dnsNames'], 'table');
    expect(output.stdout.split('\n')).toHaveLength(5);
    expect(output.stdout.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
  });
});

describe('a document', () => {
  const others = { hint: 'a\u001b[2J\u009b1m\u202e\u{e0041}\n', list: ['\u2028'], plain: 'b' };

  it('as json moves no cursor and says all the same what it says', () => {
    const output = new CapturedOutput();
    printDocument(others, 'json');
    expect(output.stdout.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}]/u);
    expect(JSON.parse(output.stdout)).toEqual(others);
  });

  it('as yaml moves no cursor either', () => {
    const output = new CapturedOutput();
    printDocument(others, 'yaml');
    expect(output.stdout.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}]/u);
    expect(parseYaml(output.stdout, 'output')).toMatchObject({ plain: 'b', list: ['\u2028'] });
  });

  it('as yaml keeps its lines', () => {
    const output = new CapturedOutput();
    printDocument({ pem: 'a\nb\n' }, 'yaml');
    expect(output.stdout).toBe('pem: |\n  a\n  b\n');
  });
});

describe('text', () => {
  it('goes to stdout with exactly one line end', () => {
    const output = new CapturedOutput();
    print('a');
    print('b\n');
    printDocument({ c: 1 }, 'yaml');
    expect(output.stdout).toBe('a\nb\nc: 1\n');
    expect(output.stderr).toBe('');
  });

  it('for people goes to stderr', () => {
    const output = new CapturedOutput();
    remark('a');
    expect([output.stdout, output.stderr]).toEqual(['', 'a\n']);
  });
});
