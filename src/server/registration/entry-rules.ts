import { AppError } from '../../runtime/error.ts';
import type { NewEntry } from '../../spiffe/registration-entry.ts';
import { isReservedPath, type SpiffeId, serverIdOf, type TrustDomain } from '../../spiffe/spiffe-id.ts';

/** Hints longer than this are not to be supported (SPIFFE Workload API §4.4, WAPI-58). */
const maxHintBytes = 1024;
const maxTtlSeconds = 2_147_483_647;
const maxSelectors = 256;
const maxDnsNames = 128;
const maxFederatesWith = 128;

const entryId = /^[-._0-9A-Za-z]{1,255}$/;
const dnsLabel = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i;

/**
 * Throws `invalid-argument` when the entry may not be stored in this trust domain; the text says which rule, in
 * SPIRE's words where it has them, for those who search for them.
 */
export function checkEntry(entry: NewEntry, trustDomain: TrustDomain): void {
  for (const rule of rules) {
    const problem = rule(entry, trustDomain);
    if (problem !== undefined) throw new AppError('invalid-argument', problem);
  }
}

const rules: readonly ((entry: NewEntry, trustDomain: TrustDomain) => string | undefined)[] = [
  ({ id }) =>
    entryId.test(id) ? undefined : `entry id "${id.slice(0, 40)}" must be 1 to 255 of [-._0-9A-Za-z]`,
  ({ spiffeId }, trustDomain) => prefixed('invalid spiffe ID', workloadProblem(spiffeId, trustDomain)),
  ({ parentId }, trustDomain) => prefixed('invalid parent ID', memberProblem(parentId, trustDomain)),
  ({ selectors }) => (selectors.length > 0 ? undefined : 'selector list is empty: one at least is required'),
  ({ selectors }) => (selectors.length <= maxSelectors ? undefined : `more than ${maxSelectors} selectors`),
  ({ parentId, selectors, spiffeId }, trustDomain) =>
    parentId.equals(spiffeId) && selectors.length > 0 && !parentId.equals(serverIdOf(trustDomain))
      ? `"${spiffeId}" cannot be its own parent`
      : undefined,
  ({ x509SvidTtlSeconds }) => checkTtl('x509 svid ttl', x509SvidTtlSeconds),
  ({ jwtSvidTtlSeconds }) => checkTtl('jwt svid ttl', jwtSvidTtlSeconds),
  ({ expiresAt }) =>
    Number.isSafeInteger(expiresAt) && expiresAt >= 0 ? undefined : 'expiry is out of range',
  ({ dnsNames }) => (dnsNames.length <= maxDnsNames ? undefined : `more than ${maxDnsNames} dns names`),
  ({ dnsNames }) =>
    prefixed(
      'invalid DNS name',
      dnsNames.map(checkDnsName).find((problem) => problem !== undefined),
    ),
  ({ hint }) =>
    Buffer.byteLength(hint) <= maxHintBytes
      ? undefined
      : `hint is too long, max length is ${maxHintBytes} bytes`,
  ({ storeSvid, selectors }) =>
    storeSvid && new Set(selectors.map(({ type }) => type)).size > 1
      ? 'selector types must be the same when store SVID is enabled'
      : undefined,
  ({ federatesWith }, trustDomain) =>
    federatesWith.some((other) => other.equals(trustDomain))
      ? 'an entry cannot federate with its own trust domain'
      : undefined,
  // That their bundles are stored is for the store to know, in the transaction.
  ({ federatesWith }) =>
    federatesWith.length <= maxFederatesWith
      ? undefined
      : `federates with more than ${maxFederatesWith} trust domains`,
];

function memberProblem(id: SpiffeId, trustDomain: TrustDomain): string | undefined {
  const notMember = `"${id}" is not a member of trust domain "${trustDomain}"`;
  if (!id.isMemberOf(trustDomain)) return notMember;
  return id.path === '' ? `${notMember}; path is empty` : undefined;
}

function workloadProblem(id: SpiffeId, trustDomain: TrustDomain): string | undefined {
  return (
    memberProblem(id, trustDomain) ??
    (isReservedPath(id.path)
      ? `"${id}" is not a workload in trust domain "${trustDomain}"; path is in the reserved namespace /spire`
      : undefined)
  );
}

function prefixed(prefix: string, problem: string | undefined): string | undefined {
  return problem && `${prefix}: ${problem}`;
}

function checkTtl(what: string, seconds: number): string | undefined {
  return Number.isInteger(seconds) && seconds >= 0 && seconds <= maxTtlSeconds
    ? undefined
    : `${what} must be 0 to ${maxTtlSeconds} seconds`;
}

/** Accepts host names and names with a leading `*.` label (RFC 1123 §2.1; wildcards RFC 9525 §6.3). */
export function checkDnsName(name: string): string | undefined {
  const labels = (name.startsWith('*.') ? name.slice(2) : name).split('.');
  const isValid = name.length > 0 && name.length <= 253 && labels.every((label) => dnsLabel.test(label));
  return isValid ? undefined : `dns name "${name.slice(0, 80)}" is not a host name`;
}
