import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ManagedKey } from '../src/plugin-api/key-manager.ts';
import { eventually } from '../src/testing/eventually.ts';
import { compileFaultyModule, type FaultyHsm, faultyHsm, type Order } from '../src/testing/faulty-hsm.ts';
import { keyWorkers } from '../src/testing/key-worker.ts';
import { openPkcs11 } from '../src/testing/pkcs11-key-manager.ts';
import { describeWithSoftHsm, softHsm } from '../src/testing/soft-hsm.ts';
import { tempDir } from '../src/testing/temp-dir.ts';
import { signatureAlgorithmOf, verifySignature } from '../src/x509/signature.ts';

const data = Buffer.from('to be signed');
let module = '';
let folder = '';
const isGood = async (key: ManagedKey) =>
  verifySignature({
    spki: key.publicKey,
    algorithmOid: signatureAlgorithmOf(key.type).oid,
    data,
    signature: await key.sign(data),
  });

/** A key manager with one key on an HSM that fails when told to. */
async function faulty(settings: object = {}): Promise<{
  hsm: FaultyHsm;
  manager: Awaited<ReturnType<typeof openPkcs11>>;
  key: ManagedKey;
}> {
  const hsm = await faultyHsm(tempDir(), module);
  const manager = await openPkcs11(hsm.config(settings));
  const key = await manager.generateKey('k', 'ec-p256');
  expect(await isGood(key)).toBe(true);
  return { hsm, manager, key };
}

