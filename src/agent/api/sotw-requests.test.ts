import { describe, expect, test } from 'vitest';
import { isAppError } from '../../runtime/error.ts';
import { type SdsLimits, type SdsSend, SdsSession, type SdsWorld } from './sds-session.ts';
import { type SotwRequest, SotwRequests } from './sotw-requests.ts';

/** A world to change by hand: name → version. */
function worldOf(secrets: Record<string, string>) {
  const map = new Map(Object.entries(secrets));
  return {
    map,
    lookup: (name: string) => {
      const version = map.get(name);
      return version === undefined ? undefined : { version };
    },
    isAbsent: () => false,
    canBeServed: (name: string) => !name.startsWith('never'),
    allNames: () => [...map.keys()],
  };
}

/** A session that is driven by State-of-the-World requests. */
class Stream {
  readonly session: SdsSession;
  readonly #requests: SotwRequests;

  constructor(world: SdsWorld, limits?: SdsLimits) {
    this.session = new SdsSession(world, limits === undefined ? {} : { limits });
    this.#requests = new SotwRequests(this.session);
  }

  receive(request: SotwRequest) {
    return this.#requests.receive(request).answer;
  }

  next() {
    return this.session.next();
  }

  worldChanged(): void {
    this.session.worldChanged();
  }
}

/** How many of the first `count` nonces the session still takes an answer to. */
function answersTaken(session: Stream, names: readonly string[], count: number): number {
  const nonces = Array.from({ length: count }, (_, i) => String(i + 1));
  return nonces.filter((nonce) => session.receive(request(names, nonce)) !== undefined).length;
}

function request(names: readonly string[], nonce = '', error?: string): SotwRequest {
  return { names, nonce, error };
}

function drain(session: Stream): SdsSend[] {
  const sent: SdsSend[] = [];
  for (let send = session.next(); send !== undefined; send = session.next()) sent.push(send);
  return sent;
}

function start(secrets: Record<string, string>, names: readonly string[]) {
  const world = worldOf(secrets);
  const session = new Stream(world);
  session.receive(request(names));
  return { world, session, first: drain(session) };
}

describe('a first request', () => {
  test('is answered with one response per name, in its order, with increasing nonces', () => {
    const { first } = start({ a: 'v1', b: 'v2' }, ['b', 'a']);
    expect(first).toEqual([
      { name: 'b', version: 'v2', nonce: '1' },
      { name: 'a', version: 'v1', nonce: '2' },
    ]);
  });

  test.each(['77', 'stale', '1', 'a'.repeat(10_000)])(
    'with the unknown nonce "%.10s" is served like any other',
    (nonce) => {
      const session = new Stream(worldOf({ a: 'v1' }));
      expect(session.receive(request(['a'], nonce, undefined))).toBeUndefined();
      expect(drain(session)).toHaveLength(1);
    },
  );

  test('that carries an error of an earlier stream refuses nothing here', () => {
    const session = new Stream(worldOf({ a: 'v1' }));
    expect(session.receive(request(['a'], '1', 'bad'))).toBeUndefined();
    expect(drain(session)).toHaveLength(1);
  });

  test('with an empty list asks for everything once, and for what comes later', () => {
    const { world, session, first } = start({ a: 'v1', b: 'v1' }, []);
    expect(first.map((send) => send.name)).toEqual(['a', 'b']);
    expect(session.receive(request([], '1'))).toMatchObject({ kind: 'ack', name: 'a' });
    world.map.set('c', 'v1');
    session.worldChanged();
    expect(drain(session).map((send) => send.name)).toEqual(['c']);
  });

  test('with nothing but empty names counts as an empty list', () => {
    expect(start({ a: 'v1' }, ['', '']).first.map((send) => send.name)).toEqual(['a']);
  });

  test('that names a secret twice gets it once', () => {
    expect(start({ a: 'v1' }, ['a', 'a']).first).toHaveLength(1);
  });

  test('before which the world changes sends nothing', () => {
    const session = new Stream(worldOf({ a: 'v1' }));
    session.worldChanged();
    expect(drain(session)).toEqual([]);
  });
});

describe('a name that does not exist', () => {
  test('is held and sent when it appears', () => {
    const { world, session, first } = start({ a: 'v1' }, ['a', 'later']);
    expect(first.map((send) => send.name)).toEqual(['a']);
    expect(session.session.held()).toEqual(['later']);
    world.map.set('later', 'v1');
    session.worldChanged();
    expect(drain(session)).toEqual([{ name: 'later', version: 'v1', nonce: '2' }]);
    expect(session.session.held()).toEqual([]);
  });

  test('that was withdrawn and comes back unchanged is not sent again', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    world.map.delete('a');
    session.worldChanged();
    expect(drain(session)).toEqual([]);
    world.map.set('a', 'v1');
    session.worldChanged();
    expect(drain(session)).toEqual([]);
    world.map.set('a', 'v2');
    session.worldChanged();
    expect(drain(session)).toMatchObject([{ version: 'v2' }]);
  });
});

