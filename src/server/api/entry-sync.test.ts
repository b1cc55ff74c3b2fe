import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type SyncAuthorizedEntriesRequest,
  SyncAuthorizedEntriesResponse,
} from '../../gen/spire/api/server/entry/v1/entry.ts';
import { entryToWire } from '../../rpc/messages.ts';
import { systemClock } from '../../runtime/time.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { spireAgentMask } from '../../testing/spire-agent-mask.ts';
import { EntryEncoder } from './entry-encoder.ts';
import { syncAuthorizedEntries } from './entry-sync.ts';

const entriesUpTo = (count: number) =>
  Array.from({ length: count }, (_, i) =>
    testEntry({ id: `entry-${String(i).padStart(4, '0')}`, revision: i % 3, createdAt: 1_700_000_000 + i }),
  );

/** The client's end of a stream: `send` is read when the server asks for it. */
class Requests implements AsyncIterable<SyncAuthorizedEntriesRequest> {
  #sent: SyncAuthorizedEntriesRequest[] = [];
  #isClosed = false;

  send(request: Partial<SyncAuthorizedEntriesRequest>): void {
    this.#sent.push({ outputMask: undefined, ids: [], ...request });
  }

  close(): void {
    this.#isClosed = true;
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      const next = this.#sent.shift();
      if (next !== undefined) yield next;
      else if (this.#isClosed) return;
      else throw new Error('the server reads although the agent waits for it');
    }
  }
}

function converse(count: number) {
  const requests = new Requests();
  const answers = syncAuthorizedEntries(requests, entriesUpTo(count), {
    encoder: new EntryEncoder(),
    clock: systemClock,
    signal: new AbortController().signal,
  });
  const next = async (): Promise<SyncAuthorizedEntriesResponse> => {
    const { value, done } = await answers.next();
    if (done === true) throw new Error('the server has ended the stream');
    return SyncAuthorizedEntriesResponse.decode(value);
  };
  return { requests, answers, next };
}

/** Syncs as SPIRE's agent does (spire.md §3.2); which of the entries it knows it is told by `knows`. */
async function agentSyncs(count: number, knows: (index: number) => boolean = () => false) {
  const { requests, answers, next } = converse(count);
  requests.send({ outputMask: spireAgentMask });
  const first = await next();
  if (first.entryRevisions.length === 0) {
    expect(first.more).toBe(false);
    return { entries: first.entries, revisions: 0, asked: 0 };
  }
  const pageSize = first.entryRevisions.length;
  const revisions = [...first.entryRevisions];
  for (let page = first; page.more; revisions.push(...page.entryRevisions)) {
    page = await next();
    expect(page.entries).toEqual([]);
  }
  const wanted = revisions.filter((_, index) => !knows(index)).map(({ id }) => id);
  const entries = [];
  for (let start = 0; start < wanted.length; start += pageSize) {
    requests.send({ ids: wanted.slice(start, start + pageSize) });
    for (let more = true; more; ) {
      const page = await next();
      expect(page.entryRevisions).toEqual([]);
      entries.push(...page.entries);
      more = page.more;
    }
  }
  requests.close();
  expect((await answers.next()).done).toBe(true);
  return { entries, revisions: revisions.length, asked: wanted.length };
}

describe('a sync of a SPIRE agent', () => {
  it.each([
    { count: 0, revisions: 0 },
    { count: 3, revisions: 0 },
    { count: 500, revisions: 0 },
    { count: 501, revisions: 501 },
    { count: 1200, revisions: 1200 },
  ])('brings all of $count entries to an agent that knows none', async ({ count, revisions }) => {
    const result = await agentSyncs(count);
    expect(result.revisions).toBe(revisions);
    expect(result.entries.map((entry) => entry.id)).toEqual(entriesUpTo(count).map((entry) => entry.id));
    for (const entry of result.entries) {
      expect(entry.spiffeId).toBeDefined();
      // Not asked for, not sent.
      expect(entry.parentId).toBeUndefined();
    }
  });

  it.each([501, 1200])('of %i entries brings only those that are new to the agent', async (count) => {
    const { entries, asked } = await agentSyncs(count, (index) => index % 100 !== 7);
    expect(asked).toBe(Math.ceil((count - 7) / 100));
    expect(entries.map((entry) => Number(entry.id.slice(6)))).toEqual(
      Array.from({ length: asked }, (_, i) => i * 100 + 7),
    );
  });

  it('of many entries that are all known ends without another word', async () => {
    expect(await agentSyncs(501, () => true)).toEqual({ entries: [], revisions: 501, asked: 0 });
  });

  it('says of each entry when it was made and how often it was changed', async () => {
    const { requests, next } = converse(501);
    requests.send({ outputMask: spireAgentMask });
    const pages = [await next(), await next()];
    expect(pages.map(({ more }) => more)).toEqual([true, false]);
    expect(pages.map(({ entryRevisions }) => entryRevisions.length)).toEqual([500, 1]);
    expect(pages[0]?.entryRevisions[2]).toEqual({
      id: 'entry-0002',
      revisionNumber: 2n,
      createdAt: 1_700_000_002n,
    });
  });
});

