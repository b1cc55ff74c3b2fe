import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from './error.ts';
import { parseStrictJson } from './strict-json.ts';

describe('strict JSON', () => {
  it('reads what JSON.parse reads', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        const rounded: unknown = JSON.parse(text);
        const exact = parseStrictJson(text);
        // Large whole numbers are the one intended difference.
        expect(
          JSON.parse(JSON.stringify(exact, (_, v: unknown) => (typeof v === 'bigint' ? Number(v) : v))),
        ).toEqual(rounded);
      }),
    );
  });

  it.each([
    '{"a":1,"a":1}',
    '{"a":1,"b":2,"a":3}',
    '{"x":[{"a":1},{"b":{"c":1,"c":2}}]}',
    '{"a":1,"\\u0061":2}',
    '{"a":{"b":1}, "a" :2}',
    '{"__proto__":1,"__proto__":2}',
    '{"\\"":1,"\\u0022":2}',
  ])('refuses the key that %s has twice', (text) => {
    expect(() => parseStrictJson(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it.each(['{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}', '{"a":"a\\":","b":"{\\"b\\":1"}', '["a","a"]'])(
    'accepts %s, where a key only seems to be there twice',
    (text) => {
      expect(parseStrictJson(text)).toEqual(JSON.parse(text));
    },
  );

  it('finds every duplicate that is put into an object', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue(), { minKeys: 1 }), fc.nat(), (object, index) => {
        const keys = Object.keys(object);
        const repeated = JSON.stringify(keys[index % keys.length]);
        const text = `{"nested":[${JSON.stringify(object).slice(0, -1)},${repeated}:0}]}`;
        expect(() => parseStrictJson(text)).toThrow('occurs twice');
      }),
    );
  });

  it('keeps whole numbers exactly, whatever their size', () => {
    expect(
      parseStrictJson('[9007199254740991, 9007199254740993, 18446744073709551615, -9007199254740993]'),
    ).toEqual([9007199254740991, 9007199254740993n, 18446744073709551615n, -9007199254740993n]);
  });

  it.each(['', '{', "{'a':1}", '{"a":1,}', 'NaN', '[1] [2]', '\u{feff}{}', `${'['.repeat(200_000)}`])(
    'refuses what is not JSON: %.20s',
    (text) => {
      try {
        parseStrictJson(text);
        expect.unreachable();
      } catch (error) {
        expect(isAppError(error, 'invalid-argument')).toBe(true);
      }
    },
  );
});
