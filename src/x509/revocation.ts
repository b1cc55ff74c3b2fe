import { AppError } from '../runtime/error.ts';
import type { Certificate } from './certificate.ts';
import type { RevocationList } from './revocation-list.ts';

/** Why a path is refused; the `reason` of the error. */
type RevocationRefusal = 'CERTIFICATE_REVOKED' | 'REVOCATION_UNKNOWN';

/**
 * Refuses a path (leaf first, as `validatePath` returns it) unless each certificate below the anchor is covered by
 * a current list of its issuer and not on any of them (RFC 5280 §6.3, complete lists only). No list, or only a stale,
 * early or forged one, refuses: else whoever can hold back a list can use what it revokes. Throws AppError
 * `unauthenticated` with a `RevocationRefusal` as reason.
 */
export function requireNotRevoked(
  path: readonly Certificate[],
  lists: readonly RevocationList[],
  nowMs: number,
): void {
  for (const [index, certificate] of path.entries()) {
    const issuer = path[index + 1];
    if (issuer === undefined) break;
    const ofIssuer = lists.filter((list) => isOf(list, issuer));
    const problems = ofIssuer.map((list) => findProblem(list, issuer, nowMs));
    const current = ofIssuer.filter((_, i) => problems[i] === undefined);
    if (current.length === 0) throw unknown(issuer, problems[0] ?? 'there is none');
    if (!current.some((list) => list.revokes(certificate.serialHex))) continue;
    const message = `certificate "${clip(certificate.subjectText)}" (serial ${certificate.serialHex}) is revoked`;
    throw refused('CERTIFICATE_REVOKED', message);
  }
}

/** By name and key: an authority that was given another key has two lists of one name. */
function isOf(list: RevocationList, issuer: Certificate): boolean {
  if (!list.issuer.equals(issuer.subject)) return false;
  const { authorityKeyId } = list;
  return (
    authorityKeyId === undefined ||
    issuer.subjectKeyId === undefined ||
    authorityKeyId === issuer.subjectKeyId
  );
}

function findProblem(list: RevocationList, issuer: Certificate, nowMs: number): string | undefined {
  // Written so that a time that is not a number refuses.
  if (!(nowMs >= list.thisUpdateMs)) return `it is dated ${new Date(list.thisUpdateMs).toISOString()}`;
  if (!(nowMs <= list.nextUpdateMs))
    return `it was to be replaced by ${new Date(list.nextUpdateMs).toISOString()}`;
  if (issuer.keyUsage?.has('cRLSign') === false) return 'the authority lacks key usage cRLSign';
  return list.verifySignedBy(issuer) ? undefined : 'its signature is not valid';
}

function unknown(issuer: Certificate, problem: string): AppError {
  const message = `no current revocation list of "${clip(issuer.subjectText)}": ${problem}`;
  return refused('REVOCATION_UNKNOWN', message);
}

function refused(reason: RevocationRefusal, message: string): AppError {
  return new AppError('unauthenticated', message, { reason });
}

/** Names come from the peer. */
function clip(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
