import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { describeKeyManager } from '../src/plugins/key-manager/conformance.ts';
import { openPkcs11 } from '../src/testing/pkcs11-key-manager.ts';
import { missingTpmParts, type SoftTpm, startSoftTpm } from '../src/testing/soft-tpm.ts';

const missing = missingTpmParts();
const skipReason = `a software TPM needs ${missing.join(', ')}`;

if (missing.length === 0) describe('a TPM 2.0 through tpm2-pkcs11', describesTpm);
else {
  it('a TPM 2.0 is there', { skip: process.env['CI'] !== 'true', meta: { skipReason } as object }, () => {
    throw new Error(skipReason);
  });
}

function describesTpm(): void {
  const folder = mkdtempSync(join(tmpdir(), 'signet-'));
  let tpm: SoftTpm;
  let places = 0;
  beforeAll(async () => {
    tpm = await startSoftTpm(folder);
  });
  afterAll(async () => {
    await tpm.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  describeKeyManager('pkcs11 with a TPM', async () => {
    places += 1;
    const keyNamespace = `server-${places}`;
    // This TPM knows no RSA above 3072 bits; most that are made of silicon none above 2048.
    return {
      open: () => openPkcs11(tpm.config(), { keyNamespace }),
      isDurable: true,
      isExportable: false,
      withoutTypes: ['rsa-4096'],
    };
  });
}
