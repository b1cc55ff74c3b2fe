import { describe, expect, it } from 'vitest';
import type { AgentRecord } from '../../plugin-api/data-store.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { agentId, attestation, type OpenHarness } from './samples.ts';

/** What every store of attested nodes must do. */
export function describeAgentStore(open: OpenHarness): void {
  describe('agents', () => {
    describesAttestations(open);
    describesRenewals(open);
  });
}

function describesAttestations(open: OpenHarness): void {
  it('come back as they were recorded, also after a restart', async () => {
    const { store, reopen } = await open();
    const record: AgentRecord = { ...attestation, newSerial: '', newExpiresAt: 0, banned: false };
    expect(await store.agents.recordAttestation(attestation)).toEqual(record);
    expect(await store.agents.find(agentId)).toEqual(record);
    expect(await store.agents.find(SpiffeId.parse(`${agentId}2`))).toBeUndefined();
    expect(await (await reopen()).agents.find(agentId)).toEqual(record);
  });

  it('replace what an earlier attestation left', async () => {
    const { store } = await open();
    await store.agents.recordAttestation(attestation);
    await store.agents.recordRenewal(agentId, { serial: '7', expiresAt: 1 });
    const next = { ...attestation, serial: '8', selectors: [], canReattest: true };
    const record = { ...next, newSerial: '', newExpiresAt: 0, banned: false };
    expect(await store.agents.recordAttestation(next)).toEqual(record);
    expect(await store.agents.list()).toEqual([record]);
  });

  it('are refused for a banned agent', async () => {
    const { store, ban } = await open();
    await store.agents.recordAttestation(attestation);
    await ban(agentId);
    const refusal = { code: 'permission-denied', reason: 'AGENT_BANNED' };
    await expect(store.agents.recordAttestation(attestation)).rejects.toMatchObject(refusal);
    expect(await store.agents.find(agentId)).toMatchObject({ banned: true, serial: '' });
  });

  it.each(['', '-1', '07', '0x1f', '1 '])('are refused with the serial %j', async (serial) => {
    const { store } = await open();
    const bad = store.agents.recordAttestation({ ...attestation, serial });
    await expect(bad).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(await store.agents.list()).toEqual([]);
  });

  it('are listed in order of id', async () => {
    const { store } = await open();
    for (const end of ['c', 'a', 'b']) {
      await store.agents.recordAttestation({ ...attestation, id: SpiffeId.parse(`${agentId}${end}`) });
    }
    expect((await store.agents.list()).map(({ id }) => id.toString().at(-1))).toEqual(['a', 'b', 'c']);
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

  it('are refused for an agent that is not known or banned', async () => {
    const { store, ban } = await open();
    const renewed = { serial: '7', expiresAt: 1 };
    const refusal = { code: 'not-found' };
    await expect(store.agents.recordRenewal(agentId, renewed)).rejects.toMatchObject(refusal);
    await expect(store.agents.promoteSerial(agentId, '7')).rejects.toMatchObject(refusal);
    await store.agents.recordAttestation(attestation);
    await store.agents.recordRenewal(agentId, renewed);
    await ban(agentId);
    await expect(store.agents.recordRenewal(agentId, renewed)).rejects.toMatchObject(refusal);
    await expect(store.agents.promoteSerial(agentId, '7')).rejects.toMatchObject(refusal);
  });
}
