import { AppError } from '../runtime/error.ts';
import type { Certificate } from './certificate.ts';
import { findForbiddenName } from './name-constraints.ts';
import { describeKey, findSignatureAlgorithm } from './signature.ts';

/** Why there is no path; the `reason` of the error. */
export type PathRefusal =
  | 'CERTIFICATE_NOT_YET_VALID'
  | 'CERTIFICATE_EXPIRED'
  | 'UNKNOWN_CRITICAL_EXTENSION'
  | 'UNSUPPORTED_SIGNATURE_ALGORITHM'
  | 'ISSUER_IS_NOT_A_CA'
  | 'ISSUER_MAY_NOT_SIGN_CERTIFICATES'
  | 'PATH_TOO_LONG'
  | 'NAME_NOT_PERMITTED'
  | 'BAD_SIGNATURE'
  | 'NO_TRUSTED_ISSUER'
  | 'TOO_MANY_CANDIDATES';

/** What `validatePath` is asked. */
export interface PathRequest {
  readonly leaf: Certificate;
  /** In any order, duplicates and strangers allowed; trusted with nothing. */
  readonly intermediates: readonly Certificate[];
  /** Trusted, self-signed or not: all but their own signatures is checked. */
  readonly anchors: readonly Certificate[];
  readonly nowMs: number;
}

/** A peer sends one or two. */
const MAX_INTERMEDIATES = 32;
/** Certificates of one path, leaf and anchor included. */
const MAX_PATH_CERTIFICATES = 8;
/** Issuers tried: n intermediates of one name can be ordered in n! ways, and a hostile peer chooses n. */
const MAX_CANDIDATES = 128;
/** Signatures checked; an honest path has two or three. */
const MAX_SIGNATURE_CHECKS = 32;

interface Refusal {
  readonly reason: PathRefusal;
  readonly message: string;
}

interface Search extends PathRequest {
  candidates: number;
  signatureChecks: number;
  /** Of the last path that came to nothing. */
  refusal: Refusal | undefined;
}

/**
 * Finds a path from the leaf to an anchor that meets RFC 5280 §6.1, and returns it leaf first.
 *
 * Paths are built upwards by name and key identifier, then checked downwards from the anchor, so that no key is used
 * before it is trusted. Names are compared byte for byte (§7.1 would allow more). Policies are not processed:
 * critical extensions about them are refused. Revocation, and what the leaf may be used for, is the caller's.
 * Throws AppError `unauthenticated` with a `PathRefusal` as reason; the work is bounded whatever the input.
 */
export function validatePath(request: PathRequest): readonly Certificate[] {
  if (request.intermediates.length > MAX_INTERMEDIATES) throw tooManyCandidates();
  const search: Search = { ...request, candidates: 0, signatureChecks: 0, refusal: undefined };
  const refusal = refuseCertificate(request.leaf, request.nowMs);
  if (refusal !== undefined) throw toError(refusal);
  const path = extend(search, [request.leaf]);
  if (path !== undefined) return path;
  throw toError(
    search.refusal ?? {
      reason: 'NO_TRUSTED_ISSUER',
      message: `no trusted authority has issued ${describe(request.leaf)} or an intermediate above it`,
    },
  );
}

function toError({ reason, message }: Refusal): AppError {
  return new AppError('unauthenticated', message, { reason });
}

