import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AuthorityRecord, AuthorityState } from '../../plugin-api/data-store.ts';
import type { Certificate } from '../../x509/certificate.ts';
import { nextStep, timelineOf, usableAuthorities } from './authority-states.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const start = Date.UTC(2026, 0, 1);

/** Of a certificate only the times are looked at here. */
function record(
  id: string,
  state: AuthorityState,
  times: { notBeforeMs: number; notAfterMs: number },
): AuthorityRecord {
  return {
    id,
    keyId: `key-${id}`,
    publicKey: Buffer.from(id),
    certificate: times as Certificate,
    state,
    preparedAtMs: times.notBeforeMs,
    activatedAtMs: state === 'prepared' ? undefined : times.notBeforeMs,
    role: 'signing',
    chain: [],
    upstreamKeyId: '',
    taintedAtMs: undefined,
    revokedAtMs: undefined,
    svidsEndByMs: undefined,
  };
}

describe('the timeline of a signing certificate', () => {
  it.each([
    { name: 'a day', lifetime: dayMs, prepare: 12 * hourMs, activate: 4 * hourMs, force: 2 * hourMs },
    { name: 'a minute', lifetime: 60_000, prepare: 30_000, activate: 10_000, force: 5_000 },
    { name: '42 days', lifetime: 42 * dayMs, prepare: 21 * dayMs, activate: 7 * dayMs, force: 3.5 * dayMs },
    { name: '90 days', lifetime: 90 * dayMs, prepare: 30 * dayMs, activate: 7 * dayMs, force: 3.5 * dayMs },
    {
      name: '10 years',
      lifetime: 3650 * dayMs,
      prepare: 30 * dayMs,
      activate: 7 * dayMs,
      force: 3.5 * dayMs,
    },
  ])('that lives $name leaves time for each step', ({ lifetime, prepare, activate, force }) => {
    const end = start + lifetime;
    expect(timelineOf({ notBeforeMs: start, notAfterMs: end })).toEqual({
      prepareAtMs: end - prepare,
      activateAtMs: end - activate,
      forceAtMs: end - force,
      expiresAtMs: end,
    });
  });

  it.each([
    {
      name: 'as they are chosen',
      prepareBeforeMs: 8 * hourMs,
      activateBeforeMs: 3 * hourMs,
      force: 1.5 * hourMs,
    },
    {
      name: 'that do not fit cut to its life',
      prepareBeforeMs: 20 * hourMs,
      activateBeforeMs: 10 * hourMs,
      force: 2 * hourMs,
    },
    {
      name: 'of a takeover by force before an SVID would be cut',
      longestTtlMs: 3.5 * hourMs,
      force: 3.5 * hourMs,
    },
    {
      name: 'of a takeover without a wait when an SVID needs all there is',
      longestTtlMs: 9 * hourMs,
      force: 4 * hourMs,
    },
  ])(
    'of a day has times $name',
    ({ prepareBeforeMs = 30 * dayMs, activateBeforeMs = 7 * dayMs, longestTtlMs = 0, force }) => {
      const end = start + dayMs;
      const times = { prepareBeforeMs, activateBeforeMs, longestTtlMs };
      expect(timelineOf({ notBeforeMs: start, notAfterMs: end }, times)).toEqual({
        prepareAtMs: end - Math.min(prepareBeforeMs, 12 * hourMs),
        activateAtMs: end - Math.min(activateBeforeMs, 4 * hourMs),
        forceAtMs: end - force,
        expiresAtMs: end,
      });
    },
  );

  it('has its moments in order, inside its life', () => {
    fc.assert(
      fc.property(fc.integer({ min: 12, max: 4000 * dayMs }), (lifetime) => {
        const times = { notBeforeMs: start, notAfterMs: start + lifetime };
        const { prepareAtMs, activateAtMs, forceAtMs, expiresAtMs } = timelineOf(times);
        const moments = [start, prepareAtMs, activateAtMs, forceAtMs, expiresAtMs];
        expect(moments).toEqual(moments.toSorted((a, b) => a - b));
        expect(new Set(moments).size).toBe(moments.length);
      }),
    );
  });
});

/** A day that begins at `start`: prepare at 12 h, activate at 20 h, force at 22 h. */
const day = { notBeforeMs: start, notAfterMs: start + dayMs };
const active = record('active', 'active', day);
const prepared = record('prepared', 'prepared', { notBeforeMs: start, notAfterMs: start + 2 * dayMs });
const expired = record('expired', 'prepared', { notBeforeMs: start - dayMs, notAfterMs: start });
const old = record('old', 'old', day);

