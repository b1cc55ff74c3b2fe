import { describe, expect, it } from 'vitest';
import type { JoinTokenStore } from '../../plugin-api/data-store.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { agentId, attestation, boom, newEntry, type OpenHarness } from './samples.ts';

/** What every store of join tokens must do. */
export function describeJoinTokenStore(open: OpenHarness): void {
  describe('join tokens', () => {
    describesRedemption(open);
    describesRepeatedRedemption(open);
    describesTokenUpkeep(open);
  });
}

const hash = (digit: string) => digit.repeat(64);
const token = { hash: hash('a'), expiresAt: 1000, aliasId: undefined };

function redemption(changes: Partial<Parameters<JoinTokenStore['redeem']>[0]> = {}) {
  return {
    hash: hash('a'),
    publicKeyHash: hash('1'),
    agentId,
    now: 500,
    repeatSeconds: 60,
    aliasEntry: (aliasId: SpiffeId) => newEntry({ id: 'alias', spiffeId: aliasId }),
    ...changes,
  };
}

function describesRedemption(open: OpenHarness): void {
  it('are redeemed once', async () => {
    const { store, reopen } = await open();
    await store.tokens.create(token);
    expect(await store.tokens.redeem(redemption())).toEqual({ outcome: 'redeemed', alias: undefined });
    expect(await store.tokens.redeem(redemption({ publicKeyHash: hash('2') }))).toEqual({ outcome: 'used' });
    const again = await (await reopen()).tokens.redeem(redemption({ publicKeyHash: hash('2') }));
    expect(again).toEqual({ outcome: 'used' });
  });

  it('are redeemed by one of many that ask at the same time', async () => {
    const { store } = await open();
    await store.tokens.create(token);
    const ask = (n: number) => store.tokens.redeem(redemption({ publicKeyHash: hash(`${n}`) }));
    const outcomes = (await Promise.all([0, 1, 2, 3, 4, 5].map(ask))).map(({ outcome }) => outcome);
    expect(outcomes.sort()).toEqual(['redeemed', 'used', 'used', 'used', 'used', 'used']);
  });

  it.each([
    { name: 'is not known', request: { hash: hash('b') }, outcome: 'unknown' },
    { name: 'expires this very second', request: { now: 1000 }, outcome: 'expired' },
    { name: 'expires the next second', request: { now: 999 }, outcome: 'redeemed' },
    { name: 'has expired', request: { now: 5000 }, outcome: 'expired' },
  ])('answer $outcome when the token $name', async ({ request, outcome }) => {
    const { store } = await open();
    await store.tokens.create(token);
    expect((await store.tokens.redeem(redemption(request))).outcome).toBe(outcome);
  });

  it('make the entry of their alias in the moment they are redeemed', async () => {
    const { store } = await open();
    const aliasId = SpiffeId.parse('spiffe://example.org/node/1');
    await store.tokens.create({ ...token, aliasId });
    expect(await store.entries.list()).toEqual([]);
    const result = await store.tokens.redeem(redemption());
    const [stored] = await store.entries.list();
    expect(result).toEqual({ outcome: 'redeemed', alias: stored });
    expect(stored).toMatchObject({ spiffeId: aliasId, revision: 0, createdAt: 500 });
  });

  it('are not used up when the entry of their alias cannot be made', async () => {
    const { store } = await open();
    await store.tokens.create({ ...token, aliasId: SpiffeId.parse('spiffe://example.org/node/1') });
    await expect(store.tokens.redeem(redemption({ aliasEntry: boom }))).rejects.toMatchObject({
      code: 'aborted',
    });
    expect(await store.tokens.redeem(redemption())).toMatchObject({ outcome: 'redeemed' });
  });
}

