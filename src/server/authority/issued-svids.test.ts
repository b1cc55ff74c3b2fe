import { describe, expect, it } from 'vitest';
import type { AuthorityRecord } from '../../plugin-api/data-store.ts';
import { silentLogger } from '../../runtime/log.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { IssuedSvids } from './issued-svids.ts';

const hourMs = 3_600_000;

function setUp() {
  const clock = new FakeClock();
  const writes: (readonly [string, number])[] = [];
  let isDown = false;
  const journal = {
    extendSvids: async (id: string, endByMs: number) => {
      if (isDown) throw new Error('the database is away');
      writes.push([id, endByMs]);
    },
  };
  const issued = new IssuedSvids({ journal, clock, log: silentLogger });
  const sign = (authorityId: string, agent: string, use = 'web', ttlMs = hourMs) =>
    issued.note({ authorityId, notAfterMs: clock.now() + ttlMs, holder: { agent, use } });
  const record = (id: string, svidsEndByMs: number | undefined = clock.now()) =>
    ({
      id,
      activatedAtMs: clock.now(),
      svidsEndByMs,
      certificate: { notAfterMs: clock.now() + 24 * hourMs },
    }) as AuthorityRecord;
  const fail = (down: boolean) => {
    isDown = down;
  };
  return { clock, issued, writes, sign, record, fail };
}

describe('what is in use of an authority', () => {
  it('is counted by holder: a later SVID takes the place of the one before', () => {
    const { issued, sign, record, clock } = setUp();
    issued.begin('a');
    sign('a', 'agent-1');
    sign('a', 'agent-1', 'db');
    sign('a', 'agent-2');
    sign('a', '', 'minted');
    sign('b', 'agent-2');
    expect(issued.inUse([record('a')], clock.now())).toMatchObject({ svids: 3, agents: 1, minted: 1 });
    expect(issued.inUse([record('a'), record('b')], clock.now())).toMatchObject({ svids: 4, agents: 2 });
  });

  it('ends when it expires, and is forgotten then', async () => {
    const { issued, sign, record, clock } = setUp();
    sign('a', 'agent-1');
    sign('a', 'agent-1', 'db', 2 * hourMs);
    const a = record('a');
    await clock.advance(hourMs);
    issued.prune(clock.now());
    expect(issued.inUse([a], clock.now())).toMatchObject({ svids: 1 });
    await clock.advance(hourMs);
    issued.prune(clock.now());
    expect(issued.inUse([a], clock.now())).toMatchObject({ svids: 0, agents: 0 });
  });

  it('is not known of authorities that signed before this process, until all of it has expired', async () => {
    const { issued, record, clock } = setUp();
    issued.begin('new');
    const [old, fresh, upgraded] = [
      record('old', clock.now() + hourMs),
      record('new'),
      record('upgraded', undefined),
    ];
    expect(issued.inUse([fresh], clock.now()).isIncomplete).toBe(false);
    expect(issued.inUse([old, fresh], clock.now())).toMatchObject({
      isIncomplete: true,
      endByMs: clock.now() + hourMs,
    });
    // What was written before this was kept can last as long as the certificate.
    const unknown = { ...upgraded, svidsEndByMs: undefined };
    expect(issued.inUse([unknown], clock.now()).endByMs).toBe(upgraded.certificate.notAfterMs);
    await clock.advance(hourMs);
    expect(issued.inUse([old, fresh], clock.now()).isIncomplete).toBe(false);
  });
});

describe('the journal', () => {
  it('is told ahead, so that few signatures cost a write', async () => {
    const { clock, sign, writes } = setUp();
    const startMs = clock.now();
    for (let minutes = 0; minutes < 60; minutes += 1) {
      sign('a', 'agent-1');
      await clock.advance(60_000);
    }
    expect(writes[0]).toEqual(['a', startMs + 1.1 * hourMs]);
    expect(writes.length).toBeLessThanOrEqual(10);
    const [, last] = writes.at(-1)!;
    expect(last).toBeGreaterThanOrEqual(clock.now() - 60_000 + hourMs);
  });

  it('that is away keeps nobody from signing, and is told with the next SVID', async () => {
    const { clock, sign, writes, fail, issued, record } = setUp();
    fail(true);
    sign('a', 'agent-1');
    await clock.advance(0);
    expect(writes).toEqual([]);
    fail(false);
    sign('a', 'agent-1');
    expect(writes).toEqual([['a', clock.now() + 1.1 * hourMs]]);
    expect(issued.inUse([record('a')], clock.now())).toMatchObject({
      svids: 1,
      endByMs: clock.now() + 1.1 * hourMs,
    });
  });
});
