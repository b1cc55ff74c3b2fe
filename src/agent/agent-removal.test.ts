import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WorkloadClient } from '../clients/workload-client.ts';
import { State } from '../gen/signet/health/v1/health.ts';
import { eventually } from '../testing/eventually.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { type Health, healthy, healthyInTime, reattestable, startAgent } from '../testing/running-agent.ts';
import { noAbort } from '../testing/test-server.ts';

const uid = process.getuid?.() ?? 0;
const call = { signal: noAbort };
const hasOne = ({ check }: Health) => check.get('identities')?.message.includes('1 with') === true;

/** An agent with one workload, this process, which has its identity. */
async function serving(attestor?: typeof reattestable) {
  const running = await startAgent(attestor === undefined ? {} : { attestor });
  const { server, health, config } = running;
  await healthy(health, ({ state }) => state === State.OK);
  const [agent] = await server.admin.agents.list(call);
  const entry = testEntry({ id: '', spiffeId: 'spiffe://example.org/me', selectors: [`unix:uid:${uid}`] });
  await server.admin.entries.create([{ ...entry, parentId: agent!.id }], call);
  const next = (isSo: (report: Health) => boolean) => healthyInTime(running, isSo);
  await next(hasOne);
  const workload = WorkloadClient.connect(`unix://${config.workloadSocket}`);
  onTestFinished(() => workload.close());
  const serial = async () => (await workload.fetchX509Svids(call)).svids[0]?.svid.leaf.serialHex;
  expect(await serial()).toBeDefined();
  return { ...running, agent: agent!, serial, next };
}

describe('an agent that is evicted', () => {
  it('comes back by itself when its attestor can, and its workloads notice nothing', async () => {
    const { server, agent, serial, next, health } = await serving(reattestable);
    const before = await serial();
    await server.admin.agents.delete(agent.id, call);
    await next(({ check }) => check.get('server')?.message.includes('not attested') === true);
    expect(await serial()).toBe(before);
    await next(({ state }) => state === State.OK);
    expect((await server.admin.agents.list(call)).map(({ id }) => id.toString())).toEqual([String(agent.id)]);
    expect(await serial()).toBe(before);
    expect(hasOne(await health())).toBe(true);
  });

  it('with a spent token keeps its workloads going, and says that it needs a new one', async () => {
    const { server, agent, serial, next } = await serving();
    const before = await serial();
    await server.admin.agents.delete(agent.id, call);
    const { check, state } = await next(
      ({ check }) => check.get('identity')?.message.includes('signet token create') === true,
    );
    expect(state).toBe(State.DEGRADED);
    expect(check.get('server')?.message).toContain('agent is not attested');
    expect(await serial()).toBe(before);
  });
});

describe('an agent that is banned', () => {
  it('takes the identities away from its workloads, says so, and runs on', async () => {
    const { server, agent, serial, next, config } = await serving(reattestable);
    await server.admin.agents.ban(agent.id, call);
    const { check } = await next(({ state }) => state === State.NOT_READY);
    expect(check.get('identity')?.message).toContain(`${agent.id} was banned by an administrator`);
    expect(check.get('identity')?.nextStep).toContain(`signet agent evict ${agent.id}`);
    await expect(serial()).rejects.toMatchObject({ code: 'permission-denied' });
    const file = join(config.dataDir, 'agent.json');
    await eventually(() => expect(readFileSync(file, 'utf8')).not.toContain('BEGIN CERTIFICATE'));
  });

  it('comes back when an administrator lets it, and its workloads have identities again', async () => {
    const { server, agent, serial, next } = await serving(reattestable);
    const before = await serial();
    await server.admin.agents.ban(agent.id, call);
    await next(({ state }) => state === State.NOT_READY);
    await server.admin.agents.delete(agent.id, call);
    await next((report) => report.state === State.OK && hasOne(report));
    expect(await serial()).not.toBe(before);
  });
});

it('an agent shows its version to administrators', async () => {
  const { server, agent } = await serving();
  const shown = await server.admin.agents.get(agent.id, call);
  expect(shown.agentVersion).toMatch(/^signet\/\d+\.\d+\.\d+/);
});
