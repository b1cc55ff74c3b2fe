import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/time.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { startNode, type TestProcess } from '../../testing/child-process.ts';
import { newEntry } from '../../testing/data-store/samples.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { openSqliteStore } from './sql-store.ts';

/** Starts a process that has opened the store of `dataDir` as `store` and then runs `body`. */
function startWithStore(dataDir: string, body: string): TestProcess {
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  return startNode(`
    import { createInterface } from 'node:readline';
    const { openSqliteStore } = await import(${url('./sql-store.ts')});
    const { SpiffeId } = await import(${url('../../spiffe/spiffe-id.ts')});
    const { systemClock } = await import(${url('../../runtime/time.ts')});
    const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
    const store = await openSqliteStore({ dataDir: ${JSON.stringify(dataDir)}, clock: systemClock });
    const say = (text) => process.stdout.write(text + '\\n');
    ${body}
  `);
}

describe('a process killed in the middle of its writes', () => {
  it('loses nothing that was acknowledged, and the database opens again', async () => {
    const dataDir = tempDir();
    const { id: _, spiffeId: __, parentId: ___, ...rest } = newEntry({ federatesWith: [] });
    const child = startWithStore(
      dataDir,
      `const rest = ${JSON.stringify(rest)};
       const parentId = SpiffeId.parse('spiffe://example.org/spire/server');
       for (let n = 0; ; n += 1) {
         const id = String(n).padStart(6, '0');
         const spiffeId = SpiffeId.parse('spiffe://example.org/' + id);
         await store.entries.create([{ ...rest, id, spiffeId, parentId }]);
         await store.tokens.create({ hash: id.padEnd(64, 'a'), expiresAt: 9, aliasId: undefined });
         say(id);
       }`,
    );
    const acknowledged: string[] = [];
    while (acknowledged.length < 100) acknowledged.push(await child.nextLine());
    await child.kill('SIGKILL');
    const store = await openSqliteStore({ dataDir, clock: systemClock });
    const stored = new Set((await store.entries.list()).map(({ id }) => id));
    expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
    for (const id of acknowledged) {
      const again = store.tokens.create({ hash: id.padEnd(64, 'a'), expiresAt: 9, aliasId: undefined });
      await expect(again).rejects.toMatchObject({ code: 'already-exists' });
    }
    await store.close();
  });
});

describe('two processes that redeem the same tokens at the same time', () => {
  it('share them: each token is redeemed by exactly one', async () => {
    const dataDir = tempDir();
    const hashes = Array.from({ length: 40 }, (_, n) => String(n).padStart(64, '0'));
    const store = await openSqliteStore({ dataDir, clock: systemClock });
    const aliasId = SpiffeId.parse('spiffe://example.org/alias');
    for (const hash of hashes) await store.tokens.create({ hash, expiresAt: 10 ** 10, aliasId });
    const redeemers = ['1', '2'].map((name) => startWithStore(dataDir, redeemAll(name, hashes)));
    for (const redeemer of redeemers) expect(await redeemer.nextLine()).toBe('ready');
    for (const redeemer of redeemers) redeemer.writeLine('go');
    const outcomes = await Promise.all(
      redeemers.map(async (r) => JSON.parse(await r.nextLine()) as string[]),
    );
    const pairs = hashes.map((_, n) => outcomes.map((list) => list[n]).sort());
    expect(pairs).toEqual(hashes.map(() => ['redeemed', 'used']));
    expect(await store.entries.list()).toHaveLength(hashes.length);
    await store.close();
  });
});

function redeemAll(name: string, hashes: readonly string[]): string {
  const { id: _, spiffeId: __, parentId: ___, ...rest } = newEntry({ federatesWith: [] });
  return `
    const agentId = SpiffeId.parse('spiffe://example.org/spire/agent/join_token/${name}');
    say('ready');
    await input.next();
    const outcomes = [];
    for (const hash of ${JSON.stringify(hashes)}) {
      const aliasEntry = (spiffeId) => ({ ...${JSON.stringify(rest)}, id: '${name}-' + hash, spiffeId,
        parentId: SpiffeId.parse(agentId + hash) });
      const request = { hash, publicKeyHash: '${name}'.repeat(64), agentId, now: 1, repeatSeconds: 60, aliasEntry };
      outcomes.push((await store.tokens.redeem(request)).outcome);
    }
    say(JSON.stringify(outcomes));
    await store.close();
    process.exit();`;
}

describe('the files of the database', () => {
  it('never contain the text of a join token', async () => {
    const { createJoinToken } = await import('../node-attestor/join-token.ts');
    const dataDir = tempDir();
    const store = await openSqliteStore({ dataDir, clock: systemClock });
    const { token, hash } = createJoinToken();
    await store.tokens.create({ hash, expiresAt: 10 ** 10, aliasId: undefined });
    const contents = async () =>
      Buffer.concat(await Promise.all((await readdir(dataDir)).map((name) => readFile(join(dataDir, name)))));
    for (const bytes of [await contents(), await store.close().then(contents)]) {
      expect(bytes.includes(hash)).toBe(true);
      expect(bytes.includes(token)).toBe(false);
      expect(bytes.includes(Buffer.from(token, 'base64url'))).toBe(false);
    }
  });
});