describeWithSoftHsm('an HSM in trouble', () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'signet-'));
    module = compileFaultyModule(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  describe('a signature is made all the same', () => {
    it.each<{ method: string; fault: string; order: Order }>([
      { method: 'C_SignInit', fault: 'CKR_SESSION_HANDLE_INVALID', order: 0xb3 },
      { method: 'C_Sign', fault: 'CKR_SESSION_CLOSED', order: 0xb0 },
      { method: 'C_SignInit', fault: 'CKR_OBJECT_HANDLE_INVALID', order: 0x82 },
      { method: 'C_SignInit', fault: 'CKR_KEY_HANDLE_INVALID', order: 0x60 },
      { method: 'C_Sign', fault: 'CKR_USER_NOT_LOGGED_IN', order: 0x101 },
      { method: 'C_Sign', fault: 'CKR_DEVICE_REMOVED', order: 0x32 },
      { method: 'C_SignInit', fault: 'CKR_DEVICE_ERROR', order: 0x30 },
      { method: 'C_Sign', fault: 'CKR_TOKEN_NOT_PRESENT', order: 0xe0 },
      { method: 'C_Sign', fault: 'CKR_FUNCTION_FAILED', order: 0x6 },
      { method: 'C_Sign', fault: 'CKR_CRYPTOKI_NOT_INITIALIZED', order: 0x190 },
      { method: 'C_Sign', fault: 'a code of the vendor', order: 0x80000123 },
      { method: 'C_Sign', fault: 'a signature that is wrong', order: 'flip' },
      { method: 'C_Sign', fault: 'a crash of the module', order: 'crash' },
    ])('after $fault in $method', async ({ method, order }) => {
      const { hsm, manager, key } = await faulty();
      // The first one on a connection is verified, so that is the one to turn over.
      if (order === 'flip') hsm.order('C_SignInit', 0x30);
      hsm.order(method, order);
      expect(await isGood(key)).toBe(true);
      expect(manager.figures).toMatchObject({ failures: 0 });
      expect(manager.figures.connections).toBeGreaterThan(1);
      expect(manager.status().state).toBe('ok');
    });

    it('for all who wait, by one reconnection', async () => {
      const { hsm, manager, key } = await faulty({ sessions: 8 });
      for (let i = 0; i < 8; i += 1) hsm.order('C_Sign', 0xb3);
      expect(await Promise.all(Array.from({ length: 60 }, () => isGood(key)))).not.toContain(false);
      expect(manager.figures).toMatchObject({ failures: 0 });
      // One renewal at least; a fault that came late may have needed a second.
      expect(manager.figures.connections).toBeLessThanOrEqual(4);
    });

    it('when attempts to connect fail, one after the other', async () => {
      const { hsm, key, manager } = await faulty();
      hsm.order('C_Initialize', 0x5);
      hsm.order('C_Login', 0x30);
      hsm.order('C_Sign', 0x30);
      expect(await isGood(key)).toBe(true);
      expect(manager.figures).toMatchObject({ failures: 0, connections: 2 });
    });
  });

  describe('a module that hangs', () => {
    it.each(['C_SignInit', 'C_Sign'])(
      'in %s is stopped and started again, and blocks nobody',
      async (method) => {
        const { hsm, key, manager } = await faulty({ signTimeout: '3s' });
        const [worker] = keyWorkers();
        hsm.order(method, 'hang');
        let turns = 0;
        const ticking = setInterval(() => {
          turns += 1;
        }, 10);
        expect(await isGood(key)).toBe(true);
        clearInterval(ticking);
        // 1.5 s have passed; a blocked event loop would have ticked once or twice.
        expect(turns).toBeGreaterThan(20);
        expect(keyWorkers()).not.toContain(worker);
        expect(manager.figures).toMatchObject({ failures: 0, connections: 2 });
      },
    );

    it('or seems to, because it makes a key and does one thing at a time, is left alone', async () => {
      const { hsm, key, manager } = await faulty({ signTimeout: '600ms' });
      const [worker] = keyWorkers();
      hsm.order('C_GenerateKeyPair', 'slow');
      const made = manager.generateKey('second', 'ec-p256');
      await eventually(() => expect(hsm.calls('C_GenerateKeyPair')).toBe(2));
      hsm.order('C_SignInit', 'slow');
      await expect(key.sign(data)).rejects.toMatchObject({ code: 'deadline-exceeded' });
      await made;
      expect(await isGood(key)).toBe(true);
      expect(keyWorkers()).toEqual([worker]);
    });

    it('while it connects is given up too', async () => {
      const { hsm, key } = await faulty({ signTimeout: '200ms' });
      hsm.orderAlways('C_OpenSession', 'hang');
      hsm.order('C_Sign', 0x30);
      await expect(key.sign(data)).rejects.toMatchObject({ code: 'unavailable' });
    });

    it('does not hold up the end', async () => {
      const { hsm, key, manager } = await faulty();
      hsm.orderAlways('C_Sign', 'hang');
      const late = key.sign(data).catch((error: unknown) => error);
      await eventually(() => expect(hsm.calls('C_Sign')).toBe(2));
      await manager.close();
      expect(await late).toMatchObject({ code: 'unavailable' });
      expect(keyWorkers()).toEqual([]);
    });
  });

  describe('a process that runs the module', () => {
    it('may be killed under load without one failed signature', async () => {
      const hsm = await softHsm(tempDir());
      const manager = await openPkcs11(hsm.config());
      const key = await manager.generateKey('k', 'ec-p256');
      const load = signOn(key);
      for (let i = 0; i < 2; i += 1) {
        await load.further(50);
        for (const pid of keyWorkers()) process.kill(pid, 'SIGKILL');
      }
      await load.further(50);
      expect(await load.stop()).toEqual([]);
      expect(manager.figures).toMatchObject({ failures: 0, connections: 3 });
    });

    it('that is stopped is replaced', async () => {
      const hsm = await softHsm(tempDir());
      const key = await (await openPkcs11(hsm.config({ signTimeout: '2s' }))).generateKey('k', 'ec-p256');
      const [worker = 0] = keyWorkers();
      process.kill(worker, 'SIGSTOP');
      expect(await isGood(key)).toBe(true);
      expect(keyWorkers()).not.toContain(worker);
    });
  });

  it('a token that goes away and comes back serves again within five seconds, and what waits is not lost', async () => {
    const hsm = await softHsm(tempDir());
    const manager = await openPkcs11(hsm.config());
    const key = await manager.generateKey('k', 'ec-p256');
    const load = signOn(key);
    await load.further(20);
    renameSync(hsm.tokenDir, `${hsm.tokenDir}.away`);
    await eventually(() => expect(manager.status().state).toBe('degraded'));
    expect(manager.status().message).toContain('token "ca" cannot be reached');
    expect((await manager.listKeys()).map(({ id }) => id)).toEqual(['k']);
    renameSync(`${hsm.tokenDir}.away`, hsm.tokenDir);
    const back = performance.now();
    await load.further(1);
    expect(performance.now() - back).toBeLessThan(5_000);
    expect(await load.stop()).toEqual([]);
    expect(manager.status().state).toBe('ok');
  });

  it('a key that somebody destroyed in the token is missed, with its name', async () => {
    const hsm = await softHsm(tempDir());
    const manager = await openPkcs11(hsm.config());
    const key = await manager.generateKey('k', 'ec-p256');
    const other = await openPkcs11(hsm.config());
    await other.deleteKey('k');
    await expect(key.sign(data)).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining('"k"'),
    });
    expect(await manager.listKeys()).toEqual([]);
  });

  describe('a key that cannot be made', () => {
    it('at the first try is made at the second, and once', async () => {
      const { hsm, manager } = await faulty();
      hsm.order('C_GenerateKeyPair', 'made-but-lost');
      await manager.generateKey('second', 'ec-p256');
      expect((await manager.listKeys()).map(({ id }) => id)).toEqual(['k', 'second']);
      expect(await manager.listStrays()).toEqual([]);
    });

    it('leaves what there was', async () => {
      const { hsm, manager, key } = await faulty();
      hsm.orderAlways('C_GenerateKeyPair', 0x31);
      await expect(manager.generateKey('k', 'ec-p256')).rejects.toMatchObject({
        code: 'failed-precondition',
      });
      expect(await isGood(key)).toBe(true);
      expect(await manager.listStrays()).toEqual([]);
    });

    it('in place of another leaves that one as a stray when it cannot be destroyed', async () => {
      const { hsm, manager, key } = await faulty();
      hsm.orderAlways('C_DestroyObject', 0x1b);
      const next = await manager.generateKey('k', 'ec-p256');
      expect((await manager.listKeys()).map((one) => one.publicKey)).toEqual([next.publicKey]);
      const [stray] = await manager.listStrays();
      expect(stray).toMatchObject({ keyId: 'k', why: 'not the newest key of this name' });
      hsm.relent();
      await manager.deleteStray(stray?.handle ?? '');
      expect(await manager.listStrays()).toEqual([]);
      expect(await isGood(next)).toBe(true);
      await expect(key.sign(data)).rejects.toMatchObject({ code: 'failed-precondition' });
    });
  });

  it('a fault that does not end is an error that names it, and other keys sign on', async () => {
    const { hsm, key } = await faulty();
    hsm.orderAlways('C_Sign', 'flip');
    hsm.order('C_SignInit', 0x30);
    await expect(key.sign(data)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('does not fit the public key'),
    });
    hsm.relent();
    expect(await isGood(key)).toBe(true);
  });
});

/** Signs with four at a time until it is stopped. */
function signOn(key: ManagedKey) {
  const failures: unknown[] = [];
  let signed = 0;
  let isOn = true;
  const one = async () => {
    while (isOn) {
      const good = await isGood(key).catch((error: unknown) => error);
      if (good === true) signed += 1;
      else failures.push(good);
    }
  };
  const all = Promise.all([one(), one(), one(), one()]);
  return {
    async further(count: number) {
      const wanted = signed + count;
      await eventually(() => expect(signed).toBeGreaterThanOrEqual(wanted));
    },
    async stop() {
      isOn = false;
      await all;
      return failures;
    },
  };
}