it('leaves an agent with exactly what it may have, whatever it held before and however it asks', async () => {
  const anyCount = fc.constantFrom(0, 1, 499, 500, 501, 1000, 1001, 1200);
  const held = fc.record({
    every: fc.integer({ min: 1, max: 9 }),
    staleEvery: fc.integer({ min: 1, max: 9 }),
  });
  await fc.assert(
    fc.asyncProperty(anyCount, held, fc.integer({ min: 100, max: 700 }), async (count, holds, perRequest) => {
      const { requests, answers, next } = converse(count);
      requests.send({ outputMask: spireAgentMask });
      const known = new Map(
        entriesUpTo(count)
          .filter((_, i) => i % holds.every === 0)
          .map(({ id, revision }, i) => [id, BigInt(i % holds.staleEvery === 0 ? revision + 1 : revision)]),
      );
      const now = new Map<string, bigint>();
      const wanted: string[] = [];
      for (let more = true; more; ) {
        const page = await next();
        for (const { id, revisionNumber } of page.entries) now.set(id, revisionNumber);
        for (const { id, revisionNumber } of page.entryRevisions) {
          if (known.get(id) === revisionNumber) now.set(id, revisionNumber);
          else wanted.push(id);
        }
        more = page.more;
      }
      // In any order: the server does not rely on the agent's.
      wanted.reverse();
      for (let start = 0; start < wanted.length; start += perRequest) {
        requests.send({ ids: wanted.slice(start, start + perRequest) });
        for (let more = true; more; ) {
          const page = await next();
          for (const { id, revisionNumber } of page.entries) now.set(id, revisionNumber);
          more = page.more;
        }
      }
      requests.close();
      expect((await answers.next()).done).toBe(true);
      const right = entriesUpTo(count).map(({ id, revision }) => [id, BigInt(revision)] as const);
      expect([...now].sort(([a], [b]) => (a < b ? -1 : 1))).toEqual(right);
    }),
    { numRuns: 40 },
  );
});

describe('the conversation', () => {
  it.each([
    { name: 'begins with ids', first: { ids: ['entry-0001'] } },
    { name: 'begins with ids and a mask', first: { ids: ['entry-0001'], outputMask: spireAgentMask } },
    { name: 'leaves the revision out', first: { outputMask: { ...spireAgentMask, revisionNumber: false } } },
  ])('is refused when it $name', async ({ first }) => {
    const { requests, next } = converse(3);
    requests.send(first);
    await expect(next()).rejects.toMatchObject({ code: 'invalid-argument' });
  });

  it('gives whole entries without a mask', async () => {
    const { requests, next } = converse(3);
    requests.send({});
    expect((await next()).entries).toEqual(entriesUpTo(3).map(entryToWire));
  });

  async function pastRevisions() {
    const conversation = converse(501);
    conversation.requests.send({});
    await conversation.next();
    await conversation.next();
    return conversation;
  }

  it('leaves ids out that the agent may not have, without a word', async () => {
    const { requests, next } = await pastRevisions();
    requests.send({ ids: ['entry-0500', 'somebody-elses', 'entry-0000'] });
    expect((await next()).entries.map((entry) => entry.id)).toEqual(['entry-0500', 'entry-0000']);
    requests.send({ ids: ['somebody-elses'] });
    expect(await next()).toEqual({ entryRevisions: [], entries: [], more: false });
  });

  it('sends an entry once, however often it is asked for in one message', async () => {
    const { requests, next } = await pastRevisions();
    requests.send({ ids: Array(10_000).fill('entry-0001') });
    expect(await next()).toMatchObject({ entries: [{ id: 'entry-0001' }], more: false });
  });

  it('answers a question for too many in pages', async () => {
    const { requests, next } = await pastRevisions();
    requests.send({ ids: entriesUpTo(501).map((entry) => entry.id) });
    const pages = [await next(), await next()];
    expect(pages.map(({ entries, more }) => [entries.length, more])).toEqual([
      [500, true],
      [1, false],
    ]);
  });

  it('of an agent that says nothing is over', async () => {
    const { requests, answers } = converse(3);
    requests.close();
    expect((await answers.next()).done).toBe(true);
  });
});
