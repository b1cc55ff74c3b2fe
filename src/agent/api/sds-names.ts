import { AppError, errorText } from '../../runtime/error.ts';
import { unprintable } from '../../runtime/printable.ts';
import { SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import { type KeyType, keyTypes } from '../../x509/signature.ts';
import type { IdentityChoice, WantedKeyType } from '../workload-view.ts';
import { foreignText } from './foreign-text.ts';

/** How validation contexts are written: for Envoy's SPIFFE validator, or as plain `trusted_ca` of one trust domain. */
export type ValidatorFlavour = 'spiffe' | 'x509';

/** A certificate; with a `keyType` when the name asks for another kind of key than the usual one. */
export type CertificateName = IdentityChoice & { readonly keyType?: KeyType };

/** What a name stands for. It follows from the name alone, so that a name has one type of secret for ever. */
export type SecretName =
  | CertificateName
  | { readonly kind: 'own-bundle' }
  | { readonly kind: 'all-bundles' }
  | { readonly kind: 'bundle'; readonly trustDomain: TrustDomain }
  /** The certificates in this file, as plain `trusted_ca`. */
  | { readonly kind: 'file-root'; readonly path: string };

/** The `sds` section as far as it names secrets. */
export interface SdsNameSettings {
  readonly names: {
    /** The workload's first identity. */
    readonly defaultSvid: string;
    /** The bundle of the own trust domain. */
    readonly ownBundle: string;
    /** All bundles the workload may use. */
    readonly allBundles: string;
  };
  /** Names of the operator's own → SPIFFE ID or trust-domain ID. */
  readonly aliases: Readonly<Record<string, string>>;
  /** `file-root:…` → path of a PEM file. */
  readonly fileRoots: Readonly<Record<string, string>>;
}

/** All configured names with what they stand for; made by `parseSdsNames` only, and so free of ambiguity. */
export type SdsNames = ReadonlyMap<string, SecretName>;

/** Prefixes that stand for kinds of secrets of their own, now or later (interface.md §6; `file-cert:` is Istio's). */
const reservedPrefixes = ['spiffe:', 'hint:', 'jwt:', 'jwks:', 'peers:', 'file-root:', 'file-cert:'] as const;
const fileRootPrefix = 'file-root:';
const hintPrefix = 'hint:';
/** What agents and SPIRE's users take for granted: an alias of this name would change what existing files mean. */
const spireNames: ReadonlySet<string> = new Set(['default', 'ROOTCA', 'ALL']);
/** A longer name could be configured but never be asked for: streams refuse it. */
const maxNameBytes = 2_048;

/**
 * Reads the configured names. Throws AppError `invalid-argument`, with the path of the setting below `path`, for a
 * name that could be mistaken for another one or that Envoy's protocol gives a meaning.
 */
export function parseSdsNames(settings: SdsNameSettings, path = 'sds'): SdsNames {
  const names = new Map<string, SecretName>();
  const settingOf = new Map<string, string>();
  const add = (setting: string, name: string, meaning: SecretName) => {
    const twin = settingOf.get(name);
    if (twin !== undefined) throw refused(setting, name, `is the name of ${twin} already`);
    settingOf.set(name, setting);
    names.set(name, meaning);
  };
  const { defaultSvid, ownBundle, allBundles } = settings.names;
  const fixed = [
    ['defaultSvid', defaultSvid, { kind: 'default-svid' }],
    ['ownBundle', ownBundle, { kind: 'own-bundle' }],
    ['allBundles', allBundles, { kind: 'all-bundles' }],
  ] as const;
  for (const [key, name, meaning] of fixed) {
    const setting = `${path}.names.${key}`;
    checkName(setting, name);
    add(setting, name, meaning);
  }
  for (const [name, target] of Object.entries(settings.aliases)) {
    const setting = `${path}.aliases.${shown(name)}`;
    checkName(setting, name);
    if (spireNames.has(name)) throw refused(setting, name, 'is a name of SPIRE with a meaning of its own');
    add(setting, name, parseAliasTarget(setting, target));
  }
  for (const [name, file] of Object.entries(settings.fileRoots)) {
    const setting = `${path}.fileRoots.${shown(name)}`;
    add(setting, name, parseFileRoot(setting, name, file));
  }
  return names;
}

/** SPIRE's names, without aliases and files. */
export const defaultSdsNames: SdsNames = parseSdsNames({
  names: { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' },
  aliases: {},
  fileRoots: {},
});

/** What `name` stands for; undefined for a name that nobody will ever be served. */
export function parseSecretName(name: string, names: SdsNames): SecretName | undefined {
  const configured = names.get(name);
  if (configured !== undefined) return configured;
  const mark = name.indexOf('?');
  if (mark === -1) return findPlainName(name);
  const base = names.get(name.slice(0, mark)) ?? findPlainName(name.slice(0, mark));
  const keyType = keyTypes.find((type) => name.slice(mark) === `?key=${type}`);
  return base === undefined || keyType === undefined || !isCertificateName(base)
    ? undefined
    : { ...base, keyType };
}

/** Those of the names that ask for a kind of key, to be handed to `AttestedCaller.wantKeyTypes`. */
export function wantedKeyTypes(asked: Iterable<string>, names: SdsNames): readonly WantedKeyType[] {
  const wanted: WantedKeyType[] = [];
  for (const name of asked) {
    const meaning = name.includes('?') ? parseSecretName(name, names) : undefined;
    if (meaning === undefined || !isCertificateName(meaning) || meaning.keyType === undefined) continue;
    wanted.push({ ...meaning, keyType: meaning.keyType });
  }
  return wanted;
}

/** True for a name whose secrets hold a private key, false for one of trust. */
export function isCertificateName(meaning: SecretName): meaning is CertificateName {
  return meaning.kind === 'default-svid' || meaning.kind === 'svid' || meaning.kind === 'hint';
}

/** A name that needs no configuration. `*` is none: in Delta it asks for everything. */
function findPlainName(name: string): SecretName | undefined {
  if (name.startsWith(hintPrefix) && name.length > hintPrefix.length) {
    return { kind: 'hint', hint: name.slice(hintPrefix.length) };
  }
  if (!name.startsWith('spiffe://')) return undefined;
  try {
    const id = SpiffeId.parse(name);
    return id.path === '' ? { kind: 'bundle', trustDomain: id.trustDomain } : { kind: 'svid', id: name };
  } catch {
    return undefined;
  }
}

function checkName(setting: string, name: string): void {
  const prefix = reservedPrefixes.find((reserved) => name.toLowerCase().startsWith(reserved));
  if (prefix !== undefined) throw refused(setting, name, `starts with "${prefix}", which is reserved`);
  if (name.includes('?')) throw refused(setting, name, 'must not contain "?", which starts "?key="');
  checkText(setting, name);
}

/** What holds for every configured name. */
function checkText(setting: string, name: string): void {
  if (name === '') throw new AppError('invalid-argument', `${setting}: expected a name, got an empty one`);
  if (name.includes('*'))
    throw refused(setting, name, 'must not contain "*", which asks Envoy\'s Delta for all');
  if (unprintable.test(name)) throw refused(setting, name, 'must not contain control characters');
  const bytes = Buffer.byteLength(name);
  if (bytes > maxNameBytes)
    throw refused(setting, name, `has ${bytes} bytes; at most ${maxNameBytes} are allowed`);
}

/** Never another alias: what a name stands for is to be seen in one line. */
function parseAliasTarget(setting: string, target: string): SecretName {
  try {
    const id = SpiffeId.parse(target);
    return id.path === '' ? { kind: 'bundle', trustDomain: id.trustDomain } : { kind: 'svid', id: target };
  } catch (error) {
    throw new AppError(
      'invalid-argument',
      `${setting}: expected a SPIFFE ID, for its certificate, or a trust-domain ID, for its bundle; ${errorText(error)}`,
    );
  }
}

function parseFileRoot(setting: string, name: string, path: string): SecretName {
  if (!name.startsWith(fileRootPrefix) || name.length === fileRootPrefix.length) {
    throw refused(setting, name, 'must be "file-root:" and a name, such as "file-root:system"');
  }
  if (name.includes('?')) throw refused(setting, name, 'must not contain "?"');
  checkText(setting, name);
  if (!path.startsWith('/')) {
    throw new AppError(
      'invalid-argument',
      `${setting}: expected the absolute path of a PEM file, got ${shown(path)}`,
    );
  }
  return { kind: 'file-root', path };
}

function refused(setting: string, name: string, why: string): AppError {
  return new AppError('invalid-argument', `${setting}: ${shown(name)} ${why}`);
}

/** For an error of one line. */
function shown(text: string): string {
  return `"${foreignText(text)}"`;
}
