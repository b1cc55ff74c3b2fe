import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { DerReader, readNamedBits, readTime, tags } from './der-reader.ts';
import { element, integer, namedBits, oid, sequence, smallInteger, time } from './der-writer.ts';

const reader = (hex: string): DerReader => new DerReader(Buffer.from(hex, 'hex'));

/** What `read` throws must be an AppError `invalid-argument`; anything else fails the test. */
function refusal(read: () => unknown): string | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-argument') return error.message;
    throw error;
  }
}

describe('DerReader', () => {
  const bad: readonly { name: string; hex: string; read: (r: DerReader) => unknown }[] = [
    { name: 'nothing', hex: '', read: (r) => r.any('x') },
    { name: 'a tag without a length', hex: '30', read: (r) => r.any('x') },
    { name: 'an element longer than its container', hex: '300201', read: (r) => r.any('x') },
    { name: 'the largest length', hex: '3084ffffffff', read: (r) => r.any('x') },
    { name: 'a length of five bytes', hex: '30850000000001ff', read: (r) => r.any('x') },
    { name: 'an indefinite length', hex: '30800000', read: (r) => r.any('x') },
    { name: 'the reserved length 0xff', hex: '30ff', read: (r) => r.any('x') },
    { name: 'a long form for a short length', hex: '308101ff', read: (r) => r.any('x') },
    { name: 'a length with a leading zero', hex: `30820080${'00'.repeat(128)}`, read: (r) => r.any('x') },
    { name: 'a tag of two bytes', hex: '1f810100', read: (r) => r.any('x') },
    { name: 'another tag than expected', hex: '020101', read: (r) => r.enter('x') },
    { name: 'trailing bytes', hex: '020101', read: (r) => r.end('x') },
    { name: 'a boolean that is neither 00 nor ff', hex: '010101', read: (r) => r.boolean('x') },
    { name: 'a boolean of two bytes', hex: '0102ffff', read: (r) => r.boolean('x') },
    { name: 'an empty boolean', hex: '0100', read: (r) => r.boolean('x') },
    { name: 'an empty integer', hex: '0200', read: (r) => r.integer('x') },
    { name: 'a padded positive integer', hex: '0202007f', read: (r) => r.integer('x') },
    { name: 'a padded negative integer', hex: '0202ff80', read: (r) => r.integer('x') },
    { name: 'a negative small integer', hex: '0201ff', read: (r) => r.smallInteger('x') },
    { name: 'a small integer of five bytes', hex: '02050100000000', read: (r) => r.smallInteger('x') },
    { name: 'an empty OID', hex: '0600', read: (r) => r.oid('x') },
    { name: 'an OID with a padded arc', hex: '06032a8001', read: (r) => r.oid('x') },
    { name: 'an OID that ends inside an arc', hex: '06022a81', read: (r) => r.oid('x') },
    { name: 'an OID of 65 bytes', hex: `0641${'2a'.repeat(65)}`, read: (r) => r.oid('x') },
    { name: 'an empty bit string', hex: '0300', read: (r) => r.bitString('x') },
    { name: 'a key with unused bits', hex: '030201fe', read: (r) => r.bitString('x') },
    { name: 'named bits without a count of unused bits', hex: '0300', read: bits },
    { name: 'named bits with 8 unused bits', hex: '03020800', read: bits },
    { name: 'named bits with unused bits and no byte', hex: '030101', read: bits },
    { name: 'named bits without end', hex: '030600ffffffffff', read: bits },
    { name: 'named bits with a bit set in the padding', hex: '03020781', read: bits },
  ];

  function bits(r: DerReader): unknown {
    return readNamedBits(r.any('x'), 'x');
  }

  it.each(bad)('refuses $name', ({ hex, read }) => {
    expect(refusal(() => read(reader(hex)))).toMatch(/^x: /);
  });

  it('refuses nesting that only serves to exhaust the stack', () => {
    let der: Buffer = Buffer.alloc(0);
    for (let level = 0; level < 17; level += 1) der = sequence(der);
    const descend = (): void => {
      let inner = new DerReader(der);
      for (let level = 0; level < 17; level += 1) inner = inner.enter('x');
    };
    expect(refusal(descend)).toContain('levels');
  });

  it('tells what is missing, and what is there instead', () => {
    expect(refusal(() => reader('').take(tags.integer, 'serial'))).toBe('serial: missing');
    expect(refusal(() => reader('0500').take(tags.integer, 'serial'))).toBe(
      'serial: expected tag 0x02, got 0x05',
    );
  });

  it('leaves an optional element of another tag alone', () => {
    const r = reader('020105');
    expect(r.optional(tags.boolean, 'x')).toBeUndefined();
    expect(r.smallInteger('x')).toBe(5);
    expect(r.isAtEnd).toBe(true);
  });

  it('reads lengths of every form to the last byte', () => {
    for (const length of [0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000]) {
      const der = element(tags.octetString, Buffer.alloc(length, 7));
      const r = new DerReader(der);
      expect(r.take(tags.octetString, 'x').contents).toHaveLength(length);
      expect(r.isAtEnd).toBe(true);
    }
  });

  it('stops at random bytes with nothing but its own error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const r = new DerReader(Buffer.from(bytes));
        refusal(() => {
          for (;;) readTime(r.any('x'), 'x');
        });
        refusal(() => new DerReader(Buffer.from(bytes)).oid('x'));
        refusal(() => bits(new DerReader(Buffer.from(bytes))));
      }),
    );
  });
});

