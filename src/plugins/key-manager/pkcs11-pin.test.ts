import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLogger } from '../../runtime/log.ts';
import { eventually } from '../../testing/eventually.ts';
import { compileFaultyModule, faultyHsm } from '../../testing/faulty-hsm.ts';
import { commandLineOf, keyWorkers } from '../../testing/key-worker.ts';
import { openPkcs11 } from '../../testing/pkcs11-key-manager.ts';
import { describeWithSoftHsm } from '../../testing/soft-hsm.ts';
import { tempDir } from '../../testing/temp-dir.ts';

const data = Buffer.from('to be signed');
let module = '';
let folder = '';
describeWithSoftHsm('the PIN of a token', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'signet-'));
    module = compileFaultyModule(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const wrongPin = 'a-wrong-secret';

  describe('a wrong PIN', () => {
    it('is tried once, by whatever starts until the file changes', async () => {
      const dataDir = tempDir();
      const hsm = await faultyHsm(tempDir(), module);
      writeFileSync(hsm.pinFile, wrongPin);
      const refusal = {
        code: 'failed-precondition',
        message: expect.stringMatching(
          /^token "ca": .*; the PIN in ".*pin" is not tried again before that file changes/,
        ),
      };
      for (let start = 0; start < 3; start += 1) {
        await expect(openPkcs11(hsm.config(), { dataDir })).rejects.toMatchObject(refusal);
      }
      expect(hsm.calls('C_Login')).toBe(1);
      expect(keyWorkers()).toEqual([]);
      writeFileSync(hsm.pinFile, hsm.pin);
      await openPkcs11(hsm.config(), { dataDir });
      expect(hsm.calls('C_Login')).toBe(2);
    });

    it('that comes while a server runs stops the signatures, and the right one starts them again', async () => {
      const hsm = await faultyHsm(tempDir(), module);
      const manager = await openPkcs11(hsm.config());
      const key = await manager.generateKey('k', 'ec-p256');
      writeFileSync(hsm.pinFile, wrongPin);
      hsm.order('C_Sign', 0x101);
      const refusal = { code: 'failed-precondition', message: expect.stringContaining('CKR_PIN_INCORRECT') };
      for (let i = 0; i < 5; i += 1) await expect(key.sign(data)).rejects.toMatchObject(refusal);
      expect(manager.status()).toMatchObject({
        state: 'degraded',
        message: expect.stringContaining('CKR_PIN_INCORRECT'),
      });
      expect(hsm.calls('C_Login')).toBe(2);
      writeFileSync(hsm.pinFile, `${hsm.pin}\n`);
      await eventually(() => key.sign(data));
      expect(hsm.calls('C_Login')).toBe(3);
    });

    it.each([
      { name: 'CKR_PIN_LOCKED', code: 0xa4 },
      { name: 'CKR_PIN_EXPIRED', code: 0xa3 },
      { name: 'CKR_USER_PIN_NOT_INITIALIZED', code: 0x102 },
    ])('and $name are the same', async ({ name, code }) => {
      const hsm = await faultyHsm(tempDir(), module);
      hsm.orderAlways('C_Login', code);
      await expect(openPkcs11(hsm.config())).rejects.toMatchObject({
        code: 'failed-precondition',
        message: expect.stringContaining(name),
      });
      expect(hsm.calls('C_Login')).toBe(1);
    });

    it('is never the one that locks the token', async () => {
      const dataDir = tempDir();
      const hsm = await faultyHsm(tempDir(), module);
      hsm.orderAlways('C_GetTokenInfo', 'final-try');
      await expect(openPkcs11(hsm.config(), { dataDir })).rejects.toMatchObject({
        code: 'failed-precondition',
        message: expect.stringContaining('would lock the token'),
      });
      expect(hsm.calls('C_Login')).toBe(0);
      hsm.relent();
      await openPkcs11(hsm.config(), { dataDir });
    });

    it('of somebody else does not keep us out when ours was right before', async () => {
      const hsm = await faultyHsm(tempDir(), module);
      const key = await (await openPkcs11(hsm.config())).generateKey('k', 'ec-p256');
      hsm.orderAlways('C_GetTokenInfo', 'final-try');
      hsm.order('C_Sign', 0x101);
      await key.sign(data);
      expect(hsm.calls('C_Login')).toBe(2);
    });
  });

  describe('a PIN file', () => {
    const cases: readonly { name: string; prepare: (path: string) => void; says: string }[] = [
      { name: 'that is missing', prepare: (path) => rmSync(path), says: 'does not exist' },
      { name: 'that others may read', prepare: (path) => chmodSync(path, 0o640), says: 'chmod 600' },
      { name: 'that is empty', prepare: (path) => writeFileSync(path, '\n'), says: 'one line' },
      {
        name: 'with two lines',
        prepare: (path) => writeFileSync(path, `${wrongPin}\nmore`),
        says: 'one line',
      },
      { name: 'that is too long', prepare: (path) => writeFileSync(path, 'x'.repeat(300)), says: 'one line' },
    ];
    it.each(cases)('$name is refused without a login', async ({ prepare, says }) => {
      const hsm = await faultyHsm(tempDir(), module);
      prepare(hsm.pinFile);
      const error = await openPkcs11(hsm.config()).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'failed-precondition', message: expect.stringContaining(says) });
      expect(String(error)).not.toContain(wrongPin);
      expect(hsm.calls('C_Login')).toBe(0);
    });
  });

  it('a PIN is in no log, error, file, argument or variable', async () => {
    const dataDir = tempDir();
    const hsm = await faultyHsm(tempDir(), module);
    const said: string[] = [];
    const log = createLogger({ level: 'trace', format: 'json', write: (line) => said.push(line) });
    const manager = await openPkcs11(hsm.config(), { dataDir, log });
    const key = await manager.generateKey('k', 'ec-p256');
    hsm.order('C_Sign', 0x101);
    await key.sign(data);
    const [worker = 0] = keyWorkers();
    said.push(commandLineOf(worker));
    // Of a process that may not be dumped only root sees this.
    if (process.geteuid?.() === 0) said.push(readFileSync(`/proc/${worker}/environ`, 'utf8'));
    writeFileSync(hsm.pinFile, wrongPin);
    hsm.order('C_Sign', 0x101);
    said.push(
      String(await key.sign(data).catch((error: Error) => `${error.stack} ${JSON.stringify(error)}`)),
    );
    said.push(JSON.stringify(manager.status()));
    const refused = join(dataDir, 'pkcs11-refused-pins');
    expect(statSync(refused).mode & 0o777).toBe(0o600);
    said.push(readFileSync(refused, 'utf8'));
    const all = said.join('\n');
    expect(all).toContain('token connected');
    for (const secret of [hsm.pin, wrongPin]) expect(all).not.toContain(secret);
  });
});
