import { describe, expect, test } from 'vitest';
import { type DeltaRequest, DeltaRequests } from './delta-requests.ts';
import { type SdsLimits, SdsSession } from './sds-session.ts';

/** A stream over a world to change by hand: name → version. A name without one is absent, but "soon…" is only held. */
function start(secrets: Record<string, string>, limits?: SdsLimits) {
  const map = new Map(Object.entries(secrets));
  const world = {
    lookup: (name: string) => {
      const version = map.get(name);
      return version === undefined ? undefined : { version };
    },
    isAbsent: (name: string) => !map.has(name) && !name.startsWith('soon'),
    canBeServed: (name: string) => !name.startsWith('never'),
    allNames: () => [...map.keys()],
  };
  const session = new SdsSession(world, { tellsAbsence: true, ...(limits === undefined ? {} : { limits }) });
  const requests = new DeltaRequests(session);
  const receive = (request: Partial<DeltaRequest>) =>
    requests.receive({ subscribe: [], unsubscribe: [], nonce: '', error: undefined, ...request });
  const drain = () => {
    const sent: string[] = [];
    for (let send = session.next(); send !== undefined; send = session.next()) {
      sent.push(`${send.nonce} ${send.name} ${send.version ?? 'removed'}`);
    }
    return sent;
  };
  const change = (name: string, version: string | undefined) => {
    if (version === undefined) map.delete(name);
    else map.set(name, version);
    session.worldChanged();
  };
  return { session, receive, drain, change };
}

describe('a Delta subscription', () => {
  test('grows and shrinks by what each request says', () => {
    const { receive, drain, change } = start({ a: 'v1', b: 'v1' });
    receive({ subscribe: ['a'] });
    expect(drain()).toEqual(['1 a v1']);
    receive({ subscribe: ['b'], nonce: '1' });
    expect(drain()).toEqual(['2 b v1']);
    receive({ unsubscribe: ['a'], nonce: '2' });
    change('a', 'v2');
    change('b', 'v2');
    expect(drain()).toEqual(['3 b v2']);
  });

  test('is answered for every name that is subscribed, had it been sent before or not', () => {
    const { receive, drain } = start({ a: 'v1' });
    receive({ subscribe: ['a'] });
    drain();
    receive({ nonce: '1' });
    expect(drain()).toEqual([]);
    receive({ subscribe: ['a'] });
    expect(drain()).toEqual(['2 a v1']);
    // Both in one request: what is subscribed counts.
    receive({ subscribe: ['a'], unsubscribe: ['a'] });
    expect(drain()).toEqual(['3 a v1']);
  });

  test('counts whatever nonce comes with it', () => {
    const { receive, drain } = start({ a: 'v1', b: 'v1' });
    expect(receive({ subscribe: ['a'], nonce: '77', error: 'of an earlier stream' }).answer).toBeUndefined();
    expect(drain()).toEqual(['1 a v1']);
    expect(receive({ subscribe: ['b'], nonce: 'never sent', error: 'bad' }).answer).toBeUndefined();
    expect(drain()).toEqual(['2 b v1']);
  });

  test('tolerates that names are taken away which never were there', () => {
    const { receive, drain } = start({ a: 'v1' });
    receive({ subscribe: ['a'], unsubscribe: ['b', 'never', ''] });
    expect(drain()).toEqual(['1 a v1']);
  });
});

describe('a name that the caller may not have', () => {
  test('is said to be removed at once, and sent when it appears', () => {
    const { receive, drain, change } = start({});
    receive({ subscribe: ['a'] });
    expect(drain()).toEqual(['1 a removed']);
    receive({ nonce: '1' });
    change('unrelated', 'v1');
    expect(drain()).toEqual([]);
    change('a', 'v1');
    expect(drain()).toEqual(['2 a v1']);
  });

  test('is said to be removed when it is withdrawn, once, and comes back', () => {
    const { receive, drain, change } = start({ a: 'v1' });
    receive({ subscribe: ['a'] });
    drain();
    change('a', undefined);
    expect(drain()).toEqual(['2 a removed']);
    change('unrelated', 'v1');
    expect(drain()).toEqual([]);
    change('a', 'v1');
    expect(drain()).toEqual(['3 a v1']);
  });

  test('is not spoken of while that is not certain', () => {
    const { receive, drain, change, session } = start({});
    receive({ subscribe: ['soon'] });
    expect([drain(), session.held()]).toEqual([[], ['soon']]);
    change('soon', 'v1');
    expect(drain()).toEqual(['1 soon v1']);
    change('soon', undefined);
    expect(drain()).toEqual([]);
  });

  test('is answered and forgotten when nobody ever may', () => {
    const { receive, drain, session } = start({ a: 'v1' });
    receive({ subscribe: ['never-1', 'a', 'never-2'] });
    expect(drain()).toEqual(['1 never-1 removed', '2 never-2 removed', '3 a v1']);
    session.worldChanged();
    expect([drain(), session.names()]).toEqual([[], ['a']]);
    receive({ subscribe: ['never-1'] });
    expect(drain()).toEqual(['4 never-1 removed']);
  });

  test('says so in the answer to the news', () => {
    const { receive, drain } = start({});
    receive({ subscribe: ['a'] });
    drain();
    expect(receive({ nonce: '1', error: 'Missing SDS resources' }).answer).toEqual({
      kind: 'nack',
      name: 'a',
      version: undefined,
      error: 'Missing SDS resources',
    });
    expect(drain()).toEqual([]);
  });
});

describe('everything', () => {
  test('is subscribed by a first request that names nothing', () => {
    const { receive, drain, change } = start({ a: 'v1' });
    receive({});
    expect(drain()).toEqual(['1 a v1']);
    change('b', 'v1');
    change('a', undefined);
    expect(drain()).toEqual(['2 b v1', '3 a removed']);
  });

  test('is not subscribed by a later request that names nothing', () => {
    const { receive, drain } = start({ a: 'v1', b: 'v1' });
    receive({ subscribe: ['a'] });
    receive({ nonce: '' });
    expect(drain()).toEqual(['1 a v1']);
  });
});

describe('the limits', () => {
  const limits = { maxNames: 3, maxNameBytes: 8, maxBytesOfNames: 40 };

  test.each([
    { name: 'all names together', subscribe: ['d'] },
    { name: 'names that nobody is served, until they are answered', subscribe: ['never'] },
  ])('count $name', ({ subscribe }) => {
    const { receive } = start({ a: 'v1', b: 'v1', c: 'v1' }, limits);
    receive({ subscribe: ['a', 'b', 'c'] });
    expect(() => receive({ subscribe })).toThrow(expect.objectContaining({ code: 'resource-exhausted' }));
  });

  test('let go of names that are given back', () => {
    const { receive, drain } = start({ d: 'v1' }, limits);
    receive({ subscribe: ['a', 'b', 'c'] });
    drain();
    receive({ unsubscribe: ['a'], subscribe: ['d'] });
    expect(drain()).toEqual(['4 d v1']);
  });

  test('keep a client that reads nothing from filling the memory', () => {
    const { receive, session } = start({}, limits);
    receive({ subscribe: ['never-1', 'never-2', 'never-3'] });
    expect(() => receive({ subscribe: ['never-4'] })).toThrow(/3 are allowed|4 secrets/);
    expect(session.names()).toEqual([]);
  });
});
