import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { parseSelector, selectorText } from '../../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { EntryIndex } from './entry-index.ts';

const trustDomain = TrustDomain.parse('example.org');
const now = 1_800_000_000;
const id = (path: string) => SpiffeId.of(trustDomain, path);
const server = id('/spire/server');
const agentIds = [id('/spire/agent/one'), id('/spire/agent/two')];
const agentOne = { id: id('/spire/agent/one'), selectors: [parseSelector('node:rack:a')] };

type Agent = Parameters<EntryIndex['authorizedFor']>[0];

/** The definition, word by word and as slow as it likes. */
function authorizedByDefinition(entries: readonly RegistrationEntry[], agent: Agent): string[] {
  const alive = entries.filter((entry) => entry.expiresAt === 0 || entry.expiresAt > now);
  const has = new Set(agent.selectors.map(selectorText));
  const aliases = alive.filter(
    (entry) => entry.parentId.equals(server) && entry.selectors.every((s) => has.has(selectorText(s))),
  );
  const parents = new Set([agent.id.toString(), ...aliases.map((alias) => alias.spiffeId.toString())]);
  const found = new Set<string>();
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const entry of alive) {
      if (!parents.has(entry.parentId.toString())) continue;
      found.add(entry.id);
      parents.add(entry.spiffeId.toString());
    }
  }
  return [...found].sort();
}

const workloadIds = ['/a', '/b', '/c', '/d', '/node'].map(id);
const nodeSelectors = ['node:rack:a', 'node:rack:b', 'node:zone:1'];
const entryIds = Array.from({ length: 10 }, (_, i) => `entry-${i}`);

const anySelectors = fc.uniqueArray(fc.constantFrom(...nodeSelectors), { minLength: 1 });
/** Few names, so that parents, cycles, aliases and entries with the same SPIFFE ID come by themselves. */
const anyEntry: fc.Arbitrary<RegistrationEntry> = fc
  .record({
    id: fc.constantFrom(...entryIds),
    // The rules forbid the last one; the index does not rely on it.
    spiffeId: fc.constantFrom(...workloadIds.map(String), ...workloadIds.map(String), server.toString()),
    parentId: fc.constantFrom(...workloadIds, ...agentIds, server, server),
    selectors: anySelectors,
    expiresAt: fc.constantFrom(0, 0, 0, now - 1, now, now + 1),
    admin: fc.boolean(),
  })
  .map(testEntry);
const anyChange = fc.oneof(
  { weight: 4, arbitrary: anyEntry.map((put) => ({ put })) },
  { weight: 1, arbitrary: fc.constantFrom(...entryIds).map((remove) => ({ remove })) },
);
const anyChanges = fc.array(anyChange, { maxLength: 25 });
const anyAgent = fc.record({
  id: fc.constantFrom(...agentIds),
  selectors: anySelectors.map((selectors) => selectors.map(parseSelector)),
});

function indexAfter(changes: readonly ({ put: RegistrationEntry } | { remove: string })[]) {
  const index = new EntryIndex(trustDomain);
  const entries = new Map<string, RegistrationEntry>();
  for (const change of changes) {
    if ('put' in change) {
      index.put(change.put);
      entries.set(change.put.id, change.put);
    } else {
      index.remove(change.remove);
      entries.delete(change.remove);
    }
  }
  return { index, entries: [...entries.values()] };
}

const idsOf = (entries: readonly RegistrationEntry[]): string[] => entries.map((entry) => entry.id);
const indexOf = (...entries: readonly RegistrationEntry[]) =>
  indexAfter(entries.map((put) => ({ put }))).index;

