import { describe, expect, it } from 'vitest';
import type { AgentFilter, AgentRecord } from '../../plugin-api/data-store.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { describesAgentLifeCycle } from './agent-life-cycle.ts';
import { agentId, attestation, type OpenHarness } from './samples.ts';

/** What every store of attested nodes must do. */
export function describeAgentStore(open: OpenHarness): void {
  describe('agents', () => {
    describesAttestations(open);
    describesRenewals(open);
    describesRemovals(open);
    describesLists(open);
    describesAgentLifeCycle(open);
  });
}

const fresh = { newSerial: '', newExpiresAt: 0, banned: false, agentVersion: '' };
const agent = (end: string) => SpiffeId.parse(`${agentId}${end}`);
const notAttested = { code: 'permission-denied', reason: 'AGENT_NOT_ATTESTED' };
const isBanned = { code: 'permission-denied', reason: 'AGENT_BANNED' };

function describesAttestations(open: OpenHarness): void {
  it('come back as they were recorded, also after a restart', async () => {
    const { store, reopen } = await open();
    const record: AgentRecord = { ...attestation, ...fresh };
    expect(await store.agents.recordAttestation(attestation)).toEqual(record);
    expect(await store.agents.find(agentId)).toEqual(record);
    expect(await store.agents.find(agent('2'))).toBeUndefined();
    expect(await (await reopen()).agents.find(agentId)).toEqual(record);
  });

  it('replace what an earlier attestation left, but for the version', async () => {
    const { store } = await open();
    await store.agents.recordAttestation(attestation);
    await store.agents.recordRenewal(agentId, { serial: '7', expiresAt: 1 });
    await store.agents.recordVersion(agentId, '1.15.3');
    const next = { ...attestation, serial: '8', selectors: [], canReattest: true };
    const record = { ...next, ...fresh, agentVersion: '1.15.3' };
    expect(await store.agents.recordAttestation(next)).toEqual(record);
    expect(await store.agents.list()).toEqual([record]);
  });

  it('are refused for a banned agent', async () => {
    const { store } = await open();
    await store.agents.recordAttestation(attestation);
    await store.agents.ban(agentId);
    await expect(store.agents.recordAttestation(attestation)).rejects.toMatchObject(isBanned);
    expect(await store.agents.find(agentId)).toMatchObject({ banned: true, serial: '' });
  });

  it.each(['', '-1', '07', '0x1f', '1 '])('are refused with the serial %j', async (serial) => {
    const { store } = await open();
    const bad = store.agents.recordAttestation({ ...attestation, serial });
    await expect(bad).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.agents.list()).toEqual([]);
  });
}

function describesRenewals(open: OpenHarness): void {
  it('are noted beside the current certificate until the new one is used', async () => {
    const { store } = await open();
    const before = await store.agents.recordAttestation(attestation);
    const renewed = await store.agents.recordRenewal(agentId, { serial: '77', expiresAt: 1_900_000_000 });
    expect(renewed).toEqual({ ...before, newSerial: '77', newExpiresAt: 1_900_000_000 });
    const after = { ...before, serial: '77', expiresAt: 1_900_000_000 };
    expect(await store.agents.promoteSerial(agentId, '77')).toEqual(after);
    expect(await store.agents.find(agentId)).toEqual(after);
  });

  it('change nothing when another serial, or the current one, is promoted', async () => {
    const { store } = await open();
    await store.agents.recordAttestation(attestation);
    const renewed = await store.agents.recordRenewal(agentId, { serial: '77', expiresAt: 1 });
    expect(await store.agents.promoteSerial(agentId, '78')).toEqual(renewed);
    expect(await store.agents.promoteSerial(agentId, attestation.serial)).toEqual(renewed);
  });

  it('and versions are refused for an agent that is not known or banned, with the reason', async () => {
    const { store } = await open();
    const changes = () => [
      store.agents.recordRenewal(agentId, { serial: '7', expiresAt: 1 }),
      store.agents.promoteSerial(agentId, '7'),
      store.agents.recordVersion(agentId, '1.0.0'),
    ];
    for (const change of changes()) await expect(change).rejects.toMatchObject(notAttested);
    await store.agents.recordAttestation(attestation);
    await store.agents.ban(agentId);
    for (const change of changes()) await expect(change).rejects.toMatchObject(isBanned);
    expect(await store.agents.find(agentId)).toMatchObject({ newSerial: '', agentVersion: '' });
  });

  it('leave the version as the agent last said it', async () => {
    const { store, reopen } = await open();
    await store.agents.recordAttestation(attestation);
    await store.agents.recordVersion(agentId, '1.0.0');
    expect(await store.agents.recordVersion(agentId, 'é"\n')).toMatchObject({ agentVersion: 'é"\n' });
    await store.agents.recordRenewal(agentId, { serial: '77', expiresAt: 1 });
    expect(await (await reopen()).agents.find(agentId)).toMatchObject({ agentVersion: 'é"\n' });
  });
}

