import { isIP } from 'node:net';
import { contextTag, DerReader, malformed } from './der-reader.ts';
import { element, sequence } from './der-writer.ts';
import { encodeExtension, extensionOids } from './extensions.ts';
import {
  encodeGeneralName,
  type GeneralName,
  type GeneralNameKind,
  readGeneralName,
} from './general-names.ts';

/** Subtrees of RFC 5280 §4.2.1.10; only URIs and DNS names can be compared, other kinds are kept to refuse them. */
export interface NameConstraints {
  readonly permitted: readonly GeneralName[];
  readonly excluded: readonly GeneralName[];
}

/** The names of a certificate that constraints apply to. */
export interface ConstrainedNames {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** All kinds of name in subjectAltName. */
  readonly nameKinds: ReadonlySet<GeneralNameKind>;
  readonly hasEmptySubject: boolean;
}

const what = 'nameConstraints';

/** RFC 5280 §4.2.1.10, always critical: hosts of URIs and DNS names that may or may not appear below this CA. */
export function nameConstraints(subtrees: {
  readonly permittedUris?: readonly string[];
  readonly excludedUris?: readonly string[];
  readonly permittedDnsNames?: readonly string[];
  readonly excludedDnsNames?: readonly string[];
}): Buffer {
  const encode = (tag: number, uris: readonly string[] = [], dnsNames: readonly string[] = []): Buffer[] => {
    const bases = [
      ...uris.map((uri) => encodeGeneralName('uniformResourceIdentifier', uri)),
      ...dnsNames.map((name) => encodeGeneralName('dNSName', name)),
    ];
    return bases.length === 0 ? [] : [element(contextTag(tag, true), ...bases.map((base) => sequence(base)))];
  };
  const permitted = encode(0, subtrees.permittedUris, subtrees.permittedDnsNames);
  const excluded = encode(1, subtrees.excludedUris, subtrees.excludedDnsNames);
  return encodeExtension(extensionOids.nameConstraints, true, sequence(...permitted, ...excluded));
}

/** Reads the value of nameConstraints; throws AppError `invalid-argument`. */
export function parseNameConstraints(value: Buffer): NameConstraints {
  const outer = new DerReader(value);
  const fields = outer.enter(what);
  outer.end(what);
  const permitted = readSubtrees(fields, 0);
  const excluded = readSubtrees(fields, 1);
  fields.end(what);
  if (permitted.length + excluded.length === 0) throw malformed(`${what}: no subtrees`);
  return { permitted, excluded };
}

function readSubtrees(fields: DerReader, tag: number): GeneralName[] {
  const list = fields.optional(contextTag(tag, true), what);
  if (list === undefined) return [];
  const subtrees = fields.inside(list);
  const bases: GeneralName[] = [];
  while (!subtrees.isAtEnd) {
    const subtree = subtrees.enter(`${what} subtree`);
    bases.push(readGeneralName(subtree, `${what} subtree`));
    // RFC 5280 §4.2.1.10: minimum is 0, so not written, and maximum is absent.
    subtree.end(`${what} subtree`);
  }
  if (bases.length === 0) throw malformed(`${what}: empty list of subtrees`);
  return bases;
}

/** A certificate of 64 KB has room for 5,000 names: each compared with as many subtrees takes seconds. */
const MAX_COMPARISONS = 100_000;

/** The first name that the constraints forbid, as text for an error, or undefined when all are within. */
export function findForbiddenName(constraints: NameConstraints, names: ConstrainedNames): string | undefined {
  const unsupported = [...constraints.permitted, ...constraints.excluded].find((base) =>
    isUnchecked(base.kind, names),
  );
  if (unsupported !== undefined) return `names of kind ${unsupported.kind}, which cannot be checked`;
  const subtrees = constraints.permitted.length + constraints.excluded.length;
  if (subtrees * (names.uris.length + names.dnsNames.length) > MAX_COMPARISONS)
    return 'more names than can be compared';
  const isForbiddenUri = (uri: string): boolean =>
    isForbidden(constraints, 'uniformResourceIdentifier', hostOfUri(uri), {
      permits: uriMatches,
      excludes: uriMatches,
    });
  const isForbiddenDns = (name: string): boolean =>
    isForbidden(constraints, 'dNSName', comparableHost(name), { permits: dnsMatches, excludes: dnsOverlaps });
  return names.uris.find(isForbiddenUri) ?? names.dnsNames.find(isForbiddenDns);
}

/** A constraint of a kind we cannot compare, met by a name of that kind (RFC 5280 §4.2.1.10: then refuse). */
function isUnchecked(kind: GeneralNameKind, names: ConstrainedNames): boolean {
  if (kind === 'uniformResourceIdentifier' || kind === 'dNSName') return false;
  // A subject is a directory name, and old ones carry e-mail addresses.
  const isInSubject = (kind === 'directoryName' || kind === 'rfc822Name') && !names.hasEmptySubject;
  return isInSubject || names.nameKinds.has(kind);
}

interface Comparison {
  readonly permits: (host: string, base: string) => boolean;
  readonly excludes: (host: string, base: string) => boolean;
}

function isForbidden(
  { permitted, excluded }: NameConstraints,
  kind: GeneralNameKind,
  host: string | undefined,
  { permits, excludes }: Comparison,
): boolean {
  const basesOf = (list: readonly GeneralName[]): string[] =>
    list.filter((base) => base.kind === kind).map((base) => base.text.toLowerCase());
  const permittedBases = basesOf(permitted);
  const excludedBases = basesOf(excluded);
  if (permittedBases.length + excludedBases.length === 0) return false;
  if (host === undefined) return true;
  if (excludedBases.some((base) => excludes(host, base))) return true;
  return permittedBases.length > 0 && !permittedBases.some((base) => permits(host, base));
}

/** The host to compare; RFC 5280 §4.2.1.10: a URI without an authority, or with an IP address, is refused. */
function hostOfUri(uri: string): string | undefined {
  const authority = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i.exec(uri)?.[1];
  const host = authority?.replace(/^.*@/, '').replace(/:[0-9]*$/, '');
  return host === undefined || isIP(host) !== 0 ? undefined : comparableHost(host);
}

/** Lower case; undefined for anything that has a second spelling (`%61`, a final dot) and could slip past a filter. */
function comparableHost(host: string): string | undefined {
  const lowerCase = host.toLowerCase();
  return /^(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(lowerCase) ? lowerCase : undefined;
}

/** `.example.com`: hosts below it; `example.com`: exactly this host; empty: all. */
function uriMatches(host: string, base: string): boolean {
  if (base === '' || host === base) return true;
  return base.startsWith('.') && host.endsWith(base);
}

/** `example.com`: this name and those below it. */
function dnsMatches(name: string, base: string): boolean {
  return uriMatches(name, base) || name.endsWith(`.${base}`);
}

/** A wildcard also overlaps a subtree below it: `*.example.com` stands for the excluded `a.example.com`. */
function dnsOverlaps(name: string, base: string): boolean {
  return dnsMatches(name, base) || (name.startsWith('*.') && base.endsWith(name.slice(1)));
}
