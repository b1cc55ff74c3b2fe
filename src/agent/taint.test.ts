import { describe, expect, it } from 'vitest';
import { eventually } from '../testing/eventually.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { startAgent } from '../testing/running-agent.ts';
import { noAbort } from '../testing/test-server.ts';

const call = { signal: noAbort };

/** An agent that holds 150 SVIDs and its own, all of the first authority; it knows the second one, which signs now. */
async function startBetween() {
  const { server, clock } = await startAgent();
  const agent = await eventually(async () => {
    const [joined] = await server.admin.agents.list(call);
    expect(joined).toBeDefined();
    return joined;
  });
  const entries = Array.from({ length: 150 }, (_, i) =>
    testEntry({ id: `e${i}`, spiffeId: `spiffe://example.org/w${i}`, parentId: agent!.id }),
  );
  await server.admin.entries.create(entries, call);
  const { authorities } = server.admin;
  const inUse = async (id: string) => {
    await clock.advance(1_000);
    const { authorities: all } = await authorities.show(call);
    return all.find((one) => one.id === id)?.details?.svidsInUse;
  };
  const [first] = (await authorities.show(call)).authorities;
  const old = first!.id;
  await expect.poll(() => inUse(old), { timeout: 10_000 }).toBe(151);
  const { id: next } = await authorities.prepare({ newRoot: false, ...call });
  await eventually(async () => {
    await clock.advance(1_000);
    expect((await authorities.show(call)).details?.agentsBehind).toBe(0);
  });
  await authorities.activate(next, call);
  return { authorities, clock, inUse, old, next };
}

describe('an agent whose server taints an authority', () => {
  it('replaces its own SVID and those of its workloads, so that the authority can be revoked', async () => {
    const { authorities, clock, inUse, old, next } = await startBetween();
    await authorities.taint(old, { isUpstream: false, ...call });
    const before = clock.now();
    await expect.poll(() => inUse(old), { timeout: 10_000 }).toBe(0);
    expect(await inUse(next)).toBe(151);
    // Long before any of them would have been renewed.
    expect(clock.now() - before).toBeLessThan(5 * 60_000);
    await authorities.revoke(old, { isUpstream: false, force: false, ...call });
    await expect.poll(() => inUse(old), { timeout: 5_000 }).toBe(0);
  });

  it('does the same when the authority is revoked by force before it has heard of the taint', async () => {
    const { authorities, clock, inUse, old, next } = await startBetween();
    await authorities.taint(old, { isUpstream: false, ...call });
    await authorities.revoke(old, { isUpstream: false, force: true, ...call });
    const before = clock.now();
    await expect.poll(() => inUse(next), { timeout: 10_000 }).toBe(151);
    expect(clock.now() - before).toBeLessThan(5 * 60_000);
  });
});
