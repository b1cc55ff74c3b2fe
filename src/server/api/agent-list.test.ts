import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CountAgentsRequest,
  ListAgentsRequest,
  ListAgentsRequest_Filter,
} from '../../gen/spire/api/server/agent/v1/agent.ts';
import { AgentMask } from '../../gen/spire/api/types/agent.ts';
import { SelectorMatch_MatchBehavior as Match } from '../../gen/spire/api/types/selector.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import { openTestStore } from '../../testing/test-store.ts';
import { countAgents, listAgents, parseSpireTime } from './agent-list.ts';
import { encodePageToken } from './page-token.ts';

const empty = new Uint8Array(0);
const noon = Date.UTC(2027, 0, 31, 12) / 1000;
const requestOf = (changes: Partial<ListAgentsRequest>): ListAgentsRequest => ({
  ...ListAgentsRequest.decode(empty),
  ...changes,
});
const filterOf = (changes: Partial<ListAgentsRequest_Filter>): ListAgentsRequest_Filter => ({
  ...ListAgentsRequest_Filter.decode(empty),
  ...changes,
});

/** Agents "a" to "e", each of another kind; `list` gives the last letters of those found. */
async function registry() {
  const { agents } = await openTestStore();
  const kinds = [
    { name: 'a', attestationType: 'join_token', selectors: [], expiresAt: noon - 1 },
    { name: 'b', attestationType: 'join_token', selectors: ['x:1'], expiresAt: noon },
    { name: 'c', attestationType: 'x509pop', selectors: ['x:1', 'x:2'], expiresAt: noon + 1 },
    { name: 'd', attestationType: 'x509pop', selectors: ['x:2', 'x:3'], expiresAt: noon + 2 },
    { name: 'e', attestationType: 'x509pop', selectors: ['x:1', 'x:2', 'x:3'], expiresAt: noon + 3 },
  ];
  for (const { name, selectors, ...kind } of kinds) {
    await agents.recordAttestation({
      ...kind,
      id: SpiffeId.parse(`spiffe://example.org/spire/agent/${name}`),
      serial: '7',
      selectors: selectors.map(parseSelector),
      canReattest: kind.attestationType === 'x509pop',
    });
  }
  const e = SpiffeId.parse('spiffe://example.org/spire/agent/e');
  await agents.recordVersion(e, '1.15.3');
  await agents.ban(e);
  const list = async (changes: Partial<ListAgentsRequest>) => {
    const page = await listAgents(agents, requestOf(changes));
    return { found: page.agents.map(({ id }) => id?.path.at(-1)).join(''), next: page.nextPageToken };
  };
  return { agents, list };
}

const matching = (match: Match, ...texts: string[]) => ({
  bySelectorMatch: { selectors: texts.map(parseSelector), match },
});

describe('the list of agents', () => {
  it.each<{ filter: Partial<ListAgentsRequest_Filter>; found: string }>([
    { filter: {}, found: 'abcde' },
    { filter: { byAttestationType: 'x509pop' }, found: 'cde' },
    { filter: { byAttestationType: 'X509POP' }, found: '' },
    { filter: { byBanned: true }, found: 'e' },
    { filter: { byBanned: false }, found: 'abcd' },
    { filter: { byCanReattest: true }, found: 'cde' },
    { filter: { byCanReattest: false }, found: 'ab' },
    { filter: { byExpiresBefore: '2027-01-31 12:00:00 +0000 +00' }, found: 'a' },
    { filter: { byExpiresBefore: '2027-01-31 13:00:01 +0100 +01' }, found: 'ab' },
    { filter: matching(Match.MATCH_EXACT, 'x:2', 'x:1'), found: 'c' },
    { filter: matching(Match.MATCH_SUBSET, 'x:1', 'x:2'), found: 'bc' },
    { filter: matching(Match.MATCH_SUPERSET, 'x:1', 'x:2'), found: 'ce' },
    { filter: matching(Match.MATCH_ANY, 'x:3', 'x:4'), found: 'de' },
    { filter: { byBanned: false, ...matching(Match.MATCH_SUPERSET, 'x:2') }, found: 'cd' },
  ])('has those of $filter, and as many are counted', async ({ filter, found }) => {
    const { agents, list } = await registry();
    expect((await list({ filter: filterOf(filter) })).found).toBe(found);
    const request = CountAgentsRequest.decode(empty);
    expect(await countAgents(agents, { ...request, filter: filterOf(filter) })).toEqual({
      count: found.length,
    });
  });

  it.each<{ name: string; request: Partial<ListAgentsRequest> }>([
    { name: 'no selectors', request: { filter: filterOf(matching(Match.MATCH_ANY)) } },
    {
      name: 'an empty selector',
      request: { filter: filterOf({ bySelectorMatch: { selectors: [{ type: '', value: '' }], match: 0 } }) },
    },
    { name: 'an unknown behaviour', request: { filter: filterOf(matching(4 as Match, 'x:1')) } },
    { name: 'a time that is none', request: { filter: filterOf({ byExpiresBefore: 'yesterday' }) } },
    { name: 'a negative page size', request: { pageSize: -1 } },
    { name: 'a token of somebody else', request: { pageToken: 'NTA=' } },
    {
      name: 'an id instead of a token',
      request: { pageSize: 1, pageToken: 'spiffe://example.org/spire/agent/a' },
    },
  ])('is refused for $name', async ({ request }) => {
    const { list } = await registry();
    await expect(list(request)).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('has no longer a token after the last page', async () => {
    const { list } = await registry();
    const first = await list({ pageSize: 3 });
    expect(first.found).toBe('abc');
    expect(await list({ pageSize: 3, pageToken: first.next })).toEqual({ found: 'de', next: '' });
    expect(await list({ pageSize: 5 })).toEqual({ found: 'abcde', next: '' });
    expect(await list({ pageSize: 0, pageToken: first.next })).toEqual({ found: 'de', next: '' });
    const behind = encodePageToken('spiffe://example.org/spire/agent/z');
    expect(await list({ pageSize: 5, pageToken: behind })).toEqual({ found: '', next: '' });
  });

  it('is the same in pages of any size, with and without selectors', async () => {
    const { list } = await registry();
    const filters = [undefined, filterOf(matching(Match.MATCH_ANY, 'x:2'))];
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 7 }),
        fc.constantFrom(...filters),
        async (pageSize, filter) => {
          let [pages, pageToken] = ['', ''];
          do {
            const page = await list({ pageSize, pageToken, filter });
            expect(page.found.length).toBeLessThanOrEqual(pageSize);
            pages += page.found;
            pageToken = page.next;
          } while (pageToken !== '');
          expect(pages).toBe((await list({ filter })).found);
        },
      ),
      { numRuns: 14 },
    );
  });

  it('goes on where it was when agents go away between two pages', async () => {
    const { agents, list } = await registry();
    const { next } = await list({ pageSize: 2 });
    await agents.delete(SpiffeId.parse('spiffe://example.org/spire/agent/b'));
    expect((await list({ pageSize: 2, pageToken: next })).found).toBe('cd');
  });
});

