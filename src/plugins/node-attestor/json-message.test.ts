import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { base64, bytesOf, fieldOf, objectOf, parseJsonObject, toJson } from './json-message.ts';

const parse = (text: string) => parseJsonObject(Buffer.from(text), 1000);
const refused = expect.objectContaining({ code: 'invalid-argument' });

describe('a JSON message', () => {
  it('is one object, not too long, without a name that occurs twice', () => {
    expect(parse(' {"a": 1} ')).toEqual({ a: 1 });
    for (const text of ['', '[]', 'null', '1', '"a"', '{', '{"a":1,"a":2}', '{} {}', ' '.repeat(1001)]) {
      expect(() => parse(text), text).toThrow(refused);
    }
  });

  it('has names in any case, as Go reads them, and each once', () => {
    expect(fieldOf({ Nonce: 'x' }, 'nonce')).toBe('x');
    expect(fieldOf({ nonce: null }, 'nonce')).toBeUndefined();
    expect(fieldOf({}, 'nonce')).toBeUndefined();
    expect(fieldOf(parse('{"__proto__": {"nonce": "x"}}'), 'nonce')).toBeUndefined();
    expect(() => fieldOf({ nonce: 'x', NONCE: 'y' }, 'nonce')).toThrow('"nonce" occurs twice');
  });

  it('has objects where objects are expected', () => {
    expect(objectOf({ a: { b: 1 } }, 'a')).toEqual({ b: 1 });
    expect(objectOf({ a: null }, 'a')).toBeUndefined();
    for (const value of [1, 'x', [], true]) expect(() => objectOf({ a: value }, 'a')).toThrow(refused);
  });

  it('has bytes as standard base64 and in no other form', () => {
    expect(bytesOf('/+8=', 'x')).toEqual(Buffer.from('ffef', 'hex'));
    for (const nothing of ['', null, undefined]) expect(bytesOf(nothing, 'x')).toHaveLength(0);
    for (const text of ['_-8=', '/+8', '/+9=', ' /+8=', '/+8=\n', 'a', 1, [], {}, true]) {
      expect(() => bytesOf(text, '"x"'), String(text)).toThrow('"x": expected base64');
    }
  });

  it('comes back as it was written', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        const back = bytesOf(fieldOf(parseJsonObject(toJson({ b: base64(bytes) }), 10_000), 'b'), 'b');
        expect(back).toEqual(Buffer.from(bytes));
      }),
    );
  });
});
