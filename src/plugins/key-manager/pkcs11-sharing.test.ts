import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { keyWorkers } from '../../testing/key-worker.ts';
import { openPkcs11 } from '../../testing/pkcs11-key-manager.ts';
import { describeWithSoftHsm, type SoftHsm, softHsm, softHsmModule } from '../../testing/soft-hsm.ts';
import { tempDir } from '../../testing/temp-dir.ts';

const run = promisify(execFile);
const data = Buffer.from('to be signed');

/** OpenSC's tool, another program's view of the token. */
async function pkcs11Tool(hsm: SoftHsm, ...args: string[]): Promise<string> {
  const login = ['--module', softHsmModule ?? '', '--token-label', 'ca', '--login', '--pin', hsm.pin];
  return (await run('pkcs11-tool', [...login, ...args])).stdout;
}

describeWithSoftHsm('keys in a token', () => {
  describe('several servers on one token', () => {
    it('see and destroy only keys of their own', async () => {
      const hsm = await softHsm(tempDir());
      const one = await openPkcs11(hsm.config(), { keyNamespace: 'one' });
      const two = await openPkcs11(hsm.config(), { keyNamespace: 'one-more' });
      const ours = await one.generateKey('x509-ca-a', 'ec-p256');
      const theirs = await two.generateKey('x509-ca-a', 'ec-p256');
      expect(Buffer.from(ours.publicKey)).not.toEqual(Buffer.from(theirs.publicKey));
      for (const [manager, key] of [
        [one, ours],
        [two, theirs],
      ] as const) {
        expect((await manager.listKeys()).map(({ publicKey }) => publicKey)).toEqual([key.publicKey]);
        expect(await manager.listStrays()).toEqual([]);
      }
      await one.deleteKey('x509-ca-a');
      await theirs.sign(data);
      const again = await openPkcs11(hsm.config(), { keyNamespace: 'one-more' });
      expect((await again.listKeys()).map(({ id }) => id)).toEqual(['x509-ca-a']);
      expect(await (await openPkcs11(hsm.config(), { keyNamespace: 'one' })).listKeys()).toEqual([]);
    });

    it('share keys only when they are told the same prefix', async () => {
      const hsm = await softHsm(tempDir());
      const config = hsm.config({ keyLabelPrefix: 'shared' });
      const made = await (await openPkcs11(config, { keyNamespace: 'one' })).generateKey('k', 'ec-p256');
      const found = await (await openPkcs11(config, { keyNamespace: 'two' })).findKey('k');
      expect(Buffer.from(found?.publicKey ?? [])).toEqual(Buffer.from(made.publicKey));
    });
  });

  describe('a key in the token', () => {
    it('was made there, is sensitive and cannot be taken out', async ({ skip }) => {
      if ((await run('which', ['pkcs11-tool']).catch(() => undefined)) === undefined)
        return skip('pkcs11-tool (opensc) is missing');
      const hsm = await softHsm(tempDir());
      await (await openPkcs11(hsm.config())).generateKey('k', 'ec-p256');
      const seen = await pkcs11Tool(hsm, '--list-objects', '--type', 'privkey');
      expect(seen).toContain('server-1/k');
      expect(seen).toMatch(/Access:\s+sensitive, always sensitive, never extractable, local/);
      expect(seen).toMatch(/Usage:\s+sign$/m);
    });
  });

  describe('strays', () => {
    it('are what only looks like a key of ours; they are listed, and removed one by one', async ({
      skip,
    }) => {
      if ((await run('which', ['pkcs11-tool']).catch(() => undefined)) === undefined)
        return skip('pkcs11-tool (opensc) is missing');
      const hsm = await softHsm(tempDir());
      const manager = await openPkcs11(hsm.config());
      const key = await manager.generateKey('k', 'ec-p256');
      const make = (label: string, type: string, id: string) =>
        pkcs11Tool(hsm, '--keypairgen', '--key-type', type, '--label', label, '--id', id);
      await make('server-1/odd kind', 'EC:secp521r1', 'a1');
      await make('server-1/not an id!', 'EC:prime256v1', 'a2');
      await make('server-1/half', 'EC:prime256v1', 'a3');
      await pkcs11Tool(hsm, '--delete-object', '--type', 'pubkey', '--id', 'a3');
      await make('server-1/other-half', 'EC:prime256v1', 'a4');
      await pkcs11Tool(hsm, '--delete-object', '--type', 'privkey', '--id', 'a4');
      await make('another/k', 'EC:prime256v1', 'a5');
      const fresh = await openPkcs11(hsm.config());
      expect((await fresh.listKeys()).map(({ id }) => id)).toEqual(['k']);
      const strays = await fresh.listStrays();
      expect(strays.toSorted((a, b) => (a.handle < b.handle ? -1 : 1))).toEqual([
        { handle: 'a1', keyId: 'odd kind', why: 'a key of a kind that is not used here' },
        { handle: 'a2', keyId: 'not an id!', why: 'its label is no key id of ours' },
        { handle: 'a3', keyId: 'half', why: 'a private key without its public key' },
        { handle: 'a4', keyId: 'other-half', why: 'a public key without its private key' },
      ]);
      for (const { handle } of strays) await fresh.deleteStray(handle);
      // Of another prefix: nothing happens.
      await fresh.deleteStray('a5');
      expect(await fresh.listStrays()).toEqual([]);
      expect(await pkcs11Tool(hsm, '--list-objects')).toContain('another/k');
      await key.sign(data);
    });

    it('are never keys that count', async () => {
      const hsm = await softHsm(tempDir());
      const manager = await openPkcs11(hsm.config());
      await manager.generateKey('k', 'ec-p256');
      const fresh = await openPkcs11(hsm.config());
      const [handle = ''] = fresh.facts.keys.map(({ id }) => id);
      await expect(fresh.deleteStray(handle)).rejects.toMatchObject({ code: 'failed-precondition' });
      expect(await fresh.listKeys()).toHaveLength(1);
    });
  });

  it('a full queue refuses at once, with the setting to change, and serves on when it is empty', async () => {
    const hsm = await softHsm(tempDir());
    const manager = await openPkcs11(hsm.config({ sessions: 1, queueLimit: 3 }));
    const key = await manager.generateKey('k', 'ec-p256');
    const [worker = 0] = keyWorkers();
    process.kill(worker, 'SIGSTOP');
    const served = Promise.all(Array.from({ length: 4 }, () => key.sign(data)));
    await expect(key.sign(data)).rejects.toMatchObject({
      code: 'resource-exhausted',
      message: '3 signatures wait for the token already (queueLimit); try again later',
      retryAfterMs: 1_000,
    });
    expect(manager.figures).toMatchObject({ queueLength: 3, failures: 1 });
    expect(manager.status().message).toContain('3 waiting');
    process.kill(worker, 'SIGCONT');
    expect(await served).toHaveLength(4);
    expect(manager.figures).toMatchObject({ queueLength: 0, signatures: 4 });
  });

  describe('settings', () => {
    it.each<{ name: string; settings: object; code: string; says: RegExp }>([
      {
        name: 'a module that is not there',
        settings: { module: '/no/such/module.so' },
        code: 'failed-precondition',
        says: /token "ca": the PKCS#11 module cannot be loaded: .*\/no\/such\/module\.so/,
      },
      {
        name: 'a module that is none',
        settings: { module: '/bin/true' },
        code: 'failed-precondition',
        says: /cannot be loaded/,
      },
      {
        name: 'a label that two tokens have',
        settings: { tokenLabel: 'twin' },
        code: 'failed-precondition',
        says: /more than one token is called so; name it with tokenSerial/,
      },
    ])('$name are refused at once', async ({ settings, code, says }) => {
      const hsm = await softHsm(tempDir());
      await hsm.initToken('twin');
      await hsm.initToken('twin');
      await expect(openPkcs11(hsm.config(settings))).rejects.toMatchObject({
        code,
        message: expect.stringMatching(says),
      });
      expect(keyWorkers()).toEqual([]);
    });

    it('name the token by label, serial number or slot', async () => {
      const hsm = await softHsm(tempDir());
      await hsm.initToken('other');
      const { serial } = (await openPkcs11(hsm.config())).facts;
      const bySerial = await openPkcs11(hsm.config({ tokenLabel: undefined, tokenSerial: serial }));
      expect(bySerial.facts.label).toBe('ca');
      // SoftHSM makes the slot from the end of the serial number.
      const slot = Number.parseInt(serial.slice(-8), 16) & 0x7fffffff;
      const bySlot = await openPkcs11(hsm.config({ tokenLabel: undefined, slot }));
      expect(bySlot.facts.serial).toBe(serial);
    });
  });
});