describe('a change of the world', () => {
  test('sends only the secrets whose own version changed', () => {
    const { world, session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
    world.map.set('b', 'v2');
    world.map.set('unrelated', 'v9');
    session.worldChanged();
    expect(drain(session)).toMatchObject([{ name: 'b', version: 'v2' }]);
  });

  test('that nobody reads coalesces to the newest version', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    for (const version of ['v2', 'v3', 'v4']) {
      world.map.set('a', version);
      session.worldChanged();
    }
    expect(drain(session)).toMatchObject([{ version: 'v4' }]);
  });

  test('that is taken back before it was sent sends nothing', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    world.map.set('a', 'v2');
    session.worldChanged();
    world.map.set('a', 'v1');
    session.worldChanged();
    expect(drain(session)).toEqual([]);
  });
});

describe('an ACK', () => {
  test('is noted and not answered', () => {
    const { session } = start({ a: 'v1' }, ['a']);
    expect(session.receive(request(['a'], '1'))).toEqual({
      kind: 'ack',
      name: 'a',
      version: 'v1',
      error: '',
    });
    expect(drain(session)).toEqual([]);
  });

  test('of an older response still brings its list of names', () => {
    const { session } = start({ a: 'v1', b: 'v1', c: 'v1' }, ['a', 'b']);
    session.receive(request(['a', 'b', 'c'], '1'));
    expect(drain(session)).toMatchObject([{ name: 'c', nonce: '3' }]);
  });

  test('that comes a second time asks for all names again (envoy#47309)', () => {
    const { session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
    session.receive(request(['a', 'b'], '1'));
    session.receive(request(['a', 'b'], '2'));
    expect(drain(session)).toEqual([]);
    expect(session.receive(request(['b', 'a'], '2'))).toBeUndefined();
    expect(drain(session).map((send) => send.name)).toEqual(['a', 'b']);
  });

  test('that comes again and again is answered once, and so is each older one', () => {
    const { session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
    for (const nonce of ['1', '2']) session.receive(request(['a', 'b'], nonce));
    const sent = [...Array(50)].flatMap((_, i) => {
      session.receive(request(['a', 'b'], i < 25 ? '1' : '2'));
      return drain(session);
    });
    expect(sent.map(({ name }) => name)).toEqual(['a', 'b', 'a', 'b']);
    session.receive(request(['a', 'b'], '1'));
    expect(drain(session)).toEqual([]);
    // A new response is answered anew, and may be asked for again.
    for (let i = 0; i < 3; i += 1) session.receive(request(['a', 'b'], '6'));
    expect(drain(session)).toHaveLength(2);
  });
});

describe('a NACK', () => {
  test('is noted with the text', () => {
    const { session } = start({ a: 'v1' }, ['a']);
    expect(session.receive(request(['a'], '1', 'no good'))).toEqual({
      kind: 'nack',
      name: 'a',
      version: 'v1',
      error: 'no good',
    });
    session.worldChanged();
    expect(drain(session)).toEqual([]);
  });

  test('is known by error_detail even when its text is empty', () => {
    const { session } = start({ a: 'v1' }, ['a']);
    expect(session.receive(request(['a'], '1', ''))?.kind).toBe('nack');
  });

  test('is answered by the next version, and by the last good one', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    session.receive(request(['a'], '1'));
    world.map.set('a', 'v2');
    session.worldChanged();
    expect(drain(session)).toMatchObject([{ version: 'v2', nonce: '2' }]);
    session.receive(request(['a'], '2', 'no good'));
    world.map.set('a', 'v1');
    session.worldChanged();
    expect(drain(session)).toMatchObject([{ version: 'v1' }]);
  });

  test('of a response that was overtaken by a newer one still counts', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    world.map.set('a', 'v2');
    session.worldChanged();
    drain(session);
    expect(session.receive(request(['a'], '1', 'no good'))).toMatchObject({ kind: 'nack', version: 'v1' });
    expect(drain(session)).toEqual([]);
  });
});

