import { openPkcs11 } from '../../testing/pkcs11-key-manager.ts';
import { describeWithSoftHsm, softHsm } from '../../testing/soft-hsm.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { describeKeyManager } from './conformance.ts';

describeWithSoftHsm('with SoftHSM', () => {
  describeKeyManager('pkcs11', async () => {
    const hsm = await softHsm(tempDir());
    return { open: () => openPkcs11(hsm.config()), isDurable: true, isExportable: false };
  });
});