describe('the entry index', () => {
  it('gives an agent exactly what the definition gives it, whatever the graph and its history', () => {
    fc.assert(
      fc.property(anyChanges, anyAgent, (changes, agent) => {
        const { index, entries } = indexAfter(changes);
        const found = idsOf(index.authorizedFor(agent, now));
        expect(found.sort()).toEqual(authorizedByDefinition(entries, agent));
      }),
      { numRuns: 1000 },
    );
  });

  it('says yes to an entry exactly when it is among those the agent may have', () => {
    fc.assert(
      fc.property(anyChanges, anyAgent, (changes, agent) => {
        const { index, entries } = indexAfter(changes);
        const expected = authorizedByDefinition(entries, agent);
        expect(entryIds.filter((entryId) => index.isAuthorized(agent, entryId, now))).toEqual(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it('remembers nothing of what was removed or replaced', () => {
    fc.assert(
      fc.property(anyChanges, anyAgent, fc.constantFrom(...workloadIds), (changes, agent, workload) => {
        const { index, entries } = indexAfter(changes);
        const isAdmin = entries.some(
          (e) => e.spiffeId.equals(workload) && e.admin && (e.expiresAt === 0 || e.expiresAt > now),
        );
        expect(index.size).toBe(entries.length);
        expect(index.isAdmin(workload, now)).toBe(isAdmin);
        for (const entry of entries) expect(index.find(entry.id)).toBe(entry);
        for (const { id: entryId } of entries) index.remove(entryId);
        expect(index.size).toBe(0);
        expect(index.authorizedFor(agent, now)).toEqual([]);
        expect(index.isAdmin(workload, now)).toBe(false);
        expect(entryIds.filter((entryId) => index.find(entryId) !== undefined)).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });

  it('keeps a removed entry away from the agent when others of the same parent and SPIFFE ID stay', () => {
    const [gone, stays] = ['1', '2'].map((n) => testEntry({ id: n, parentId: agentOne.id }));
    const index = indexOf(gone!, stays!);
    index.remove('1');
    expect(idsOf(index.authorizedFor(agentOne, now))).toEqual(['2']);
    expect(index.isAuthorized(agentOne, '1', now)).toBe(false);
  });

  it('does not hand entries of an alias to a node whose selectors it does not match', () => {
    const alias = { parentId: server, spiffeId: 'spiffe://example.org/node' };
    const index = indexOf(
      testEntry({ id: 'alias', ...alias, selectors: ['node:rack:a', 'node:zone:1'] }),
      testEntry({ id: 'web', parentId: id('/node') }),
    );
    const inZone = { ...agentOne, selectors: [...agentOne.selectors, parseSelector('node:zone:1')] };
    expect(idsOf(index.authorizedFor(agentOne, now))).toEqual([]);
    expect(idsOf(index.authorizedFor(inZone, now))).toEqual(['web']);
  });

  it('does not lead from one node to another through an alias or a SPIFFE ID that both have', () => {
    const index = indexOf(
      testEntry({
        id: 'alias',
        parentId: server,
        spiffeId: 'spiffe://example.org/node',
        selectors: ['node:rack:b'],
      }),
      testEntry({ id: 'mine', parentId: agentOne.id, spiffeId: 'spiffe://example.org/a' }),
      testEntry({ id: 'theirs', parentId: id('/node'), spiffeId: 'spiffe://example.org/a' }),
      testEntry({ id: 'below', parentId: id('/a'), spiffeId: 'spiffe://example.org/b' }),
    );
    expect(idsOf(index.authorizedFor(agentOne, now)).sort()).toEqual(['below', 'mine']);
    expect(index.isAuthorized(agentOne, 'theirs', now)).toBe(false);
    expect(index.isAuthorized(agentOne, 'alias', now)).toBe(false);
  });

  it.each([
    { name: 'one that has not expired', expiresAt: now + 1, isAdmin: true },
    { name: 'one without an end', expiresAt: 0, isAdmin: true },
    { name: 'not one that has expired', expiresAt: now, isAdmin: false },
  ])('takes as administrator $name', ({ expiresAt, isAdmin }) => {
    const index = indexOf(testEntry({ admin: true, expiresAt }), testEntry({ id: '2', admin: false }));
    expect(index.isAdmin(id('/workload'), now)).toBe(isAdmin);
  });
});