describe('the next step', () => {
  const none = 'none';
  it.each<{
    name: string;
    journal: readonly AuthorityRecord[];
    lost?: readonly AuthorityRecord[];
    steps: string[];
  }>([
    {
      name: 'with an active authority alone is to prepare its successor in time',
      journal: [active],
      steps: [none, none, 'prepare', 'prepare', 'prepare', 'prepare', 'prepare', 'prepare-and-activate'],
    },
    {
      name: 'with a successor is to wait, then to let it take over, in the end by force',
      journal: [active, prepared],
      steps: [none, none, none, none, 'activate', 'activate', 'activate-by-force', 'activate-by-force'],
    },
    {
      name: 'with a successor that has lost its key is to prepare another',
      journal: [active, prepared],
      lost: [prepared],
      steps: [none, none, 'prepare', 'prepare', 'prepare', 'prepare', 'prepare', 'prepare-and-activate'],
    },
    {
      name: 'with a successor that has expired is to prepare another',
      journal: [expired, active],
      steps: [none, none, 'prepare', 'prepare', 'prepare', 'prepare', 'prepare', 'prepare-and-activate'],
    },
    {
      name: 'with an expired and a usable successor is about the usable one',
      journal: [expired, active, prepared],
      steps: [none, none, none, none, 'activate', 'activate', 'activate-by-force', 'activate-by-force'],
    },
    {
      name: 'without the key of the active one is to let the successor take over at once',
      journal: [active, prepared],
      lost: [active],
      steps: Array(8).fill('activate-by-force'),
    },
    {
      name: 'without any key is to begin anew',
      journal: [active, prepared],
      lost: [active, prepared],
      steps: Array(8).fill('prepare-and-activate'),
    },
    { name: 'of a new server is to begin', journal: [], steps: Array(8).fill('prepare-and-activate') },
    {
      name: 'takes an old one back before it begins anew',
      journal: [old],
      steps: [...Array(7).fill('reactivate'), 'prepare-and-activate'],
    },
  ])('$name', ({ journal, lost = [], steps }) => {
    const keys = new Set(journal.filter((r) => !lost.includes(r)).map((r) => r.id));
    const hours = [0, 12 - 1 / hourMs, 12, 20 - 1 / hourMs, 20, 22 - 1 / hourMs, 22, 24];
    const found = hours.map((hour) => {
      const nowMs = start + hour * hourMs;
      const next = nextStep(usableAuthorities(journal, keys, nowMs), nowMs);
      if ('prepared' in next) expect(next.prepared).toBe(prepared);
      return next.kind;
    });
    expect(found).toEqual(steps);
  });
});

/** A server that looks for a step at each tick; every action takes no time. */
class Simulation {
  nowMs = start;
  journal: readonly AuthorityRecord[] = [];
  readonly keys = new Set<string>();
  readonly #caTtlMs: number;

  constructor(caTtlMs: number) {
    this.#caTtlMs = caTtlMs;
  }

  get usable() {
    return usableAuthorities(this.journal, this.keys, this.nowMs);
  }

  tick(options: { agentsBehind: boolean }): void {
    const next = nextStep(this.usable, this.nowMs);
    switch (next.kind) {
      case 'prepare':
        expect(this.usable.prepared).toBeUndefined();
        this.#prepare();
        break;
      case 'prepare-and-activate':
        expect(this.usable).toEqual({ active: undefined, prepared: undefined, old: undefined });
        this.#activate(this.#prepare());
        break;
      case 'activate':
        if (!options.agentsBehind) this.#activate(next.prepared);
        break;
      case 'activate-by-force':
        this.#activate(next.prepared);
        break;
      case 'reactivate':
        this.#activate(next.old);
        break;
      case 'none':
        break;
    }
  }

  #prepare(): AuthorityRecord {
    const made = record(String(this.journal.length), 'prepared', {
      notBeforeMs: this.nowMs,
      notAfterMs: this.nowMs + this.#caTtlMs,
    });
    this.journal = [...this.journal, made];
    this.keys.add(made.id);
    return made;
  }

  #activate({ id }: AuthorityRecord): void {
    expect(this.journal.find((r) => r.id === id)?.state).not.toBe('active');
    this.journal = this.journal.map((r): AuthorityRecord => {
      if (r.id === id) return { ...r, state: 'active', activatedAtMs: this.nowMs };
      return r.state === 'active' ? { ...r, state: 'old' } : r;
    });
  }
}

const anyTick = (longestGapMs: number) =>
  fc.record({ gapMs: fc.integer({ min: 1, max: longestGapMs }), agentsBehind: fc.boolean() });

describe('a server that looks for steps', () => {
  it('is never without an authority that can sign, however irregular its ticks within an hour of a day', () => {
    fc.assert(
      fc.property(fc.array(anyTick(dayMs / 24), { minLength: 50, maxLength: 200 }), (ticks) => {
        const server = new Simulation(dayMs);
        server.tick({ agentsBehind: false });
        for (const { gapMs, agentsBehind } of ticks) {
          server.nowMs += gapMs;
          // Before the tick: the time since the last one must have been covered too.
          expect(server.usable.active).toBeDefined();
          server.tick({ agentsBehind });
        }
        const [first, ...others] = server.journal;
        expect(first?.activatedAtMs).toBe(first?.preparedAtMs);
        // Each successor has been in the bundle for at least a quarter of a day before it signed.
        for (const { activatedAtMs, preparedAtMs } of others.filter((r) => r.state !== 'prepared')) {
          expect(activatedAtMs! - preparedAtMs).toBeGreaterThanOrEqual(6 * hourMs);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('has one after each tick, whatever keys are lost, however long it was away and wherever its clock is', () => {
    const anyEvent = fc.record({
      tick: anyTick(2 * dayMs),
      lost: fc.option(fc.nat({ max: 20 }), { freq: 3 }),
      stepMs: fc.option(fc.integer({ min: -2 * dayMs, max: 2 * dayMs }), { freq: 5 }),
    });
    fc.assert(
      fc.property(fc.array(anyEvent, { maxLength: 60 }), (events) => {
        const server = new Simulation(dayMs);
        for (const { tick, lost, stepMs } of events) {
          server.nowMs += tick.gapMs + (stepMs ?? 0);
          if (lost !== null) server.keys.delete(String(lost));
          server.tick(tick);
          expect(server.usable.active).toBeDefined();
          expect(server.journal.filter((r) => r.state === 'active')).toHaveLength(1);
        }
      }),
      { numRuns: 500 },
    );
  });
});
