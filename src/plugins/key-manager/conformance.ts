import { createPrivateKey, createPublicKey, randomBytes } from 'node:crypto';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { type KeyType, keyTypes, signatureAlgorithmOf, verifySignature } from '../../x509/signature.ts';

const data = Buffer.from('to be signed');

/** A place for keys, empty at first. */
export interface KeyPlace {
  /** One start of a key manager on it. */
  open(): Promise<KeyManager>;
  /** False: keys end with the process. */
  readonly isDurable: boolean;
  /** False: no private key ever leaves it. */
  readonly isExportable: boolean;
  /** Those that this place cannot have; default: none. */
  readonly withoutTypes?: readonly KeyType[];
}

/** What every key manager must do; `place` makes a fresh, empty place. */
export function describeKeyManager(name: string, place: () => Promise<KeyPlace>): void {
  const open = async () => start(await place());
  describe(`the key manager "${name}"`, () => {
    describesGeneration(place, open);
    describesManyAtOnce(open);
    describesDeletion(open);
    describesRestarts(place);
    describesIds(open);
    describesExport(place);
  });
}

/** Opens it, and closes it when the test ends. */
async function start(place: KeyPlace): Promise<KeyManager> {
  const manager = await place.open();
  onTestFinished(async () => manager.close?.());
  return manager;
}

function describesGeneration(place: () => Promise<KeyPlace>, open: () => Promise<KeyManager>): void {
  it.each(keyTypes)('makes a key of type %s that signs', { timeout: 60_000 }, async (type) => {
    const found = await place();
    const manager = await start(found);
    if (found.withoutTypes?.includes(type)) {
      await expect(manager.generateKey('k', type)).rejects.toMatchObject({
        code: 'failed-precondition',
        message: expect.stringContaining(type),
      });
      return;
    }
    const key = await manager.generateKey('k', type);
    expect(key).toMatchObject({ id: 'k', type });
    for (const bytes of [1, 600, 70_000]) expect(await isGoodSignature(key, randomBytes(bytes))).toBe(true);
  });

  it('refuses a key type that it does not know, and keeps the key that it has', async () => {
    const manager = await open();
    const kept = await manager.generateKey('k', 'ec-p256');
    for (const type of ['ec-p521', 'rsa-1024', 'rsa', ''] as unknown as readonly KeyType[]) {
      await expect(manager.generateKey('k', type)).rejects.toMatchObject({ code: 'invalid-argument' });
    }
    expect((await manager.listKeys()).map(hex)).toEqual([hex(kept)]);
    expect(await isGoodSignature(kept)).toBe(true);
  });

  it('finds the key that it made', async () => {
    const manager = await open();
    const made = await manager.generateKey('x509-ca-a', 'ec-p256');
    const found = await manager.findKey('x509-ca-a');
    expect(hex(found)).toBe(hex(made));
    expect(await manager.findKey('x509-ca-b')).toBeUndefined();
  });

  it('replaces the key under an id that is in use, which leaves nothing behind', async () => {
    const manager = await open();
    const first = await manager.generateKey('k', 'ec-p256');
    const second = await manager.generateKey('k', 'ec-p384');
    expect(hex(second)).not.toBe(hex(first));
    expect((await manager.listKeys()).map(hex)).toEqual([hex(second)]);
    expect(await manager.findKey('k')).toMatchObject({ type: 'ec-p384' });
    expect((await manager.listStrays?.()) ?? []).toEqual([]);
  });
}

function describesManyAtOnce(open: () => Promise<KeyManager>): void {
  it('gives one and the same answer after keys were made for one id at the same time', async () => {
    const manager = await open();
    const made = await Promise.all(Array.from({ length: 5 }, () => manager.generateKey('k', 'ec-p256')));
    const found = await manager.findKey('k');
    expect(made.map(hex)).toContain(hex(found));
    expect((await manager.listKeys()).map(hex)).toEqual([hex(found)]);
  });

  it('signs with several keys at the same time, each what it was given', async () => {
    const manager = await open();
    const keys = await Promise.all(['a', 'b', 'c'].map((id) => manager.generateKey(id, 'ec-p256')));
    const texts = Array.from({ length: 90 }, (_, i) => Buffer.from(`text ${i}`));
    const results = await Promise.all(texts.map((text, i) => isGoodSignature(keys[i % 3]!, text)));
    expect(results.filter((isGood) => !isGood)).toEqual([]);
  });

  it('goes on signing while keys are made and deleted', async () => {
    const manager = await open();
    const key = await manager.generateKey('k', 'ec-p256');
    const changes = (async () => {
      for (const id of ['a', 'b', 'a']) await manager.generateKey(id, 'ec-p384');
      await manager.deleteKey('b');
    })();
    const signatures = Promise.all(Array.from({ length: 40 }, () => isGoodSignature(key)));
    await changes;
    expect((await signatures).every(Boolean)).toBe(true);
    expect((await manager.listKeys()).map(({ id }) => id)).toEqual(['a', 'k']);
  });
}

