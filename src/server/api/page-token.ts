import { AppError } from '../../runtime/error.ts';

/** A change of the format makes old tokens unreadable instead of misread. */
const version = 1;
/** Longer than the token of the longest SPIFFE ID. */
const maxTokenLength = 4096;

/** The opaque token of the page that comes after `lastId`, which must not be empty. */
export function encodePageToken(lastId: string): string {
  return Buffer.concat([Buffer.of(version), Buffer.from(lastId, 'utf8')]).toString('base64url');
}

/** The id after which the page begins; the empty token stands for the first page. Throws `invalid-argument`. */
export function parsePageToken(text: string): string | undefined {
  if (text === '') return undefined;
  if (text.length > maxTokenLength) throw malformed();
  const bytes = Buffer.from(text, 'base64url');
  const lastId = bytes.toString('utf8', 1);
  // Buffer skips what it does not know: only what this server could have written is read.
  if (lastId === '' || encodePageToken(lastId) !== text) throw malformed();
  return lastId;
}

function malformed(): AppError {
  return new AppError(
    'invalid-argument',
    'malformed page token: expected the next_page_token of the answer before, unchanged',
  );
}