describe('an agent', () => {
  const all = {
    attestationType: 'x509pop',
    x509svidSerialNumber: '7',
    x509svidExpiresAt: BigInt(noon + 1),
    selectors: [
      { type: 'x', value: '1' },
      { type: 'x', value: '2' },
    ],
    banned: false,
    canReattest: true,
    agentVersion: '',
  };

  it('is shown with all its fields, the serial of a banned one being gone', async () => {
    const { agents } = await registry();
    const shown = (await listAgents(agents, requestOf({}))).agents;
    expect(shown[2]).toEqual({ id: { trustDomain: 'example.org', path: '/spire/agent/c' }, ...all });
    expect(shown[4]).toMatchObject({ x509svidSerialNumber: '', banned: true, agentVersion: '1.15.3' });
  });

  it.each(Object.keys(AgentMask.decode(empty)) as (keyof AgentMask)[])(
    'is shown with its ID and %s alone when the mask says so',
    async (field) => {
      const { agents } = await registry();
      const outputMask = { ...AgentMask.decode(empty), [field]: true };
      const [, , c, , e] = (await listAgents(agents, requestOf({ outputMask }))).agents;
      const nothing = {
        attestationType: '',
        x509svidSerialNumber: '',
        x509svidExpiresAt: 0n,
        selectors: [],
        banned: false,
        canReattest: false,
        agentVersion: '',
      };
      const id = { trustDomain: 'example.org', path: '/spire/agent/c' };
      expect(c).toEqual({ id, ...nothing, [field]: all[field] });
      expect(e?.banned).toBe(field === 'banned');
      expect(e?.agentVersion).toBe(field === 'agentVersion' ? '1.15.3' : '');
    },
  );
});

const likeTimes = fc.stringMatching(/^\d{4}-[01]\d-[0-3]\d [0-2]\d:[0-6]\d:[0-6]\d [+-]\d{4} [+-]\d\d$/);

describe('times as SPIRE writes them', () => {
  it.each([
    { text: '2027-01-31 12:00:00 +0000 +00', seconds: noon },
    { text: '2027-01-31 14:30:00 +0230 +02', seconds: noon },
    { text: '2027-01-31 04:00:00 -0800 -08', seconds: noon },
    { text: '2027-01-31 12:00:00.999999999 +0000 +00', seconds: noon },
  ])('are read: $text', ({ text, seconds }) => {
    expect(parseSpireTime(text)).toBe(seconds);
  });

  it.each([
    '2027-01-31T12:00:00Z',
    '2027-01-31 12:00:00 +0000 UTC',
    '2027-01-31 12:00:00 +0000',
    '2027-02-30 12:00:00 +0000 +00',
    '2027-13-01 12:00:00 +0000 +00',
    '2027-01-31 25:00:00 +0000 +00',
    '2027-01-31 12:00:00 +9900 +99',
    ' 2027-01-31 12:00:00 +0000 +00',
    '2027-01-31 12:00:00 +0000 +00\n',
    '0',
  ])('are refused when they are none, and so never mean "all": %j', (text) => {
    expect(() => parseSpireTime(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('are a time or refused, whatever they are', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary', maxLength: 500 }), likeTimes), (text) => {
        try {
          expect(Number.isSafeInteger(parseSpireTime(text))).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid-argument' });
          expect((error as Error).message.length).toBeLessThan(600);
        }
      }),
    );
  });
});