/** Depth first: an anchor if one fits, else each intermediate that fits. */
function extend(search: Search, path: readonly Certificate[]): readonly Certificate[] | undefined {
  for (const anchor of candidatesFor(path, search.anchors)) {
    const candidate = [...path, anchor];
    const refusal = refuseIssuer(search, anchor, 'anchor') ?? refusePath(search, candidate);
    if (refusal === undefined) return candidate;
    search.refusal = refusal;
  }
  for (const issuer of candidatesFor(path, search.intermediates)) {
    const refusal = refuseIssuer(search, issuer, 'intermediate') ?? refuseDepth(path);
    if (refusal !== undefined) {
      search.refusal = refusal;
      continue;
    }
    const found = extend(search, [...path, issuer]);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Those that by their names could have issued the last certificate of the path (RFC 5280 §6.1 (a), §4.2.1.1). */
function candidatesFor(path: readonly Certificate[], issuers: readonly Certificate[]): Certificate[] {
  const subject = path.at(-1);
  if (subject === undefined) return [];
  return issuers.filter(
    (issuer) =>
      issuer.subject.equals(subject.issuer) &&
      (subject.authorityKeyId === undefined ||
        issuer.subjectKeyId === undefined ||
        issuer.subjectKeyId === subject.authorityKeyId) &&
      // The same name and key again proves nothing new; cross-signed authorities would go round in circles.
      !path.some((seen) => seen.subject.equals(issuer.subject) && seen.spki.equals(issuer.spki)),
  );
}

/** RFC 5280 §6.1.3 (a)(2), §6.1.4 (o), §6.1.5 (f): what is asked of every certificate. */
function refuseCertificate(certificate: Certificate, nowMs: number): Refusal | undefined {
  const { notBeforeMs, notAfterMs, unknownCriticalExtensions } = certificate;
  // Written so that a time that is not a number refuses.
  if (!(nowMs >= notBeforeMs)) {
    const message = `${describe(certificate)} is not valid before ${timeText(notBeforeMs)}`;
    return { reason: 'CERTIFICATE_NOT_YET_VALID', message };
  }
  if (!(nowMs <= notAfterMs))
    return {
      reason: 'CERTIFICATE_EXPIRED',
      message: `${describe(certificate)} expired at ${timeText(notAfterMs)}`,
    };
  if (unknownCriticalExtensions.length > 0) {
    const message = `${describe(certificate)} has critical extensions that are not supported: ${unknownCriticalExtensions}`;
    return { reason: 'UNKNOWN_CRITICAL_EXTENSION', message };
  }
  return undefined;
}

/** RFC 5280 §6.1.4 (k), (n): what is asked of a certificate that issues others. */
function refuseIssuer(
  search: Search,
  issuer: Certificate,
  role: 'anchor' | 'intermediate',
): Refusal | undefined {
  search.candidates += 1;
  if (search.candidates > MAX_CANDIDATES) throw tooManyCandidates();
  const refusal = refuseCertificate(issuer, search.nowMs);
  if (refusal !== undefined) return refusal;
  if (!issuer.isCa)
    return {
      reason: 'ISSUER_IS_NOT_A_CA',
      message: `issuer ${describe(issuer)} is not a certificate authority`,
    };
  // §4.2.1.3: authorities must have keyUsage; only an anchor may be older than that rule.
  const maySign = issuer.keyUsage?.has('keyCertSign') ?? role === 'anchor';
  if (maySign) return undefined;
  const message = `issuer ${describe(issuer)} lacks key usage keyCertSign`;
  return { reason: 'ISSUER_MAY_NOT_SIGN_CERTIFICATES', message };
}

function refuseDepth(path: readonly Certificate[]): Refusal | undefined {
  // Room for one more intermediate and the anchor.
  if (path.length + 2 <= MAX_PATH_CERTIFICATES) return undefined;
  return { reason: 'PATH_TOO_LONG', message: `a path has at most ${MAX_PATH_CERTIFICATES} certificates` };
}

/** The checks that need the whole path. Names last: only lists that an authority has signed are worth comparing. */
function refusePath(search: Search, path: readonly Certificate[]): Refusal | undefined {
  return refusePathLength(path) ?? refuseSignatures(search, path) ?? refuseNames(path);
}

/** RFC 5280 §6.1.4 (l), (m), with the anchor's own limit (RFC 5937 §3.2). */
function refusePathLength(path: readonly Certificate[]): Refusal | undefined {
  let below = 0;
  for (const [index, issuer] of path.entries()) {
    if (index === 0) continue;
    if (issuer.pathLength !== undefined && below > issuer.pathLength) {
      const message = `${describe(issuer)} allows ${issuer.pathLength} intermediates below it, the path has ${below}`;
      return { reason: 'PATH_TOO_LONG', message };
    }
    if (!issuer.isSelfIssued) below += 1;
  }
  return undefined;
}

/** RFC 5280 §6.1.3 (b), (c), with the anchor's own constraints (RFC 5937 §3.2). */
function refuseNames(path: readonly Certificate[]): Refusal | undefined {
  for (const [height, issuer] of path.entries()) {
    const { nameConstraints } = issuer;
    if (height === 0 || nameConstraints === undefined) continue;
    for (const [index, certificate] of path.slice(0, height).entries()) {
      if (certificate.isSelfIssued && index > 0) continue;
      const forbidden = findForbiddenName(nameConstraints, certificate);
      if (forbidden === undefined) continue;
      const message = `name constraints of ${describe(issuer)} forbid ${clip(forbidden)}`;
      return { reason: 'NAME_NOT_PERMITTED', message };
    }
  }
  return undefined;
}

/** From the anchor down. */
function refuseSignatures(search: Search, path: readonly Certificate[]): Refusal | undefined {
  for (const [index, issuer] of [...path.entries()].reverse()) {
    const certificate = path[index - 1];
    if (certificate === undefined) break;
    search.signatureChecks += 1;
    if (search.signatureChecks > MAX_SIGNATURE_CHECKS) throw tooManyCandidates();
    const refusal = refuseSignature(certificate, issuer);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

/** RFC 5280 §6.1.3 (a)(1). */
function refuseSignature(certificate: Certificate, issuer: Certificate): Refusal | undefined {
  if (findSignatureAlgorithm(certificate.signatureOid) === undefined) {
    const message = `${describe(certificate)} is signed with algorithm ${certificate.signatureOid}, which is not accepted`;
    return { reason: 'UNSUPPORTED_SIGNATURE_ALGORITHM', message };
  }
  if (certificate.verifySignedBy(issuer)) return undefined;
  const key = `the ${describeKey(issuer.spki)} key of ${describe(issuer)}`;
  return { reason: 'BAD_SIGNATURE', message: `${describe(certificate)} has no valid signature by ${key}` };
}

function tooManyCandidates(): AppError {
  return toError({
    reason: 'TOO_MANY_CANDIDATES',
    message: 'gave up: too many certificates could be the issuer',
  });
}

function describe({ uris, subjectText, serialHex }: Certificate): string {
  return `certificate "${clip(uris[0] ?? subjectText)}" (serial ${serialHex})`;
}

/** Names come from the peer; an error text is not the place for 60 KB of them. */
function clip(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
