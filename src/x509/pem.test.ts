import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { encodePem, parsePem } from './pem.ts';

const block = encodePem('CERTIFICATE', Buffer.alloc(60, 1));

function refusal(text: string): string {
  try {
    return `accepted ${parsePem(text).length}`;
  } catch (error) {
    if (error instanceof AppError) return error.message;
    throw error;
  }
}

describe('parsePem', () => {
  it('reads back what was written, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 })), (contents) => {
        const text = contents.map((der) => encodePem('CERTIFICATE', der)).join('');
        expect(parsePem(text)).toEqual(
          contents.map((der) => ({ label: 'CERTIFICATE', der: Buffer.from(der) })),
        );
      }),
    );
  });

  it.each([
    { name: 'line breaks of Windows', text: block.replaceAll('\n', '\r\n') },
    { name: 'spaces at the ends of lines', text: block.replaceAll('\n', ' \t\n') },
    { name: 'no line break at the end', text: block.trimEnd() },
    { name: 'a comment around the block', text: `# root of example.test\n\n${block}\nthat was all\n` },
    { name: 'one long line', text: block.replace(/(?<=[A-Za-z0-9])\n(?=[A-Za-z0-9])/g, '') },
  ])('accepts $name', ({ text }) => {
    expect(parsePem(text)).toEqual(parsePem(block));
  });

  it.each([
    { name: 'a damaged BEGIN line', text: block.replace('-----BEGIN', '----BEGIN') },
    { name: 'a damaged END line', text: block.replace('TE-----\n', 'TE----\n') },
    { name: 'two damaged lines', text: block.replaceAll('-----', '----') },
    { name: 'a block without an end', text: block.slice(0, 60) },
    { name: 'an end without a beginning', text: block.slice(28) },
    { name: 'an end of another label', text: block.replace('END CERTIFICATE', 'END X509 CRL') },
    { name: 'a block inside a block', text: `${block.slice(0, 40)}\n${block}` },
    { name: 'a header', text: block.replace('-----\n', '-----\nProc-Type: 4,ENCRYPTED\n\n') },
    { name: 'characters outside base64', text: block.replace('AQEB', 'AQ*B') },
    { name: 'base64url', text: block.replace('AQEB', 'AQ_B') },
    { name: 'a space inside a line', text: block.replace('AQEB', 'AQ EB') },
    { name: 'missing padding', text: encodePem('CERTIFICATE', Buffer.of(1)).replace('==', '') },
    { name: 'bits that do not count', text: encodePem('CERTIFICATE', Buffer.of(1)).replace('AQ==', 'AR==') },
    { name: 'an empty block', text: '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n' },
  ])('refuses $name', ({ text }) => {
    expect(refusal(text)).toMatch(/^PEM block 1: /);
  });

  it('names the block that is bad', () => {
    expect(refusal(block + block + block.slice(0, 60))).toBe('PEM block 3: no END line');
  });

  it('refuses to read without end', () => {
    expect(refusal('x'.repeat(5_000_000))).toContain('longer than');
  });
});