describe('the subscription', () => {
  test('answers names that were added, also those that were dropped before', () => {
    const { session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
    session.receive(request(['a'], '2'));
    expect(drain(session)).toEqual([]);
    session.receive(request(['a', 'b'], '2'));
    expect(drain(session).map((send) => send.name)).toEqual(['b']);
  });

  test('forgets names that were removed', () => {
    const { world, session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
    session.receive(request(['a'], '2'));
    world.map.set('b', 'v2');
    session.worldChanged();
    expect(drain(session)).toEqual([]);
  });

  test('can be changed before any response has arrived', () => {
    const { session } = start({ b: 'v1' }, ['a']);
    session.receive(request(['a', 'b'], ''));
    expect(drain(session).map((send) => send.name)).toEqual(['b']);
  });

  test('ends with an empty list after names, and never becomes a wildcard again', () => {
    const { world, session } = start({ a: 'v1' }, ['a']);
    session.receive(request([], '1'));
    world.map.set('a', 'v2');
    world.map.set('b', 'v1');
    session.worldChanged();
    session.receive(request([], '1'));
    expect(drain(session)).toEqual([]);
    expect([session.session.peek(), session.session.held(), session.session.namedBytes()]).toEqual([
      undefined,
      [],
      0,
    ]);
  });

  test('turns from everything to names', () => {
    const { world, session } = start({ a: 'v1', b: 'v1' }, []);
    session.receive(request(['b'], '2'));
    expect(drain(session).map((send) => send.name)).toEqual(['b']);
    world.map.set('c', 'v1');
    session.worldChanged();
    expect(drain(session)).toEqual([]);
  });

  test.each(['3', '-1', '0', '01', '1.0', ' 1', 'x', '9999999999999999999999'])(
    'is not touched by a request with the nonce "%s" that this stream never sent',
    (nonce) => {
      const { world, session } = start({ a: 'v1', b: 'v1' }, ['a', 'b']);
      expect(session.receive(request(['c'], nonce, 'bad'))).toBeUndefined();
      world.map.set('a', 'v2');
      world.map.set('c', 'v1');
      session.worldChanged();
      expect(drain(session).map((send) => send.name)).toEqual(['a']);
    },
  );
});

describe('the limits', () => {
  const limits = { maxNames: 3, maxNameBytes: 8, maxBytesOfNames: 20 };

  function codeOf(names: readonly string[]): string | undefined {
    try {
      new Stream(worldOf({}), limits).receive(request(names));
    } catch (error) {
      return isAppError(error) ? error.code : 'not an AppError';
    }
    return undefined;
  }

  test.each([
    { name: 'as many names as allowed', names: ['a', 'b', 'c'], code: undefined },
    { name: 'one name too many', names: ['a', 'b', 'c', 'd'], code: 'resource-exhausted' },
    { name: 'repeated names, counted once', names: ['a', 'a', 'a', 'a'], code: undefined },
    { name: 'the longest name', names: ['12345678'], code: undefined },
    { name: 'as many bytes as allowed', names: ['12345678', '1234567', '12345'], code: undefined },
    { name: 'one byte too many', names: ['12345678', '1234567', '123456'], code: 'resource-exhausted' },
    { name: 'a name too long', names: ['123456789'], code: 'invalid-argument' },
    { name: 'a name too long in bytes, not in characters', names: ['äöüäö'], code: 'invalid-argument' },
  ])('$name: $code', ({ names, code }) => {
    expect(codeOf(names)).toBe(code);
  });

  test('bound what is kept for a client that never answers', () => {
    const world = worldOf({ a: 'v0' });
    const session = new Stream(world, limits);
    session.receive(request(['a']));
    for (let i = 1; i < 100; i += 1) {
      drain(session);
      world.map.set('a', `v${i}`);
      session.worldChanged();
    }
    drain(session);
    // The answer to a response that is no longer accounted for is not mistaken for a new subscription.
    expect(session.receive(request(['a'], '1'))).toBeUndefined();
    expect(drain(session)).toEqual([]);
    expect(answersTaken(session, ['a'], 100)).toBe(12);
  });

  test('bound what is kept for a client that refuses all and asks for ever new names', () => {
    const world = worldOf({});
    const session = new Stream(world, limits);
    for (let i = 0; i < 100; i += 1) {
      world.map.set(`n${i}`, 'v1');
      session.receive(request([`n${i}`], i === 0 ? '' : String(i), 'no good'));
      if (i % 2 === 0) drain(session);
      else session.next();
    }
    expect(answersTaken(session, [], 1000)).toBeLessThanOrEqual(12);
  });

  test('keep nothing of names that nobody is ever served, and such a list is no wildcard', () => {
    const world = worldOf({ a: 'v1' });
    const session = new Stream(world);
    session.receive(request(['never-1', 'never-2']));
    expect([drain(session), session.session.held(), session.session.namedBytes()]).toEqual([[], [], 0]);
    session.receive(request(['a', 'never-1']));
    expect(drain(session)).toMatchObject([{ name: 'a' }]);
    expect(session.session.namedBytes()).toBe(1_025);
  });

  test('count names that are held, but not those of a stream that named none', () => {
    const { session } = start({ a: 'v1' }, ['a', 'later']);
    expect(session.session.namedBytes()).toBe(6 + 2 * 1_024);
    session.receive(request(['later']));
    expect(session.session.namedBytes()).toBe(5 + 1_024);
    expect(start({ a: 'v1' }, []).session.session.namedBytes()).toBe(0);
  });
});
