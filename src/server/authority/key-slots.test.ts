import { describe, expect, it } from 'vitest';
import type { KeyManager } from '../../plugin-api/key-manager.ts';
import { DiskKeyManager } from '../../plugins/key-manager/disk.ts';
import { MemoryKeyManager } from '../../plugins/key-manager/memory.ts';
import { AuthorityProcess } from '../../testing/authority-process.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import type { JournalStep } from './journal-steps.ts';
import { pruneKeys } from './stray-keys.ts';

const hourMs = 3_600_000;
const signal = new AbortController().signal;
const killed = new Error('killed');

async function start(options: { keyManager?: KeyManager } = {}) {
  const dataDir = tempDir();
  return AuthorityProcess.ready({ dataDir, clock: new FakeClock(), ...options });
}

const prune = async (server: AuthorityProcess, dryRun: boolean) =>
  pruneKeys({ journal: server.store.authorities, keys: server.rooms.keys }, { dryRun });

const keyIds = async (server: AuthorityProcess) => (await server.keyManager.listKeys()).map(({ id }) => id);

describe('a key that was being made when the process ended', () => {
  it.each<{ at: JournalStep }>([{ at: 'key-claimed' }, { at: 'key-generated' }, { at: 'certified' }])(
    'is destroyed by the next one: $at',
    async ({ at }) => {
      const before = await start();
      const dying = await before.restart({
        onStep: (step) => {
          if (step === at) throw killed;
        },
      });
      await dying.step();
      await expect(dying.rooms.administration.prepare({ newRoot: false, signal })).rejects.toBe(killed);
      const after = await dying.restart({ onStep: () => undefined });
      await after.step();
      expect(await keyIds(after)).toEqual(['x509-ca-a']);
      expect(await after.store.keys.claims()).toEqual([]);
      expect(await prune(after, true)).toEqual([]);
    },
  );

  it('is used by the process that made it when only its certificate failed', async () => {
    const made: string[] = [];
    let isDown = true;
    const disk = await DiskKeyManager.open({ dataDir: tempDir() });
    const keyManager: KeyManager = {
      generateKey: async (id, type) => {
        const key = await disk.generateKey(id, type);
        made.push(id);
        return {
          ...key,
          sign: (data) => (isDown && made.length > 1 ? Promise.reject(new Error('away')) : key.sign(data)),
        };
      },
      findKey: (id) => disk.findKey(id),
      listKeys: () => disk.listKeys(),
      deleteKey: (id) => disk.deleteKey(id),
    };
    const server = await start({ keyManager });
    await server.clock.advance(12 * hourMs);
    for (let tries = 0; tries < 3; tries += 1) await expect(server.step()).rejects.toThrow('away');
    isDown = false;
    await server.step();
    expect(made).toEqual(['x509-ca-a', 'x509-ca-b']);
    expect((await server.journal()).map((line) => line.split(' ')[1])).toEqual(['active', 'prepared']);
  });
});

describe('a key that the journal does not know', () => {
  /** As after the restoration of an old database: the key in the other slot may be the one that all trust. */
  async function withStranger() {
    const server = await start();
    await server.keyManager.generateKey('x509-ca-b', 'ec-p256');
    return server;
  }

  it('keeps its slot: the next key goes elsewhere, and nothing destroys it', async () => {
    const server = await withStranger();
    const stranger = (await server.keyManager.findKey('x509-ca-b'))!;
    await server.live(60 * hourMs);
    expect(await keyIds(server)).toEqual(['x509-ca-a', 'x509-ca-b', 'x509-ca-c']);
    const kept = await server.keyManager.findKey('x509-ca-b');
    expect(Buffer.compare(kept!.publicKey, stranger.publicKey)).toBe(0);
  });

  it('is listed, and destroyed only when an administrator says so', async () => {
    const server = await withStranger();
    const stray = { role: 'signing', keyId: 'x509-ca-b', why: 'not in the journal' };
    expect(await prune(server, true)).toEqual([stray]);
    expect(await keyIds(server)).toEqual(['x509-ca-a', 'x509-ca-b']);
    expect(await prune(server, false)).toEqual([stray]);
    expect(await keyIds(server)).toEqual(['x509-ca-a']);
    expect(await prune(server, true)).toEqual([]);
    await server.issue();
  });

  it('is none of ours when it has another name', async () => {
    const server = await start();
    await server.keyManager.generateKey('something-else', 'ec-p256');
    expect(await prune(server, false)).toEqual([]);
    expect(await keyIds(server)).toEqual(['something-else', 'x509-ca-a']);
  });
});

it('what a key manager itself calls stray is listed and destroyed with the rest', async () => {
  const memory = new MemoryKeyManager();
  const strays = new Map([
    ['77', 'x509-ca-a'],
    ['78', 'x509-root-a'],
  ]);
  const keyManager: KeyManager = {
    generateKey: (id, type) => memory.generateKey(id, type),
    findKey: (id) => memory.findKey(id),
    listKeys: () => memory.listKeys(),
    deleteKey: (id) => memory.deleteKey(id),
    listStrays: async () =>
      [...strays].map(([handle, keyId]) => ({ handle, keyId, why: 'replaced by a newer key' })),
    deleteStray: async (handle) => {
      strays.delete(handle);
    },
  };
  const server = await start({ keyManager });
  const stray = { role: 'signing', keyId: 'x509-ca-a', why: 'replaced by a newer key' };
  expect(await prune(server, true)).toEqual([stray]);
  await prune(server, false);
  // The other one is the root's, whose key manager may share the token.
  expect([...strays.values()]).toEqual(['x509-root-a']);
  await server.issue();
});
