import { accessSync, constants } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The checkout's top folder, with a slash at the end. */
export const checkout = fileURLToPath(new URL('../../', import.meta.url));

/** The program under test, as users start it. */
export const signetBinary = `${checkout}bin/signet`;

/** The real Envoy that `make setup` fetched, or the one that `ENVOY` names; undefined when there is none. */
export function findEnvoy(): string | undefined {
  const path = process.env['ENVOY'] ?? `${checkout}.cache/envoy/envoy`;
  try {
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}

/** The real Envoy; throws when there is none. */
export function getEnvoy(): string {
  const path = findEnvoy();
  if (path === undefined) throw new Error('no Envoy here; run "make setup"');
  return path;
}
