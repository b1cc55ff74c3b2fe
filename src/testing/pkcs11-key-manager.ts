import { onTestFinished } from 'vitest';
import { Pkcs11KeyManager } from '../plugins/key-manager/pkcs11.ts';
import type { Pkcs11Config } from '../plugins/key-manager/pkcs11-config.ts';
import { type Logger, silentLogger } from '../runtime/log.ts';
import { systemClock } from '../runtime/time.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { tempDir } from './temp-dir.ts';

/** Opens a key manager as a server does, and closes it when the test ends. */
export async function openPkcs11(
  config: Pkcs11Config,
  options: { readonly dataDir?: string; readonly keyNamespace?: string; readonly log?: Logger } = {},
): Promise<Pkcs11KeyManager> {
  const { dataDir = tempDir(), keyNamespace = 'server-1', log = silentLogger } = options;
  const trustDomain = TrustDomain.parse('example.org');
  const context = { trustDomain, dataDir, clock: systemClock, log, keyNamespace };
  const manager = await Pkcs11KeyManager.open(config, context);
  onTestFinished(() => manager.close());
  return manager;
}
