import { AppError } from '../../runtime/error.ts';
import { SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';

/** How validation contexts are written: for Envoy's SPIFFE validator, or as plain `trusted_ca` of one trust domain. */
export type ValidatorFlavour = 'spiffe' | 'x509';

/** The configurable names (`sds.names`). */
export interface SdsNames {
  /** The workload's first identity. */
  readonly defaultSvid: string;
  /** The bundle of the own trust domain. */
  readonly ownBundle: string;
  /** All bundles the workload may use. */
  readonly allBundles: string;
}

/** SPIRE's names. */
export const defaultSdsNames: SdsNames = { defaultSvid: 'default', ownBundle: 'ROOTCA', allBundles: 'ALL' };

/** What a name stands for. It follows from the name alone, so that a name has one type of secret for ever. */
export type SecretName =
  | { readonly kind: 'default-svid' }
  | { readonly kind: 'svid'; readonly id: string }
  | { readonly kind: 'own-bundle' }
  | { readonly kind: 'all-bundles' }
  | { readonly kind: 'bundle'; readonly trustDomain: TrustDomain };

/** Prefixes that stand for kinds of secrets of their own, now or later (interface.md §6). */
const reservedPrefixes = ['spiffe:', 'hint:', 'jwt:', 'jwks:', 'peers:'];

/** Throws AppError `invalid-argument` unless the names are distinct and can be told from all other names. */
export function checkSdsNames(names: SdsNames): SdsNames {
  const entries = Object.entries(names);
  for (const [setting, name] of entries) {
    const where = `sds.names.${setting}`;
    const prefix = reservedPrefixes.find((reserved) => name.toLowerCase().startsWith(reserved));
    if (name === '') throw new AppError('invalid-argument', `${where}: expected a name, got an empty one`);
    if (prefix !== undefined) {
      throw new AppError('invalid-argument', `${where}: "${name}" starts with the reserved "${prefix}"`);
    }
    if (name.includes('?'))
      throw new AppError('invalid-argument', `${where}: "${name}" must not contain "?"`);
    const twin = entries.find(([other, same]) => other !== setting && same === name);
    if (twin !== undefined) {
      throw new AppError(
        'invalid-argument',
        `${where}: "${name}" is the name of sds.names.${twin[0]} already`,
      );
    }
  }
  return names;
}

/** What `name` stands for; undefined for a name that nobody will ever be served. */
export function parseSecretName(name: string, names: SdsNames): SecretName | undefined {
  if (name === names.defaultSvid) return { kind: 'default-svid' };
  if (name === names.ownBundle) return { kind: 'own-bundle' };
  if (name === names.allBundles) return { kind: 'all-bundles' };
  if (!name.startsWith('spiffe://')) return undefined;
  try {
    const id = SpiffeId.parse(name);
    return id.path === '' ? { kind: 'bundle', trustDomain: id.trustDomain } : { kind: 'svid', id: name };
  } catch {
    return undefined;
  }
}

/** True when secrets of this name hold a private key. */
export function carriesPrivateKey(name: string, names: SdsNames): boolean {
  const kind = parseSecretName(name, names)?.kind;
  return kind === 'default-svid' || kind === 'svid';
}
