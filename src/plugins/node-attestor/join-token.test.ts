import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { errorText } from '../../runtime/error.ts';
import { createLogger } from '../../runtime/log.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { openSqliteStore } from '../data-store/sql-store.ts';
import {
  createJoinToken,
  hashJoinToken,
  JoinTokenAgentAttestor,
  JoinTokenServerAttestor,
  joinTokenAgentPath,
} from './join-token.ts';
import { joinTokenAgentConfig } from './join-token-config.ts';

const trustDomain = TrustDomain.parse('example.org');
const keyA = { publicKey: Buffer.from('key a') };
const keyB = { publicKey: Buffer.from('key b') };
const unusable = {
  code: 'invalid-argument',
  message: 'failed to attest: join token does not exist or has already been used',
};

/** A server half on a real store, with one token that lives for ten minutes. */
async function startServerHalf(options: { readonly aliasId?: SpiffeId } = {}) {
  const dataDir = tempDir();
  const clock = new FakeClock();
  const store = await openSqliteStore({ dataDir, clock });
  onTestFinished(() => store.close());
  const lines: string[] = [];
  const log = createLogger({ level: 'trace', format: 'json', write: (line) => void lines.push(line) });
  const attestor = new JoinTokenServerAttestor({ trustDomain, dataDir, clock, log, tokens: store.tokens });
  const { token, hash } = createJoinToken();
  await store.tokens.create({ hash, expiresAt: clock.now() / 1000 + 600, aliasId: options.aliasId });
  const agentId = SpiffeId.of(trustDomain, joinTokenAgentPath(hash));
  const record = {
    attestationType: 'join_token',
    serial: '1',
    expiresAt: 1,
    selectors: [],
    canReattest: false,
  };
  return {
    store,
    clock,
    lines,
    token,
    hash,
    agentId,
    redeem: (key: { readonly publicKey: Uint8Array }, text = token) =>
      attestor.verify(Buffer.from(text), key),
    recordAgent: () => store.agents.recordAttestation({ id: agentId, ...record }),
  };
}

describe('a join token', () => {
  it('has 256 random bits and is known by its SHA-256', () => {
    const tokens = Array.from({ length: 50 }, createJoinToken);
    expect(new Set(tokens.map(({ token }) => token)).size).toBe(50);
    for (const { token, hash } of tokens) {
      expect(Buffer.from(token, 'base64url')).toHaveLength(32);
      expect(hash).toBe(hashJoinToken(token));
      expect(hash).toMatch(/^[0-9a-f]{64}$/);
    }
  });

  it('gives its agent a path that shows neither the token nor its hash', () => {
    const { token, hash } = createJoinToken();
    const path = joinTokenAgentPath(hash);
    expect(path).toMatch(/^\/spire\/agent\/join_token\/[0-9a-f]{32}$/);
    expect(path).toBe(joinTokenAgentPath(hashJoinToken(token)));
    expect(path).not.toBe(joinTokenAgentPath(createJoinToken().hash));
    expect(hash).not.toContain(path.slice(-32));
  });
});

describe('the server half', () => {
  it('admits the agent once', async () => {
    const { redeem, agentId } = await startServerHalf();
    expect(await redeem(keyA)).toEqual({ agentPath: agentId.path, selectors: [], canReattest: false });
    await expect(redeem(keyB)).rejects.toMatchObject(unusable);
  });

  it('admits the same key again for 60 s, because the answer may have been lost', async () => {
    const { redeem, recordAgent, clock } = await startServerHalf();
    const first = await redeem(keyA);
    await recordAgent();
    await clock.advance(60_000);
    expect(await redeem(keyA)).toEqual(first);
    await expect(redeem(keyB)).rejects.toMatchObject(unusable);
    await clock.advance(1000);
    await expect(redeem(keyA)).rejects.toMatchObject(unusable);
  });

  it("refuses a token that has expired, by SPIRE's words", async () => {
    const { redeem, clock } = await startServerHalf();
    await clock.advance(600_000);
    await expect(redeem(keyA)).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'join token expired',
    });
  });

  it('refuses a token it does not know, in the same words as a used one', async () => {
    const { redeem, token } = await startServerHalf();
    for (const text of ['guess', `${token}\n`, token.slice(1), createJoinToken().token]) {
      await expect(redeem(keyA, text)).rejects.toMatchObject(unusable);
    }
  });

  it.each(['', 'x'.repeat(1025)])('refuses a payload that cannot be a token (%#)', async (text) => {
    const { redeem } = await startServerHalf();
    await expect(redeem(keyA, text)).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('makes the entry of an alias below the agent, as SPIRE does', async () => {
    const aliasId = SpiffeId.parse('spiffe://example.org/node/one');
    const { redeem, store, agentId } = await startServerHalf({ aliasId });
    await redeem(keyA);
    expect(await store.entries.list()).toMatchObject([
      { spiffeId: aliasId, parentId: agentId, selectors: [{ type: 'spiffe_id', value: agentId.toString() }] },
    ]);
  });

  it('names tokens in logs and errors by 8 hex digits of their hash only', async () => {
    const { redeem, token, hash, lines } = await startServerHalf();
    await redeem(keyA);
    const refusal = errorText(await redeem(keyB).catch((error: unknown) => error));
    const told = [...lines, refusal].join('\n');
    expect(lines[0]).toContain(hash.slice(0, 8));
    expect(refusal).toContain(hash.slice(0, 8));
    expect(told).not.toContain(token);
    expect(told).not.toContain(hash.slice(0, 9));
  });
});

describe('the agent half', () => {
  const payloadOf = async (config: unknown) =>
    Buffer.from(await new JoinTokenAgentAttestor(joinTokenAgentConfig.parse(config)).payload()).toString();

  it('sends the token of its settings, or of its file without the line break', async () => {
    const tokenFile = join(tempDir(), 'token');
    await writeFile(tokenFile, ' abc-1\r\n');
    await chmod(tokenFile, 0o600);
    expect(await payloadOf({ token: 'abc-0' })).toBe('abc-0');
    expect(await payloadOf({ tokenFile })).toBe('abc-1');
  });

  it.each([
    { name: 'there is no token', config: {}, says: 'signet token create' },
    { name: 'the file is not there', config: { tokenFile: '/no/such/file' }, says: '/no/such/file' },
    { name: 'the file is empty', config: { tokenFile: '/dev/null' }, says: '/dev/null' },
  ])('says what to do when $name', async ({ config, says }) => {
    const message = expect.stringContaining(says);
    await expect(payloadOf(config)).rejects.toMatchObject({ code: 'failed-precondition', message });
  });

  it('has no answer to a challenge', async () => {
    const answer = new JoinTokenAgentAttestor({}).answer();
    await expect(answer).rejects.toMatchObject({ code: 'failed-precondition' });
  });

  it.each([{ token: 'a', tokenFile: 'b' }, { token: '' }, { tokenFile: '' }, { tokn: 'a' }, null])(
    'refuses the settings %j',
    (config) => {
      expect(joinTokenAgentConfig.safeParse(config).success).toBe(false);
    },
  );
});
