import { describe, expect, it } from 'vitest';
import { eventually } from '../testing/eventually.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { startAgent } from '../testing/running-agent.ts';
import { noAbort } from '../testing/test-server.ts';

const call = { signal: noAbort };

describe('an agent whose server taints an authority', () => {
  it('replaces its own SVID and those of its workloads, so that the authority can be revoked', async () => {
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
    const [active] = (await authorities.show(call)).authorities;
    await expect.poll(() => inUse(active!.id), { timeout: 10_000 }).toBe(151);
    await clock.advance(31_000);
    const { id: next } = await authorities.prepare({ newRoot: false, ...call });
    await authorities.activate(next, call);
    await authorities.taint(active!.id, { isUpstream: false, ...call });
    const before = clock.now();
    await expect.poll(() => inUse(active!.id), { timeout: 10_000 }).toBe(0);
    expect(await inUse(next)).toBe(151);
    // Long before any of them would have been renewed.
    expect(clock.now() - before).toBeLessThan(60_000);
    await authorities.revoke(active!.id, { isUpstream: false, force: false, ...call });
    await expect.poll(() => inUse(active!.id), { timeout: 5_000 }).toBe(0);
  });
});
