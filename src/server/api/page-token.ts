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

/** Which items a page is to have, and how to ask for them. */
export interface WantedPage {
  /** The page begins after it; undefined = with the first item. */
  readonly afterId: string | undefined;
  /** Undefined = all items in one page. */
  readonly size: number | undefined;
  /** How many items to look for: one more than the page has tells whether another page follows. */
  readonly limit: number | undefined;
}

/** What a request says of its page; a size of 0 is all in one, a larger one than `longest` that. Throws `invalid-argument`. */
export function parsePage(
  { pageSize, pageToken }: { readonly pageSize: number; readonly pageToken: string },
  longest = Number.POSITIVE_INFINITY,
): WantedPage {
  if (pageSize < 0) throw new AppError('invalid-argument', 'page size must not be negative');
  const size = pageSize === 0 ? undefined : Math.min(pageSize, longest);
  return { afterId: parsePageToken(pageToken), size, limit: size === undefined ? undefined : size + 1 };
}

/** The page out of at most `limit` items that were found, and the token of the next one. */
export function pageOf<T>(
  found: readonly T[],
  { size = found.length }: Pick<WantedPage, 'size'>,
  idOf: (item: T) => string,
): { readonly page: readonly T[]; readonly nextPageToken: string } {
  const page = found.slice(0, size);
  const last = page.length < found.length ? page.at(-1) : undefined;
  return { page, nextPageToken: last === undefined ? '' : encodePageToken(idOf(last)) };
}

function malformed(): AppError {
  return new AppError(
    'invalid-argument',
    'malformed page token: expected the next_page_token of the answer before, unchanged',
  );
}