function describesRemovals(open: OpenHarness): void {
  it('ban an agent: both its certificates stop counting, the rest stays to be seen', async () => {
    const { store, reopen } = await open();
    const before = await store.agents.recordAttestation(attestation);
    await store.agents.recordRenewal(agentId, { serial: '77', expiresAt: 1_900_000_000 });
    const banned = { ...before, serial: '', banned: true };
    expect(await store.agents.ban(agentId)).toEqual(banned);
    expect(await store.agents.ban(agentId)).toEqual(banned);
    expect(await (await reopen()).agents.find(agentId)).toEqual(banned);
  });

  it('say when there is no such agent to ban or delete', async () => {
    const { store } = await open();
    await expect(store.agents.ban(agentId)).rejects.toMatchObject({ code: 'not-found' });
    expect(await store.agents.delete(agentId)).toBeUndefined();
  });

  it('delete an agent, banned or not, who may then attest anew', async () => {
    const { store } = await open();
    const record = await store.agents.recordAttestation(attestation);
    expect(await store.agents.delete(agentId)).toEqual(record);
    expect(await store.agents.find(agentId)).toBeUndefined();
    await store.agents.recordAttestation(attestation);
    await store.agents.ban(agentId);
    expect(await store.agents.delete(agentId)).toMatchObject({ banned: true });
    expect(await store.agents.recordAttestation(attestation)).toEqual(record);
  });

  it('do not let an attestation that is under way bring the agent of a spent token back', async () => {
    const { store } = await open();
    const hash = 'a'.repeat(64);
    await store.tokens.create({ hash, expiresAt: 1000, aliasId: undefined });
    const redemption = { hash, publicKeyHash: hash, agentId, now: 500, repeatSeconds: 60 };
    const redeem = () =>
      store.tokens.redeem({ ...redemption, aliasEntry: () => expect.unreachable('there is no alias') });
    await redeem();
    await store.agents.recordAttestation(attestation);
    expect(await redeem()).toEqual({ outcome: 'repeated' });
    await store.agents.delete(agentId);
    const late = store.agents.recordAttestation(attestation);
    await expect(late).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.agents.list()).toEqual([]);
  });
}

function describesLists(open: OpenHarness): void {
  /** Agents "a" to "d", each of another kind. */
  async function filled() {
    const harness = await open();
    const { agents } = harness.store;
    const kinds = [
      { end: 'c', attestationType: 'x509pop', canReattest: true, expiresAt: 3000, selectors: ['a:1', 'a:2'] },
      { end: 'a', attestationType: 'join_token', canReattest: false, expiresAt: 1000, selectors: [] },
      { end: 'd', attestationType: 'x509pop', canReattest: true, expiresAt: 4000, selectors: ['a:1'] },
      { end: 'b', attestationType: 'join_token', canReattest: false, expiresAt: 2000, selectors: ['b:1'] },
    ];
    for (const { end, selectors, ...kind } of kinds) {
      const changes = { ...kind, id: agent(end), selectors: selectors.map(parseSelector) };
      await agents.recordAttestation({ ...attestation, ...changes });
    }
    await agents.ban(agent('d'));
    return agents;
  }
  const ends = (records: readonly AgentRecord[]) => records.map(({ id }) => id.toString().at(-1)).join('');
  const having = (match: 'exact' | 'subset' | 'superset' | 'any', ...texts: string[]) => ({
    selectors: { wanted: texts.map(parseSelector), match },
  });

  it.each<{ filter: AgentFilter; found: string }>([
    { filter: {}, found: 'abcd' },
    { filter: { attestationType: 'x509pop' }, found: 'cd' },
    { filter: { attestationType: 'tpm_devid' }, found: '' },
    { filter: { banned: true }, found: 'd' },
    { filter: { banned: false }, found: 'abc' },
    { filter: { canReattest: true }, found: 'cd' },
    { filter: { canReattest: false }, found: 'ab' },
    { filter: { expiresBefore: 3000 }, found: 'ab' },
    { filter: having('exact', 'a:1'), found: 'd' },
    { filter: having('subset', 'a:1', 'b:1'), found: 'bd' },
    { filter: having('superset', 'a:1'), found: 'cd' },
    { filter: having('any', 'a:2', 'b:1'), found: 'bc' },
    {
      filter: { canReattest: true, banned: false, expiresBefore: 5000, ...having('any', 'a:1') },
      found: 'c',
    },
  ])('have those of $filter in order of id, and count them', async ({ filter, found }) => {
    const agents = await filled();
    expect(ends(await agents.list(filter))).toBe(found);
    expect(await agents.count(filter)).toBe(found.length);
  });

  it.each<AgentFilter>([{}, { banned: false }, having('any', 'a:1', 'a:2', 'b:1')])(
    'come in pages that are together the whole: %j',
    async (filter) => {
      const agents = await filled();
      const whole = ends(await agents.list(filter));
      for (const limit of [1, 2, 4, 5]) {
        let pages = '';
        for (let afterId = ''; ; ) {
          const page = await agents.list({ ...filter, limit, ...(afterId === '' ? {} : { afterId }) });
          expect(page.length).toBeLessThanOrEqual(limit);
          pages += ends(page);
          if (page.length < limit) break;
          afterId = page.at(-1)?.id.toString() ?? '';
        }
        expect(pages).toBe(whole);
      }
    },
  );
}
