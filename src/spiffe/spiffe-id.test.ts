import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AppError, isAppError } from '../runtime/error.ts';
import { isReservedPath, SpiffeId, serverIdOf, TrustDomain } from './spiffe-id.ts';

function accepts(parse: () => unknown): boolean {
  try {
    parse();
    return true;
  } catch (error) {
    if (isAppError(error, 'invalid-argument')) return false;
    throw error;
  }
}

const isId = (text: string) => accepts(() => SpiffeId.parse(text));
/** All byte values as code points, and the same as raw bytes read as UTF-8. */
const byteValues = Array.from({ length: 256 }, (_, value) => String.fromCharCode(value));

describe('a SPIFFE ID', () => {
  it('splits into trust domain and path', () => {
    const id = SpiffeId.parse('spiffe://td/a/b');
    expect([id.trustDomain.name, id.path, String(id)]).toEqual(['td', '/a/b', 'spiffe://td/a/b']);
  });

  it('may lack a path', () => {
    expect(SpiffeId.parse('spiffe://td').path).toBe('');
  });

  const refused: readonly { readonly row: string; readonly texts: readonly string[] }[] = [
    {
      row: 'ID-01: the scheme is spiffe',
      texts: ['http://td/a', 'spiff://td/a', 'spiffe:/td/a', 'spiffe:td/a', '//td/a', 'td/a', ''],
    },
    { row: 'ID-02: the trust domain is not empty', texts: ['spiffe://', 'spiffe:///', 'spiffe:///a'] },
    {
      row: 'ID-03: no query',
      texts: ['spiffe://td/a?x=1', 'spiffe://td?x', 'spiffe://td/a?', 'spiffe://td?'],
    },
    { row: 'ID-04: no fragment', texts: ['spiffe://td/a#f', 'spiffe://td#', 'spiffe://td/a#'] },
    { row: 'ID-05: no userinfo', texts: ['spiffe://u@td/a', 'spiffe://u:p@td/a', 'spiffe://@td/a'] },
    { row: 'ID-06: no port', texts: ['spiffe://td:80/a', 'spiffe://td:/a', 'spiffe://td:80'] },
    { row: 'ID-07: lower case', texts: ['spiffe://TD/a', 'spiffe://exAmple.org/a'] },
    {
      row: 'ID-09: no percent-encoding in the name',
      texts: ['spiffe://%74d/a', 'spiffe://%F0%9F%A4%AF/a', 'spiffe://t%2Fd/a'],
    },
    { row: 'ID-10: no IPv6', texts: ['spiffe://[::1]/a'] },
    {
      row: 'ID-12: no percent-encoding in the path',
      texts: ['spiffe://td/%61', 'spiffe://td/a%2Fb', 'spiffe://td/%2e%2e'],
    },
    { row: 'ID-13: no empty segment', texts: ['spiffe://td//', 'spiffe://td//a', 'spiffe://td/a//b'] },
    {
      row: 'ID-14: no dot segment',
      texts: ['.', './a', 'a/.', '..', '../a', 'a/../b', 'a/..'].map((path) => `spiffe://td/${path}`),
    },
    { row: 'ID-15: no trailing slash', texts: ['spiffe://td/', 'spiffe://td/a/'] },
    {
      row: 'ID-22: no second trust domain by case',
      texts: ['SPIFFE://td/a', 'Spiffe://td/a', 'spiffe://TD/a'],
    },
    {
      row: 'ID-23: ASCII only',
      texts: [
        'spiffe://td\u00e9/a',
        'spiffe://td/\u00e9',
        'spiffe://td/\uff41',
        'spiffe://\uff54d/a',
        'spiffe://td/\u212a',
      ],
    },
    {
      row: 'ID-24: nothing is trimmed',
      texts: [
        ' spiffe://td/a',
        'spiffe://td/a ',
        'spiffe://td/a\n',
        'spiffe://td\n',
        'spiffe://td/\ta',
        'spiffe://td/a\0',
        'spi\nffe://td/a',
      ],
    },
  ];
  it.each(refused)('is refused by $row', ({ texts }) => {
    expect(texts.filter(isId)).toEqual([]);
  });

  const accepted: readonly { readonly row: string; readonly texts: readonly string[] }[] = [
    { row: 'ID-10: dotted-quad IPv4', texts: ['spiffe://1.2.3.4/a'] },
    {
      row: 'ID-11: names that no DNS would take',
      texts: ['a_b', '-', '.', 'a..b', '999.1.1.1', '_', '..'].map((name) => `spiffe://${name}/w`),
    },
    {
      row: 'ID-14: dots that are no dot segment',
      texts: ['.a', '..a', 'a.', '...'].map((path) => `spiffe://td/${path}`),
    },
  ];
  it.each(accepted)('is accepted by $row', ({ texts }) => {
    expect(texts.filter((text) => !isId(text))).toEqual([]);
  });

  it('takes exactly 39 of the 256 byte values in the trust domain (ID-08)', () => {
    const taken = byteValues.filter((c) => c !== '/' && isId(`spiffe://trustdomain${c}/path`));
    expect(taken.join('')).toBe('-.0123456789_abcdefghijklmnopqrstuvwxyz');
  });

  it('takes exactly 65 of the 256 byte values in the path (ID-16)', () => {
    const taken = byteValues.filter((c) => c !== '/' && isId(`spiffe://td/path${c}`));
    expect(taken.join('')).toBe('-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz');
  });

  it('may be 2048 bytes long and not longer (ID-18, ID-19)', () => {
    const path = (length: number) => `/${'a'.repeat(length - 'spiffe://td/'.length)}`;
    expect(String(SpiffeId.parse(`spiffe://td${path(2048)}`))).toHaveLength(2048);
    expect(isId(`spiffe://td${path(2049)}`)).toBe(false);
    const td = TrustDomain.parse('td');
    expect(accepts(() => SpiffeId.of(td, path(2048)))).toBe(true);
    expect(accepts(() => SpiffeId.of(td, path(2049)))).toBe(false);
  });

  it('compares its path case-sensitively (ID-21)', () => {
    const [lower, upper] = [SpiffeId.parse('spiffe://td/a'), SpiffeId.parse('spiffe://td/A')];
    expect(lower.equals(upper)).toBe(false);
    expect(lower.equals(SpiffeId.parse('spiffe://td/a'))).toBe(true);
  });

  it('does not confuse where name and path meet', () => {
    expect(SpiffeId.parse('spiffe://a/b').equals(SpiffeId.parse('spiffe://a.b'))).toBe(false);
    expect(SpiffeId.parse('spiffe://a.b/c').isMemberOf(TrustDomain.parse('a'))).toBe(false);
    expect(SpiffeId.parse('spiffe://a/c').isMemberOf(TrustDomain.parse('a'))).toBe(true);
  });

  it('is built from a path only when it starts with a slash', () => {
    const td = TrustDomain.parse('td');
    expect(String(SpiffeId.of(td, ''))).toBe('spiffe://td');
    expect(String(SpiffeId.of(td, '/a'))).toBe('spiffe://td/a');
    for (const path of ['a', '.x/a', '/', '/a/', '/..', '/a?b']) {
      expect({ path, accepted: accepts(() => SpiffeId.of(td, path)) }).toEqual({ path, accepted: false });
    }
  });

  it('comes back unchanged, and everything else is refused, whatever the text (ID-24)', () => {
    const oneExpression = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)*$/;
    const piece = fc.constantFrom(
      'spiffe://',
      'td',
      '/',
      '.',
      '..',
      'A',
      'a',
      '0',
      '-',
      '_',
      '%',
      '?',
      '#',
      '@',
      ':',
      '\n',
      ' ',
      'é',
      '\0',
    );
    const text = fc.oneof(
      fc.array(piece, { maxLength: 8 }).map((parts) => `spiffe://${parts.join('')}`),
      fc.string({ unit: 'binary' }),
    );
    fc.assert(
      fc.property(text, (input) => {
        // `$` matches only at the very end: the expression has no m flag.
        expect(isId(input)).toBe(oneExpression.test(input));
        if (isId(input)) expect(String(SpiffeId.parse(input))).toBe(input);
      }),
      { numRuns: 2000 },
    );
  });

  it('is never repeated at length in an error, and never raw', () => {
    try {
      SpiffeId.parse(`spiffe://td/\n${'x'.repeat(5000)}`);
      expect.unreachable();
    } catch (error) {
      expect((error as AppError).message.length).toBeLessThan(250);
      expect((error as AppError).message).not.toContain('\n');
    }
  });
});

