import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, it, onTestFinished } from 'vitest';
import { pkcs11Config } from '../plugins/key-manager/pkcs11-config.ts';

const run = promisify(execFile);

/** Where Debian, Fedora and Alpine put SoftHSM 2; undefined when it is not installed. */
export const softHsmModule: string | undefined = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so',
].find(existsSync);

/** What tests with a real HSM lack here; empty when nothing. */
const missing: readonly string[] = [
  ...(softHsmModule === undefined ? ['SoftHSM (apt-get install softhsm2)'] : []),
  ...(hasPkcs11js() ? [] : ['pkcs11js (npm rebuild pkcs11js)']),
];

/**
 * `describe` for tests with a real HSM. Where something is missing they are skipped, counted with the reason at the
 * end of the run; in CI (`CI=true`) that is a failure instead.
 */
export function describeWithSoftHsm(name: string, tests: () => void): void {
  const skipReason = `needs ${missing.join(' and ')}`;
  if (missing.length === 0) describe(name, tests);
  else if (process.env['CI'] !== 'true')
    describe(name, { skip: true, meta: { skipReason } as object }, tests);
  else {
    it(name, () => {
      throw new Error(skipReason);
    });
  }
}

function hasPkcs11js(): boolean {
  try {
    createRequire(import.meta.url)('pkcs11js');
    return true;
  } catch {
    return false;
  }
}

/** A SoftHSM of its own: a directory of tokens that only processes started from now on in this test see. */
export interface SoftHsm {
  readonly tokenDir: string;
  readonly pinFile: string;
  readonly pin: string;
  /** Checked settings that name the token `ca`. */
  config(settings?: object): ReturnType<typeof pkcs11Config.parse>;
  initToken(label: string): Promise<void>;
}

/** Makes a SoftHSM with the token `ca` in `dir`, and has `SOFTHSM2_CONF` name it until the test ends. */
export async function softHsm(dir: string): Promise<SoftHsm> {
  const before = process.env['SOFTHSM2_CONF'];
  onTestFinished(() => {
    if (before === undefined) delete process.env['SOFTHSM2_CONF'];
    else process.env['SOFTHSM2_CONF'] = before;
  });
  return createSoftHsm(dir);
}

/** The same outside of tests: `SOFTHSM2_CONF` stays. */
export async function createSoftHsm(dir: string): Promise<SoftHsm> {
  if (softHsmModule === undefined) throw new Error('SoftHSM 2 is not installed: apt-get install softhsm2');
  const tokenDir = join(dir, 'tokens');
  const pinFile = join(dir, 'pin');
  const pin = 'pin-of-the-test';
  await mkdir(tokenDir, { mode: 0o700 });
  await writeFile(pinFile, `${pin}\n`, { mode: 0o600 });
  const conf = join(dir, 'softhsm2.conf');
  await writeFile(conf, `directories.tokendir = ${tokenDir}\nlog.level = ERROR\n`);
  process.env['SOFTHSM2_CONF'] = conf;
  const initToken = async (label: string) => {
    await run('softhsm2-util', [
      '--init-token',
      '--free',
      '--label',
      label,
      '--so-pin',
      'so-pin',
      '--pin',
      pin,
    ]);
  };
  await initToken('ca');
  const config = (settings: object = {}) =>
    pkcs11Config.parse({ module: softHsmModule, tokenLabel: 'ca', pinFile, ...settings });
  return { tokenDir, pinFile, pin, config, initToken };
}