function describesDeletion(open: () => Promise<KeyManager>): void {
  it('lists keys in order of id and forgets those that were deleted', async () => {
    const manager = await open();
    for (const id of ['b', 'a.1', 'C']) await manager.generateKey(id, 'ec-p256');
    expect((await manager.listKeys()).map((key) => key.id)).toEqual(['C', 'a.1', 'b']);
    await manager.deleteKey('a.1');
    await manager.deleteKey('a.1');
    expect((await manager.listKeys()).map((key) => key.id)).toEqual(['C', 'b']);
    expect(await manager.findKey('a.1')).toBeUndefined();
  });
}

function describesRestarts(place: () => Promise<KeyPlace>): void {
  it('has the same keys after a restart, or none', async () => {
    const found = await place();
    const before = await start(found);
    const kept = [await before.generateKey('a', 'ec-p256'), await before.generateKey('b', 'ec-p384')];
    await before.generateKey('gone', 'ec-p256');
    await before.deleteKey('gone');
    await before.close?.();
    const keys = await (await start(found)).listKeys();
    expect(keys.map(({ id, type }) => ({ id, type }))).toEqual(
      found.isDurable ? kept.map(({ id, type }) => ({ id, type })) : [],
    );
    expect(keys.map(hex)).toEqual(found.isDurable ? kept.map(hex) : []);
    for (const key of keys) expect(await isGoodSignature(key)).toBe(true);
  });
}

function describesIds(open: () => Promise<KeyManager>): void {
  const sound = ['a', '.', '..', '-', '_A.z-9', 'x'.repeat(64)];
  const unsound = ['', 'a/b', '../a', 'a b', 'a\0', 'ä', 'a\n', 'x'.repeat(65)];

  it(`accepts ids such as ${sound.slice(0, 5).join(' ')}`, async () => {
    const manager = await open();
    for (const id of sound) {
      await manager.generateKey(id, 'ec-p256');
      expect((await manager.findKey(id))?.id).toBe(id);
    }
  });

  it(`refuses ids such as ${JSON.stringify(unsound.slice(0, 7))} everywhere`, async () => {
    const manager = await open();
    for (const id of unsound) {
      const refusal = { code: 'invalid-argument' };
      await expect(manager.generateKey(id, 'ec-p256')).rejects.toMatchObject(refusal);
      await expect(manager.findKey(id)).rejects.toMatchObject(refusal);
      await expect(manager.deleteKey(id)).rejects.toMatchObject(refusal);
    }
    expect(await manager.listKeys()).toEqual([]);
  });
}

function describesExport(place: () => Promise<KeyPlace>): void {
  it('gives out private keys, or has no method for that, as it says', async () => {
    const found = await place();
    const manager = await start(found);
    expect(manager.exportKey !== undefined).toBe(found.isExportable);
    if (manager.exportKey === undefined) return;
    const key = await manager.generateKey('k', 'ec-p256');
    const pem = await manager.exportKey('k');
    expect(pem).toMatch(/^-----BEGIN PRIVATE KEY-----\n/);
    const publicKey = createPublicKey(createPrivateKey(pem)).export({ type: 'spki', format: 'der' });
    expect(publicKey.toString('hex')).toBe(hex(key));
    await expect(manager.exportKey('other')).rejects.toMatchObject({ code: 'not-found' });
  });
}

async function isGoodSignature(key: ManagedKey, text: Uint8Array = data): Promise<boolean> {
  const algorithmOid = signatureAlgorithmOf(key.type).oid;
  return verifySignature({ spki: key.publicKey, algorithmOid, data: text, signature: await key.sign(text) });
}

function hex(key: ManagedKey | undefined): string {
  return Buffer.from(key?.publicKey ?? []).toString('hex');
}
