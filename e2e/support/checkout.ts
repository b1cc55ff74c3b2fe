import { accessSync, constants } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The checkout's top folder, with a slash at the end. */
export const checkout = fileURLToPath(new URL('../../', import.meta.url));

/** The program under test, as users start it. */
export const signetBinary = `${checkout}bin/signet`;

/** Envoys that tests run: the pinned one, which is also the demo's, and older ones for smoke tests. */
export const envoyVersions = ['1.40', '1.38', '1.36'] as const;

/** The pinned version, or one of the older ones. */
export type EnvoyVersion = (typeof envoyVersions)[number];

/**
 * The real Envoy that `make setup` (the older ones: `make parts`) fetched, or, for the pinned one, what `ENVOY` names;
 * undefined when there is none.
 */
export function findEnvoy(version: EnvoyVersion = '1.40'): string | undefined {
  const path =
    version === '1.40'
      ? (process.env['ENVOY'] ?? `${checkout}.cache/envoy/envoy`)
      : `${checkout}.cache/envoy-${version}/envoy`;
  try {
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}

/** The real Envoy; throws when there is none. */
export function getEnvoy(version: EnvoyVersion = '1.40'): string {
  const path = findEnvoy(version);
  if (path === undefined) throw new Error(`no Envoy ${version} here; run "make parts"`);
  return path;
}
