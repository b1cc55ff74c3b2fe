import { unprintable } from '../../runtime/printable.ts';

const maxBytes = 256;
const cutMark = '…';

/**
 * Text that a caller wrote, made fit to keep and to print: at most 256 bytes of UTF-8, and no character that could
 * move a cursor, break a line or turn the direction of writing.
 */
export function foreignText(text: string): string {
  let result = '';
  let bytes = 0;
  for (const character of text) {
    const shown = unprintable.test(character) ? escaped(character) : character;
    const size = Buffer.byteLength(shown);
    if (bytes + size > maxBytes) return withCutMark(result);
    result += shown;
    bytes += size;
  }
  return result;
}

function escaped(character: string): string {
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
}

function withCutMark(text: string): string {
  let kept = [...text];
  while (Buffer.byteLength(kept.join('')) + Buffer.byteLength(cutMark) > maxBytes) kept = kept.slice(0, -1);
  return kept.join('') + cutMark;
}
