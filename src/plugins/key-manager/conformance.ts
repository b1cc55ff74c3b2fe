import { createPrivateKey, createPublicKey } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { type KeyType, signatureAlgorithmOf, verifySignature } from '../../x509/signature.ts';

const data = Buffer.from('to be signed');

/** What every key manager must do; `open` makes a fresh, empty one. */
export function describeKeyManager(name: string, open: () => Promise<KeyManager>): void {
  describe(`the key manager "${name}"`, () => {
    describesGeneration(open);
    describesIds(open);
    describesExport(open);
  });
}

function describesGeneration(open: () => Promise<KeyManager>): void {
  it.each<KeyType>(['ec-p256', 'ec-p384', 'rsa-2048'])('makes a key of type %s that signs', async (type) => {
    const manager = await open();
    const key = await manager.generateKey('k', type);
    expect(key).toMatchObject({ id: 'k', type });
    expect(await isGoodSignature(key)).toBe(true);
  });

  it('finds the key that it made', async () => {
    const manager = await open();
    const made = await manager.generateKey('x509-ca-a', 'ec-p256');
    const found = await manager.findKey('x509-ca-a');
    expect(hex(found)).toBe(hex(made));
    expect(await manager.findKey('x509-ca-b')).toBeUndefined();
  });

  it('replaces the key under an id that is in use', async () => {
    const manager = await open();
    const first = await manager.generateKey('k', 'ec-p256');
    const second = await manager.generateKey('k', 'ec-p384');
    expect(hex(second)).not.toBe(hex(first));
    expect((await manager.listKeys()).map(hex)).toEqual([hex(second)]);
  });

  it('gives one and the same answer after keys were made for one id at the same time', async () => {
    const manager = await open();
    const made = await Promise.all(Array.from({ length: 5 }, () => manager.generateKey('k', 'ec-p256')));
    const found = await manager.findKey('k');
    expect(made.map(hex)).toContain(hex(found));
    expect((await manager.listKeys()).map(hex)).toEqual([hex(found)]);
  });

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

function describesIds(open: () => Promise<KeyManager>): void {
  it.each(['a', '.', '..', '-', '_A.z-9', 'x'.repeat(64)])('accepts the id %j', async (id) => {
    const manager = await open();
    await manager.generateKey(id, 'ec-p256');
    expect((await manager.findKey(id))?.id).toBe(id);
  });

  it.each(['', 'a/b', '../a', 'a b', 'a\0', 'ä', 'a\n', 'x'.repeat(65)])(
    'refuses the id %j everywhere',
    async (id) => {
      const manager = await open();
      const refusal = { code: 'invalid-argument' };
      await expect(manager.generateKey(id, 'ec-p256')).rejects.toMatchObject(refusal);
      await expect(manager.findKey(id)).rejects.toMatchObject(refusal);
      await expect(manager.deleteKey(id)).rejects.toMatchObject(refusal);
      expect(await manager.listKeys()).toEqual([]);
    },
  );
}

function describesExport(open: () => Promise<KeyManager>): void {
  it('gives out the private key of a key, or has no such method', async ({ skip }) => {
    const manager = await open();
    if (manager.exportKey === undefined) return skip('keys of this manager cannot be exported');
    const key = await manager.generateKey('k', 'ec-p256');
    const pem = await manager.exportKey('k');
    expect(pem).toMatch(/^-----BEGIN PRIVATE KEY-----\n/);
    const publicKey = createPublicKey(createPrivateKey(pem)).export({ type: 'spki', format: 'der' });
    expect(publicKey.toString('hex')).toBe(hex(key));
    await expect(manager.exportKey('other')).rejects.toMatchObject({ code: 'not-found' });
  });
}

async function isGoodSignature(key: ManagedKey): Promise<boolean> {
  const algorithmOid = signatureAlgorithmOf(key.type).oid;
  return verifySignature({ spki: key.publicKey, algorithmOid, data, signature: await key.sign(data) });
}

function hex(key: ManagedKey | undefined): string {
  return Buffer.from(key?.publicKey ?? []).toString('hex');
}
