import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { foreignText } from './foreign-text.ts';

describe('text of a caller', () => {
  test.each([
    {
      name: 'is kept when it is harmless',
      text: 'Failed to load <inline>: ä €',
      expected: 'Failed to load <inline>: ä €',
    },
    { name: 'cannot break a line', text: 'a\nb\r\u2028c', expected: 'a\\u{a}b\\u{d}\\u{2028}c' },
    { name: 'cannot steer a terminal', text: '\u001b[31mred\u0007', expected: '\\u{1b}[31mred\\u{7}' },
    { name: 'cannot turn the direction of writing', text: 'a\u202eb', expected: 'a\\u{202e}b' },
    { name: 'shows half a surrogate pair as such', text: 'a\ud800', expected: 'a\\u{d800}' },
    { name: 'may fill the whole space', text: 'x'.repeat(256), expected: 'x'.repeat(256) },
    { name: 'is cut, visibly, beyond it', text: 'x'.repeat(257), expected: `${'x'.repeat(253)}…` },
  ])('$name', ({ text, expected }) => {
    expect(foreignText(text)).toBe(expected);
  });

  test('never takes more than 256 bytes and never has a control character, whatever it is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 600 }), (text) => {
        const shown = foreignText(text);
        return Buffer.byteLength(shown) <= 256 && !/[\p{Cc}\p{Cf}\p{Cs}]/u.test(shown);
      }),
    );
  });
});