describe('what the writer writes, the reader reads', () => {
  it('for integers', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 24 }), (bytes) => {
        const read = new DerReader(integer(bytes)).integer('x');
        expect(BigInt(`0x${read.toString('hex')}`)).toBe(BigInt(`0x${Buffer.from(bytes).toString('hex')}`));
        expect(read.readUInt8(0)).toBeLessThan(0x80);
      }),
    );
  });

  it('for small integers', () => {
    for (const value of [0, 1, 127, 128, 255, 256, 2 ** 31 - 1])
      expect(new DerReader(smallInteger(value)).smallInteger('x')).toBe(value);
    for (const value of [-1, 0.5, 2 ** 31, Number.NaN])
      expect(refusal(() => smallInteger(value))).toBeDefined();
  });

  it('for object identifiers, arcs of 128 bits too', () => {
    const arc = fc.bigInt({ min: 0n, max: 2n ** 126n });
    const first = fc.oneof(
      fc.tuple(fc.constantFrom(0n, 1n), fc.bigInt({ min: 0n, max: 39n })),
      fc.tuple(fc.constant(2n), arc),
    );
    fc.assert(
      fc.property(first, fc.array(arc, { minLength: 1, maxLength: 2 }), (head, rest) => {
        const text = [...head, ...rest].join('.');
        expect(new DerReader(oid(text)).oid('x')).toBe(text);
      }),
    );
  });

  it.each(['', '1', '1.2', '3.1.1', '1.40.1', '1.02.3', '1.2.3.', '1.2.-3', 'a.b.c'])(
    'and "%s" is no OID',
    (text) => {
      expect(refusal(() => oid(text))).toContain('not an object identifier');
    },
  );

  it('for named bits', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 20 })), (wanted) => {
        const read = readNamedBits(new DerReader(namedBits(wanted)).any('x'), 'x');
        expect(read.flatMap((bit, index) => (bit ? [index] : []))).toEqual(wanted.toSorted((a, b) => a - b));
      }),
    );
  });

  it('for times, in the form RFC 5280 wants before and after 2050', () => {
    const min = Date.UTC(1950, 0) / 1000;
    const max = Date.UTC(9999, 11, 31, 23, 59, 59) / 1000;
    fc.assert(
      fc.property(fc.integer({ min, max }), (seconds) => {
        const written = new DerReader(time(seconds * 1000)).any('x');
        expect(written.tag).toBe(seconds * 1000 < Date.UTC(2050, 0) ? tags.utcTime : tags.generalizedTime);
        expect(readTime(written, 'x')).toBe(seconds * 1000);
      }),
    );
  });

  it('except times that a certificate cannot say', () => {
    for (const ms of [Date.UTC(1950, 0) - 1, Date.UTC(10_000, 0), Number.NaN, Number.POSITIVE_INFINITY])
      expect(refusal(() => time(ms))).toContain('between 1950 and 9999');
  });
});

describe('readTime', () => {
  const read = (tag: number, text: string): number =>
    readTime(new DerReader(element(tag, Buffer.from(text, 'latin1'))).any('x'), 'x');

  it('splits the centuries of UTCTime at 1950', () => {
    expect(read(tags.utcTime, '500101000000Z')).toBe(Date.UTC(1950, 0));
    expect(read(tags.utcTime, '491231235959Z')).toBe(Date.UTC(2049, 11, 31, 23, 59, 59));
  });

  it('reads GeneralizedTime of any year, before 2050 too', () => {
    expect(read(tags.generalizedTime, '20300101000000Z')).toBe(Date.UTC(2030, 0));
    expect(read(tags.generalizedTime, '99991231235959Z')).toBe(Date.UTC(9999, 11, 31, 23, 59, 59));
  });

  it.each([
    { name: 'no seconds', tag: tags.utcTime, text: '3001010000Z' },
    { name: 'an offset', tag: tags.utcTime, text: '300101000000+0100' },
    { name: 'no Z', tag: tags.utcTime, text: '300101000000' },
    { name: '30 February', tag: tags.utcTime, text: '300230000000Z' },
    { name: 'month 13', tag: tags.utcTime, text: '301301000000Z' },
    { name: 'month 0', tag: tags.utcTime, text: '300001000000Z' },
    { name: 'day 0', tag: tags.utcTime, text: '300100000000Z' },
    { name: 'day 32', tag: tags.utcTime, text: '300132000000Z' },
    { name: 'hour 24', tag: tags.utcTime, text: '300101240000Z' },
    { name: 'minute 60', tag: tags.utcTime, text: '300101006000Z' },
    { name: 'hour 24 at the end of the year', tag: tags.generalizedTime, text: '20301231240000Z' },
    { name: 'a leap second', tag: tags.utcTime, text: '301231235960Z' },
    { name: 'a line break', tag: tags.utcTime, text: '300101000000Z\n' },
    { name: 'fractions', tag: tags.generalizedTime, text: '20300101000000.5Z' },
    { name: 'a UTCTime as GeneralizedTime', tag: tags.generalizedTime, text: '300101000000Z' },
    { name: 'a string', tag: tags.ia5String, text: '300101000000Z' },
  ])('refuses $name', ({ tag, text }) => {
    expect(refusal(() => read(tag, text))).toMatch(/^x: /);
  });
});