function describesRepeatedRedemption(open: OpenHarness): void {
  it.each([
    { name: 'right away', request: {}, outcome: 'repeated' },
    { name: 'after the last second of the window', request: { now: 560 }, outcome: 'repeated' },
    { name: 'too late', request: { now: 561 }, outcome: 'used' },
    { name: 'after the clock went back a little', request: { now: 490 }, outcome: 'repeated' },
    { name: 'after the clock went back far', request: { now: 100 }, outcome: 'used' },
    { name: 'with another key', request: { publicKeyHash: hash('2') }, outcome: 'used' },
  ])('answer $outcome to the agent that asks again $name', async ({ request, outcome }) => {
    const { store } = await open();
    await store.tokens.create(token);
    await store.tokens.redeem(redemption());
    await store.agents.recordAttestation(attestation);
    expect(await store.tokens.redeem(redemption(request))).toEqual({ outcome });
  });

  it('answer "repeated" within the window even when they expired meanwhile', async () => {
    const { store } = await open();
    await store.tokens.create(token);
    await store.tokens.redeem(redemption({ now: 990 }));
    await store.agents.recordAttestation(attestation);
    expect(await store.tokens.redeem(redemption({ now: 1010 }))).toEqual({ outcome: 'repeated' });
  });

  it.each(['is banned', 'was evicted'] as const)('answer "used" when the agent %s', async (fate) => {
    const { store } = await open();
    await store.tokens.create(token);
    await store.tokens.redeem(redemption());
    await store.agents.recordAttestation(attestation);
    if (fate === 'is banned') await store.agents.ban(agentId);
    if (fate === 'was evicted') await store.agents.delete(agentId);
    expect(await store.tokens.redeem(redemption())).toEqual({ outcome: 'used' });
  });

  it('answer "repeated" when the server went down before the agent was recorded', async () => {
    const { store } = await open();
    await store.tokens.create(token);
    await store.tokens.redeem(redemption());
    expect(await store.tokens.redeem(redemption())).toEqual({ outcome: 'repeated' });
    await store.agents.recordAttestation(attestation);
    expect(await store.tokens.redeem(redemption())).toEqual({ outcome: 'repeated' });
  });

  it('do not make the entry of their alias again', async () => {
    const { store } = await open();
    await store.tokens.create({ ...token, aliasId: SpiffeId.parse('spiffe://example.org/node/1') });
    await store.tokens.redeem(redemption());
    await store.agents.recordAttestation(attestation);
    await store.entries.delete(['alias']);
    expect(await store.tokens.redeem(redemption())).toEqual({ outcome: 'repeated' });
    expect(await store.entries.list()).toEqual([]);
  });
}

function describesTokenUpkeep(open: OpenHarness): void {
  it('are refused when their hash is known, or is no hash', async () => {
    const { store } = await open();
    await store.tokens.create(token);
    await expect(store.tokens.create(token)).rejects.toMatchObject({ code: 'already-exists' });
    for (const bad of ['', 'my-token', hash('A'), `${hash('a')}a`]) {
      const creation = store.tokens.create({ ...token, hash: bad });
      await expect(creation).rejects.toMatchObject({ code: 'invalid-argument' });
    }
  });

  it('are forgotten once they expired or were used before the given time', async () => {
    const { store } = await open();
    for (const [digit, expiresAt] of [
      ['a', 1000],
      ['b', 2000],
      ['c', 3000],
      ['d', 999],
    ] as const) {
      await store.tokens.create({ ...token, hash: hash(digit), expiresAt });
    }
    await store.tokens.redeem(redemption({ hash: hash('b'), now: 500 }));
    await store.tokens.redeem(redemption({ hash: hash('c'), now: 1500 }));
    expect(await store.tokens.prune(1000)).toBe(2);
    expect(await store.tokens.prune(1000)).toBe(0);
    const outcome = async (digit: string) =>
      (await store.tokens.redeem(redemption({ hash: hash(digit), now: 1000 }))).outcome;
    expect(await Promise.all(['a', 'b', 'c', 'd'].map(outcome))).toEqual([
      'expired',
      'unknown',
      'used',
      'unknown',
    ]);
  });
}
