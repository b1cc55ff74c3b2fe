import { AppError } from '../runtime/error.ts';

/** Longest SPIFFE ID in bytes, scheme included (SPIFFE-ID §2.3). */
const maxSpiffeIdBytes = 2048;
/** Longest trust domain name in bytes (SPIFFE-ID §2.3). */
const maxTrustDomainBytes = 255;

const scheme = 'spiffe://';
/** How much of a refused text an error repeats: callers may send anything. */
const shownLength = 100;

/** A trust domain name that is known to be valid: lower-case letters, digits, dots, dashes, underscores (SPIFFE-ID §2.1). */
export class TrustDomain {
  /** Nearly all names that come are the server's own: many thousands of IDs share one object. */
  static #last: TrustDomain | undefined;
  readonly name: string;
  /** The trust domain's own SPIFFE ID, without a path: `spiffe://example.org`. */
  readonly id: string;

  private constructor(name: string) {
    this.name = name;
    this.id = scheme + name;
  }

  /** Parses a bare name such as `example.org`; throws `invalid-argument`. */
  static parse(name: string): TrustDomain {
    if (TrustDomain.#last?.name === name) return TrustDomain.#last;
    const refusal = trustDomainRefusal(name);
    if (refusal !== undefined) throw invalid('trust domain', name, refusal);
    TrustDomain.#last = new TrustDomain(name);
    return TrustDomain.#last;
  }

  /** Parses a bare name, or takes the trust domain of a SPIFFE ID with or without a path; throws `invalid-argument`. */
  static parseNameOrId(text: string): TrustDomain {
    return text.includes(':') ? SpiffeId.parse(text).trustDomain : TrustDomain.parse(text);
  }

  equals(other: TrustDomain): boolean {
    return this.name === other.name;
  }

  toString(): string {
    return this.name;
  }
}

/** A SPIFFE ID that is known to be valid; `toString()` gives back exactly the bytes that were parsed (SPIFFE-ID §2). */
export class SpiffeId {
  readonly trustDomain: TrustDomain;
  /** Empty, or starts with `/`. Compared case-sensitively. */
  readonly path: string;
  readonly #text: string;

  private constructor(trustDomain: TrustDomain, path: string, text: string) {
    this.trustDomain = trustDomain;
    this.path = path;
    this.#text = text;
  }

  /**
   * Parses a SPIFFE ID; throws `invalid-argument`. Written by hand: `new URL()` removes `..`, trims white space and
   * hides an empty port, query or fragment.
   */
  static parse(text: string): SpiffeId {
    // Above the limit nothing else of the text is looked at.
    if (text.length > maxSpiffeIdBytes) throw invalid('SPIFFE ID', text, tooLong);
    if (text === '') throw invalid('SPIFFE ID', text, 'must not be empty');
    if (!text.startsWith(scheme)) throw invalid('SPIFFE ID', text, 'must start with "spiffe://"');
    const slash = text.indexOf('/', scheme.length);
    const name = slash === -1 ? text.slice(scheme.length) : text.slice(scheme.length, slash);
    const path = slash === -1 ? '' : text.slice(slash);
    const refusal = trustDomainRefusal(name) ?? pathRefusal(path);
    if (refusal !== undefined) throw invalid('SPIFFE ID', text, refusal);
    return new SpiffeId(TrustDomain.parse(name), path, text);
  }

  /** Joins a trust domain and a path, which is empty or starts with `/`; throws `invalid-argument`. */
  static of(trustDomain: TrustDomain, path: string): SpiffeId {
    const length = trustDomain.id.length + path.length;
    const refusal = length > maxSpiffeIdBytes ? tooLong : pathRefusal(path);
    if (refusal !== undefined) throw invalid('SPIFFE ID', trustDomain.id + path, refusal);
    return new SpiffeId(trustDomain, path, trustDomain.id + path);
  }

  equals(other: SpiffeId): boolean {
    return this.#text === other.#text;
  }

  isMemberOf(trustDomain: TrustDomain): boolean {
    return this.trustDomain.equals(trustDomain);
  }

  toString(): string {
    return this.#text;
  }
}

/** The ID of the server of a trust domain: `spiffe://<td>/spire/server`, the name SPIRE agents look for. */
export function serverIdOf(trustDomain: TrustDomain): SpiffeId {
  return SpiffeId.of(trustDomain, '/spire/server');
}

/** True for `/spire` and all below it: the names of servers and agents, which no workload may hold. */
export function isReservedPath(path: string): boolean {
  return path === '/spire' || path.startsWith('/spire/');
}

const tooLong = `must be at most ${maxSpiffeIdBytes} bytes long`;
const trustDomainCharacters = /^[a-z0-9._-]*$/;
const segmentCharacters = /^[A-Za-z0-9._-]*$/;

function trustDomainRefusal(name: string): string | undefined {
  if (name === '') return 'trust domain must not be empty';
  if (!trustDomainCharacters.test(name)) {
    return 'trust domain characters are limited to lower-case letters, digits, dots, dashes and underscores';
  }
  if (name.length > maxTrustDomainBytes)
    return `trust domain must be at most ${maxTrustDomainBytes} bytes long`;
  return undefined;
}

function pathRefusal(path: string): string | undefined {
  if (path === '') return undefined;
  const [beforeFirstSlash, ...segments] = path.split('/');
  if (beforeFirstSlash !== '') return 'path must start with "/"';
  if (segments.at(-1) === '') return 'path must not end with "/"';
  for (const segment of segments) {
    if (segment === '') return 'path must not contain empty segments';
    if (segment === '.' || segment === '..') return 'path must not contain "." or ".." segments';
    if (!segmentCharacters.test(segment)) {
      return 'path segment characters are limited to letters, digits, dots, dashes and underscores';
    }
  }
  return undefined;
}

function invalid(what: string, text: string, rule: string): AppError {
  const shown = text.length > shownLength ? `${text.slice(0, shownLength)}…` : text;
  return new AppError('invalid-argument', `invalid ${what} ${JSON.stringify(shown)}: ${rule}`);
}
