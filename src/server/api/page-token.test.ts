import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { encodePageToken, pageOf, parsePage, parsePageToken } from './page-token.ts';

describe('a page token', () => {
  it('gives back the id it was made from', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 300 }), (id) => {
        expect(parsePageToken(encodePageToken(id))).toBe(id);
      }),
    );
  });

  it('holds the longest SPIFFE ID', () => {
    const id = `spiffe://example.org/${'a'.repeat(2027)}`;
    expect(parsePageToken(encodePageToken(id))).toBe(id);
  });

  it('that is empty stands for the first page', () => {
    expect(parsePageToken('')).toBeUndefined();
  });

  it.each([
    { name: 'an entry id', token: '0b5a1c7e-9c53-4f1e-8a57-8b1b3c3f9a51' },
    { name: 'a number', token: '17' },
    { name: 'one of another version', token: Buffer.from('\u0002id').toString('base64url') },
    { name: 'one without an id', token: Buffer.from('\u0001').toString('base64url') },
    { name: 'one with something behind it', token: `${encodePageToken('id')}=` },
    { name: 'one with a space inside', token: encodePageToken('entry').replace(/^(..)/, '$1 ') },
    { name: 'one in the other alphabet', token: Buffer.from('\u0001\u00ff\u00fe?>').toString('base64') },
    { name: 'one that is no UTF-8', token: Buffer.of(1, 0xff, 0xfe).toString('base64url') },
    { name: 'one that is far too long', token: encodePageToken('a'.repeat(10_000)) },
  ])('is refused when it is $name', ({ token }) => {
    expect(() => parsePageToken(token)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('is read exactly or refused without being repeated, whatever the text', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.base64String()), (text) => {
        try {
          const id = parsePageToken(text);
          expect(id === undefined ? '' : encodePageToken(id)).toBe(text);
        } catch (error) {
          expect(isAppError(error, 'invalid-argument')).toBe(true);
          if (text.length > 30) expect((error as Error).message).not.toContain(text);
        }
      }),
    );
  });
});

describe('pages', () => {
  const all = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 12 });

  it('together have each item once, none is longer than asked for or allowed, and only the last has no token', () => {
    fc.assert(
      fc.property(
        all,
        fc.integer({ min: 0, max: 14 }),
        fc.integer({ min: 1, max: 14 }),
        (ids, pageSize, longest) => {
          const sorted = ids.toSorted();
          const seen: string[] = [];
          let pageToken = '';
          do {
            const wanted = parsePage({ pageSize, pageToken }, longest);
            const { afterId = '', limit } = wanted;
            const found = sorted.filter((id) => id > afterId).slice(0, limit);
            const { page, nextPageToken } = pageOf(found, wanted, (id) => id);
            if (pageSize > 0) expect(page.length).toBeLessThanOrEqual(Math.min(pageSize, longest));
            expect(page.length > 0 || pageToken === '').toBe(true);
            seen.push(...page);
            pageToken = nextPageToken;
          } while (pageToken !== '');
          expect(seen).toEqual(sorted);
        },
      ),
    );
  });

  it('of a negative size are refused', () => {
    expect(() => parsePage({ pageSize: -1, pageToken: '' })).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: 'page size must not be negative' }),
    );
  });
});
