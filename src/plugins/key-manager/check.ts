import { randomBytes } from 'node:crypto';
import type { KeyManager, KeyManagerReport } from '../../plugin-api/key-manager.ts';
import type { PluginContext } from '../../plugin-api/plugin.ts';
import type { Clock } from '../../runtime/time.ts';
import { systemClock } from '../../runtime/time.ts';
import { type KeyType, keyTypes } from '../../x509/signature.ts';
import { MemoryKeyManager } from './memory.ts';
import { Pkcs11KeyManager } from './pkcs11.ts';
import type { Pkcs11Config } from './pkcs11-config.ts';

const measuredMs = 1_000;

/** Keys that this process holds itself: what is worth knowing is how fast they sign here. */
export async function checkSoftwareKeys(place: string, type: KeyType): Promise<KeyManagerReport> {
  const manager = new MemoryKeyManager();
  return { place, keyTypes, signaturesPerSecond: await measure(manager, type, 1, systemClock) };
}

/** Opens the token, makes a key under a name that no server has, signs with it and destroys it. */
export async function checkToken(
  config: Pkcs11Config,
  context: PluginContext,
  type: KeyType,
): Promise<KeyManagerReport> {
  const keyNamespace = `signet-check-${randomBytes(4).toString('hex')}`;
  const { keyLabelPrefix: _prefix, ...settings } = config;
  const manager = await Pkcs11KeyManager.open(settings, { ...context, keyNamespace });
  try {
    const { label, product, serial, keyTypes } = manager.facts;
    const place = `token "${label}" (${product}, serial ${serial})`;
    const { sessions } = config;
    return { place, keyTypes, signaturesPerSecond: await measure(manager, type, sessions, context.clock) };
  } finally {
    await manager.close();
  }
}

async function measure(
  manager: KeyManager,
  type: KeyType,
  concurrency: number,
  clock: Clock,
): Promise<number> {
  const key = await manager.generateKey('check', type);
  try {
    // About the size of a certificate. The first signature is slower than the others.
    const data = randomBytes(600);
    await key.sign(data);
    const startMs = clock.monotonic();
    let signed = 0;
    const signOn = async () => {
      while (clock.monotonic() - startMs < measuredMs) {
        await key.sign(data);
        signed += 1;
      }
    };
    await Promise.all(Array.from({ length: concurrency }, signOn));
    return (signed * 1000) / (clock.monotonic() - startMs);
  } finally {
    await manager.deleteKey('check');
  }
}