describe('a trust domain', () => {
  it('may be 255 bytes long and not longer (ID-20)', () => {
    expect(TrustDomain.parse('a'.repeat(255)).name).toHaveLength(255);
    expect(accepts(() => TrustDomain.parse('a'.repeat(256)))).toBe(false);
    expect(isId(`spiffe://${'a'.repeat(256)}/a`)).toBe(false);
  });

  it('is parsed from a bare name and nothing else', () => {
    for (const text of ['', 'spiffe://td', 'td/a', 'td/', 'TD', 'td ', 'td\n', 'td:80']) {
      expect({ text, accepted: accepts(() => TrustDomain.parse(text)) }).toEqual({ text, accepted: false });
    }
  });

  it.each(['td', 'spiffe://td', 'spiffe://td/a/b'])('is found in the name or ID %s', (text) => {
    expect(TrustDomain.parseNameOrId(text).name).toBe('td');
  });

  it.each(['http://td', 'td:80', 'td/a', 'spiffe://', ''])('is not found in %j', (text) => {
    expect(accepts(() => TrustDomain.parseNameOrId(text))).toBe(false);
  });

  it('has an ID without a slash at the end', () => {
    expect(TrustDomain.parse('td').id).toBe('spiffe://td');
  });

  it('has a server ID that SPIRE agents know', () => {
    expect(String(serverIdOf(TrustDomain.parse('td')))).toBe('spiffe://td/spire/server');
  });
});

describe('a reserved path', () => {
  it.each([
    ['/spire', true],
    ['/spire/server', true],
    ['/spire/agent/join_token/x', true],
    ['/spirelike', false],
    ['/a/spire', false],
    ['', false],
    ['/Spire', false],
  ])('%s: %s', (path, expected) => {
    expect(isReservedPath(path)).toBe(expected);
  });
});
