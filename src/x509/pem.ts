import { malformed } from './der-reader.ts';

/** One block of a PEM file (RFC 7468). */
export interface PemBlock {
  readonly label: string;
  readonly der: Buffer;
}

/** A bundle of 1,000 certificates has about 2 MB; more only fills the memory. */
const MAX_PEM_LENGTH = 4 * 1024 * 1024;

/**
 * Splits a PEM text into blocks, strictly: text around the blocks is allowed (RFC 7468 §2) but not stray boundary
 * lines, headers, or base64 that is not canonical. Throws AppError `invalid-argument` that counts blocks from 1.
 */
export function parsePem(text: string): PemBlock[] {
  if (text.length > MAX_PEM_LENGTH) throw malformed(`PEM text is longer than ${MAX_PEM_LENGTH} characters`);
  const blocks: PemBlock[] = [];
  let label: string | undefined;
  let body: string[] = [];
  for (const line of text.split('\n').map((raw) => raw.trimEnd())) {
    const where = `PEM block ${blocks.length + 1}`;
    const boundary = /^-----(BEGIN|END) ([A-Z0-9]+(?: [A-Z0-9]+)*)-----$/.exec(line);
    if (boundary === null) {
      // A damaged boundary must not turn a block into a comment that silently goes missing.
      if (line.includes('----')) throw malformed(`${where}: damaged boundary line`);
      if (label !== undefined) body.push(line);
    } else if (boundary[1] === 'BEGIN') {
      if (label !== undefined) throw malformed(`${where}: a new block begins before this one ends`);
      label = boundary[2];
      body = [];
    } else {
      if (label === undefined || boundary[2] !== label)
        throw malformed(`${where}: END line without its BEGIN line`);
      blocks.push({ label, der: decodeBase64(body.join(''), where) });
      label = undefined;
    }
  }
  if (label !== undefined) throw malformed(`PEM block ${blocks.length + 1}: no END line`);
  return blocks;
}

function decodeBase64(text: string, where: string): Buffer {
  const der = Buffer.from(text, 'base64');
  // Node skips what is not base64; only text that comes out the same went in whole.
  if (der.length === 0 || der.toString('base64') !== text) throw malformed(`${where}: not canonical base64`);
  return der;
}

/** A PEM block with lines of 64 characters and a line break at the end (RFC 7468 §2). */
export function encodePem(label: string, der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}
