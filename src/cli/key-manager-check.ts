import type { KeyManagerReport } from '../plugin-api/key-manager.ts';
import { keyManagers } from '../plugins/builtin.ts';
import { parseConfig } from '../runtime/config-file.ts';
import { AppError } from '../runtime/error.ts';
import { silentLogger } from '../runtime/log.ts';
import { systemClock } from '../runtime/time.ts';
import { findLocalRoot, type ServerConfig } from '../server/config.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import type { KeyType } from '../x509/signature.ts';
import type { Row } from './output.ts';

/**
 * Tries the key managers of a configuration out, that of a root of our own included: where keys are, which ones can be
 * made, how fast they sign with those that the CA uses.
 */
export async function checkKeyManagers(config: ServerConfig, where: string): Promise<Row> {
  const own = await tryOut(config.keyManager, config.authority.caKeyType, config, `${where}: keyManager`);
  const root = findLocalRoot(config, where);
  if (root === undefined) return own;
  const path = `${where}: upstreamAuthority.local_root.keyManager`;
  const { keyManager, keyTypes, signatures } = await tryOut(root.keyManager, root.keyType, config, path);
  return { ...own, rootKeyManager: keyManager, rootKeyTypes: keyTypes, rootSignatures: signatures };
}

async function tryOut(
  section: Readonly<Record<string, unknown>>,
  type: KeyType,
  config: ServerConfig,
  where: string,
) {
  const [name = '', settings] = Object.entries(section)[0] ?? [];
  const definition = keyManagers.find((candidate) => candidate.name === name);
  if (definition === undefined)
    throw new AppError('invalid-argument', `${where}: unknown key manager "${name}"`);
  const report = await definition.check(
    parseConfig(settings ?? {}, definition.configSchema, `${where}.${name}`),
    {
      trustDomain: TrustDomain.parse(config.trustDomain),
      dataDir: config.dataDir,
      clock: systemClock,
      log: silentLogger,
    },
    type,
  );
  return {
    keyManager: `${name}: ${report.place}`,
    keyTypes: report.keyTypes,
    signatures: rateOf(report, type),
  };
}

function rateOf({ signaturesPerSecond }: KeyManagerReport, type: KeyType): string {
  return `${signaturesPerSecond.toFixed(signaturesPerSecond < 10 ? 1 : 0)} a second with ${type}`;
}
