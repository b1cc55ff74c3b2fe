import { describe, expect, test } from 'vitest';
import type { AppError } from '../../runtime/error.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { absentResource, FakeSecretSource, fakeCertificate, fakeTrust } from '../../testing/secret-source.ts';
import type { SecretStatus } from '../proxy-book.ts';
import type { WorkloadView } from '../workload-view.ts';
import { ProxyDeliveries } from './proxy-deliveries.ts';
import type { DeliverySettings, ProxyDelivery } from './proxy-delivery.ts';
import type { Resource } from './resource.ts';
import type { EncodedSecret } from './secrets.ts';

const hour = 3_600_000;

function start(settings: Partial<DeliverySettings> = {}, startMs = 0) {
  const source = new FakeSecretSource();
  const clock = new FakeClock(startMs);
  const { log, lines } = memoryLogger();
  const defaults = { onWithdraw: 'keep', ackTimeoutMs: 30_000, closeStalled: false } as const;
  const deliveries = new ProxyDeliveries({ source, settings: { ...defaults, ...settings }, clock, log });
  const proxy = (pid = 1) => {
    const peer = { pid, uid: 2, gid: 3, instance: 'started 1', isAlive: () => true };
    const selectors = [{ type: 'test', value: 'web' }];
    return deliveries.of({ peer, selectors, view: source.view });
  };
  return { source, clock, lines, deliveries, proxy };
}

/** A stream that takes whatever it is to have, and answers when it is told to. */
class TestStream {
  readonly got: string[] = [];
  readonly stalled: AppError[] = [];
  told = 0;
  readonly delivery: ProxyDelivery;
  #names: readonly string[] = [];
  readonly #books: ReturnType<ProxyDelivery['open']>;
  readonly #sent = new Map<string, EncodedSecret>();
  readonly #unfollow: () => void;

  constructor(source: FakeSecretSource, delivery: ProxyDelivery, connection: object) {
    this.delivery = delivery;
    this.#books = delivery.open(connection, {
      protocol: 'sotw',
      changed: () => {
        this.told += 1;
        this.pump();
      },
      stalled: (error) => this.stalled.push(error),
    });
    this.#unfollow = source.view.subscribe(() => this.pump());
  }

  ask(...names: readonly string[]): this {
    for (const name of this.#sent.keys()) if (!names.includes(name)) this.#sent.delete(name);
    this.#books.requested(names);
    this.#names = names;
    this.pump();
    return this;
  }

  pump(): void {
    for (const name of this.#names) {
      const secret = this.delivery.lookup(name);
      if (secret === undefined || secret === this.#sent.get(name)) continue;
      this.#sent.set(name, secret);
      this.got.push(secret.version);
      this.#books.sent(name, secret);
    }
  }

  /** Answers the version that came last, and lets the others hear of it. */
  async answer(error?: string, version = this.got.at(-1)!): Promise<void> {
    this.#books.answered(version.split(' ')[0]!, version, error);
    await Promise.resolve();
  }

  async close(): Promise<void> {
    this.#unfollow();
    this.#books.close();
    await Promise.resolve();
  }
}

function statusOf(delivery: ProxyDelivery, name: string): SecretStatus {
  return delivery.status().secrets.find((secret) => secret.name === name)!;
}

/** One connection with a stream for trust and one for a certificate, as Envoy makes them. */
function connect(source: FakeSecretSource, delivery: ProxyDelivery, connection: object = {}) {
  const trust = new TestStream(source, delivery, connection);
  const leaf = new TestStream(source, delivery, connection);
  return { trust, leaf, connection };
}

/** A proxy that has acknowledged trust and a certificate. */
async function settled(world = start()) {
  const { source, proxy } = world;
  source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
  const delivery = proxy();
  const streams = connect(source, delivery);
  await streams.trust.ask('ALL').answer();
  await streams.leaf.ask('default').answer();
  expect(streams.leaf.got).toEqual(['default c1']);
  return { ...world, delivery, ...streams };
}

describe('a first certificate', () => {
  test('goes as soon as the trust on its connection is acknowledged', async () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const { trust, leaf } = connect(source, proxy());
    leaf.ask('default');
    expect(leaf.got, 'the other stream may be about to ask for trust').toEqual([]);
    trust.ask('ALL');
    expect(leaf.got).toEqual([]);
    await trust.answer();
    expect(leaf.got).toEqual(['default c1']);
  });

  test('waits for 50 ms at most', async () => {
    const { source, clock, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const delivery = proxy();
    const { trust, leaf } = connect(source, delivery);
    leaf.ask('default');
    await clock.advance(30);
    trust.ask('ALL');
    expect(delivery.whyHeld('default')).toMatch(/^waits for the proxy/);
    expect(delivery.isAbsent('default'), 'held is not absent').toBe(false);
    await clock.advance(19);
    expect(leaf.got).toEqual([]);
    await clock.advance(1);
    expect(leaf.got).toEqual(['default c1']);
    expect(delivery.whyHeld('default')).toBeUndefined();
  });

  test.each([
    { what: 'asks for no trust', ask: [] as string[] },
    { what: 'waits for trust that is not there', ask: ['td'] },
  ])('goes at once when the other stream $what', ({ ask }) => {
    const { source, proxy } = start();
    source.set({ default: fakeCertificate('c1') });
    const { trust, leaf } = connect(source, proxy());
    trust.ask(...ask);
    expect(leaf.ask('default').got).toEqual(['default c1']);
  });

  test('does not wait for other connections', () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const delivery = proxy();
    const other = connect(source, delivery);
    other.trust.ask('ALL');
    expect(new TestStream(source, delivery, {}).ask('default').got).toEqual(['default c1']);
  });

  test('goes on all streams that ask for it once the last one of their connection has asked', async () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const delivery = proxy();
    const { trust, leaf, connection } = connect(source, delivery);
    const second = new TestStream(source, delivery, connection);
    await trust.ask('ALL').answer();
    leaf.ask('default');
    expect(leaf.got, 'the second stream may want trust').toEqual([]);
    second.ask('default');
    await Promise.resolve();
    expect([leaf.got, second.got]).toEqual([['default c1'], ['default c1']]);
  });

  test('waits anew when it was withdrawn meanwhile', async () => {
    const { source, clock, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const { trust, leaf } = connect(source, proxy());
    trust.ask('ALL');
    leaf.ask('default');
    source.set({ default: absentResource });
    await clock.advance(1_000);
    source.set({ default: fakeCertificate('c2') });
    await clock.advance(49);
    expect(leaf.got).toEqual([]);
    await clock.advance(1);
    expect(leaf.got).toEqual(['default c2']);
  });

  test('of one stream goes after its trust', async () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const stream = new TestStream(source, proxy(), {}).ask('default', 'ALL');
    expect(stream.got).toEqual(['ALL t1']);
    await stream.answer();
    expect(stream.got).toEqual(['ALL t1', 'default c1']);
  });
});

describe('another certificate', () => {
  test('goes after the trust that came with it', async () => {
    const { source, trust, leaf } = await settled();
    source.set({ default: fakeCertificate('c2'), ALL: fakeTrust('t2') });
    expect(trust.got).toEqual(['ALL t1', 'ALL t2']);
    expect(leaf.got).toEqual(['default c1']);
    await trust.answer();
    expect(leaf.got).toEqual(['default c1', 'default c2']);
  });

  test('goes without an answer when a quarter of the old one is left', async () => {
    const { source, clock, leaf } = await settled();
    source.set({ default: fakeCertificate('c2'), ALL: fakeTrust('t2') });
    await clock.advance((hour * 3) / 4 - 1);
    expect(leaf.got).toEqual(['default c1']);
    await clock.advance(1);
    expect(leaf.got).toEqual(['default c1', 'default c2']);
  });

  test('of a proxy that acknowledges nothing goes then too, and a new stream gets the old one until then', async () => {
    const { source, clock, proxy } = start();
    source.set({ default: fakeCertificate('c1'), ALL: fakeTrust('t1') });
    const delivery = proxy();
    const { trust, leaf } = connect(source, delivery);
    trust.ask('ALL');
    leaf.ask('default');
    await clock.advance(50);
    source.set({ default: fakeCertificate('c2') });
    expect(new TestStream(source, delivery, {}).ask('default').got).toEqual(['default c1']);
    await clock.advance(hour / 2);
    expect(leaf.got).toEqual(['default c1']);
    await clock.advance(hour / 4);
    expect(leaf.got).toEqual(['default c1', 'default c2']);
  });

  test('does not wait when the old one is withdrawn', async () => {
    const { source, leaf } = await settled();
    source.set({ default: fakeCertificate('c2', 0, 'another identity'), ALL: fakeTrust('t2') });
    expect(leaf.got).toEqual(['default c1', 'default c2']);
  });

  test('that was under way when its connection asked again goes on', async () => {
    const { source, delivery, leaf } = await settled();
    const other = connect(source, delivery);
    other.trust.ask('ALL');
    expect(other.leaf.ask('default').got, 'acknowledged before').toEqual(['default c1']);
    expect(leaf.got).toEqual(['default c1']);
  });
});

describe('what a proxy refuses', () => {
  test('is taken back, on all its connections, and never sent again', async () => {
    const { source, delivery, leaf, trust } = await settled();
    const other = new TestStream(source, delivery, {}).ask('default');
    await other.answer();
    source.set({ default: fakeCertificate('c2') });
    expect(other.got).toEqual(['default c1', 'default c2']);
    await leaf.answer('bad');
    expect(leaf.got, 'the other one has not answered yet').toEqual([
      'default c1',
      'default c2',
      'default c1',
    ]);
    expect(other.got).toEqual(['default c1', 'default c2', 'default c1']);
    await other.answer('bad', 'default c2');
    for (const stream of [leaf, other]) await stream.answer();
    const third = new TestStream(source, delivery, {}).ask('default', 'ALL');
    expect(third.got).toEqual(['default c1', 'ALL t1']);
    expect(trust.got, 'the others are left alone').toEqual(['ALL t1']);
    expect(delivery.whyHeld('default')).toBe('refused by the proxy');
  });

  test('does not keep a newer one waiting', async () => {
    const { source, leaf } = await settled();
    source.set({ default: fakeCertificate('c2') });
    await leaf.answer('bad');
    source.set({ default: fakeCertificate('c3') });
    expect(leaf.got.slice(1)).toEqual(['default c2', 'default c1', 'default c3']);
    await leaf.answer();
    expect(leaf.got).toHaveLength(4);
  });

  test('is tried again in other bytes, trust first and one by one, when something else was to blame', async () => {
    const { source, delivery, leaf, trust } = await settled();
    source.set({ ALL: fakeTrust('t2') });
    source.set({ default: fakeCertificate('c2', 0, 'another identity') });
    await trust.answer('the certificate is bad');
    await leaf.answer('the certificate is bad');
    // Of the certificate nothing is left that would be allowed; trust goes a step back.
    expect(trust.got).toEqual(['ALL t1', 'ALL t2', 'ALL t1']);
    await trust.answer('the certificate is bad');
    expect(leaf.got).toHaveLength(2);
    source.set({ default: fakeCertificate('c3', 0, 'another identity') });
    await leaf.answer();
    expect(trust.got.slice(3)).toEqual(['ALL t2+1']);
    await trust.answer();
    expect(statusOf(delivery, 'ALL').acknowledged?.version).toBe('ALL t2+1');
    expect(statusOf(delivery, 'ALL').refused).toBeUndefined();
    expect(leaf.got, 'what was refused for good').toEqual(['default c1', 'default c2', 'default c3']);
  });

  test('is not tried again because of what was in order', async () => {
    const { source, leaf, trust } = await settled();
    source.set({ default: fakeCertificate('c2') });
    await leaf.answer('bad');
    await leaf.answer();
    const again = new TestStream(source, trust.delivery, {}).ask('ALL');
    await again.answer();
    expect(leaf.got.at(-1)).toBe('default c1');
  });

  test('is tried three times at most', async () => {
    const { source, leaf, trust } = await settled();
    source.set({ default: fakeCertificate('c2') });
    for (let i = 2; i < 9; i += 1) {
      await leaf.answer('bad');
      if (leaf.got.at(-1) === 'default c1') await leaf.answer();
      source.set({ ALL: fakeTrust(`t${i}`) });
      await trust.answer();
    }
    const tries = leaf.got.filter((version) => version.startsWith('default c2'));
    expect(tries).toEqual(['default c2', 'default c2+1', 'default c2+2']);
  });

  test('makes trust that came after a bad certificate be sent once more in other bytes', async () => {
    const { source, clock, proxy } = start();
    source.set({ default: fakeCertificate('c1'), ALL: fakeTrust('t1') });
    const { trust, leaf } = connect(source, proxy());
    leaf.ask('default');
    await clock.advance(50);
    await leaf.answer('bad');
    await trust.ask('ALL').answer();
    expect(trust.got).toEqual(['ALL t1']);
    source.set({ default: fakeCertificate('c2') });
    await leaf.answer();
    expect(trust.got).toEqual(['ALL t1', 'ALL t1+1']);
    await trust.answer();
    source.set({ default: fakeCertificate('c3') });
    await leaf.answer();
    expect(trust.got, 'only once').toHaveLength(2);
  });

  test('is told to operators in harmless words, until something newer is acknowledged', async () => {
    const { source, clock, delivery, leaf } = await settled();
    source.set({ default: fakeCertificate('c2') });
    await clock.advance(5);
    await leaf.answer(`\u001b[31m${'bad '.repeat(1_000)}`);
    const { refused, held, acknowledged } = statusOf(delivery, 'default');
    expect(refused).toMatchObject({ version: 'default c2', atMs: 5 });
    expect(refused?.error).toMatch(/^\\u\{1b\}\[31mbad /);
    expect(Buffer.byteLength(refused!.error)).toBeLessThanOrEqual(256);
    expect(held).toBe('refused by the proxy');
    expect(acknowledged?.version).toBe('default c1');
    await leaf.answer();
    expect(statusOf(delivery, 'default').refused).toBeDefined();
    source.set({ default: fakeCertificate('c3') });
    await leaf.answer();
    expect(statusOf(delivery, 'default')).toMatchObject({ refused: undefined, held: undefined });
  });

  test('is not sent again, even when the answer comes after many others were sent', async () => {
    const { source, proxy } = start();
    const [good, other] = [fakeTrust('good'), fakeTrust('other')];
    source.set({ ALL: good });
    const stream = new TestStream(source, proxy(), {}).ask('ALL');
    for (const next of [other, good, other, good, other]) source.set({ ALL: next });
    await stream.answer('bad', 'ALL good');
    const answeredAt = stream.got.length;
    for (const next of [good, other, good]) source.set({ ALL: next });
    expect(stream.got.slice(answeredAt)).not.toContain('ALL good');
    expect(stream.got.at(-1)).toMatch(/^ALL good\+/);
  });

  test('is known by the order of the answers when the same was sent again meanwhile', async () => {
    const { source, proxy } = start();
    const [first, bad, other, last] = ['first', 'bad', 'other', 'last'].map((label) => fakeTrust(label));
    source.set({ ALL: first! });
    const stream = new TestStream(source, proxy(), {}).ask('ALL');
    for (const next of [bad!, other!, first!, last!]) source.set({ ALL: next });
    // The first answer is the one to what was sent first, which is not waited for any more.
    await stream.answer('bad', 'ALL first');
    await stream.answer('bad', 'ALL bad');
    source.set({ ALL: bad! });
    expect(stream.got.filter((version) => version === 'ALL bad')).toHaveLength(1);
  });

  test('is no concern of other proxies, until one of them refuses it too', async () => {
    const { source, lines, deliveries, proxy } = start();
    source.set({ default: fakeCertificate('c1') });
    const [one, other] = [1, 2].map((pid) => new TestStream(source, proxy(pid), {}).ask('default'));
    await one?.answer('bad key');
    expect(other?.told).toBe(0);
    expect(deliveries.book.sharedRefusals()).toEqual([]);
    await other?.answer('bad key');
    expect(deliveries.book.sharedRefusals()).toMatchObject([
      { name: 'default', version: 'default c1', error: 'bad key', pids: [1, 2] },
    ]);
    expect(lines.filter(({ level }) => level === 'error')).toHaveLength(1);
    source.set({ default: fakeCertificate('c2') });
    await one?.answer();
    expect(deliveries.book.sharedRefusals()).toEqual([]);
  });
});

describe('what is wrong with a secret', () => {
  test('keeps the last good one, until that has expired', async () => {
    const { source, clock, delivery } = await settled();
    source.set({ default: { kind: 'unfit', problem: 'its key is another one' } });
    const fresh = () => new TestStream(source, delivery, {}).ask('default').got;
    expect(fresh()).toEqual(['default c1']);
    expect(delivery.whyHeld('default')).toBe('its key is another one');
    await clock.advance(hour);
    expect(fresh()).toEqual([]);
  });

  test('does not bring back what is revoked meanwhile, even while something else is refused', async () => {
    const { source, delivery, trust, leaf } = await settled();
    source.set({ ALL: fakeTrust('t2', ['root', 'new']) });
    await trust.answer();
    source.set({ ALL: fakeTrust('t3', ['new']), default: fakeCertificate('c2') });
    await trust.answer('bad');
    expect(trust.got.at(-1)).toBe('ALL t2/new');
    expect(statusOf(delivery, 'ALL')).toMatchObject({ sent: { version: 'ALL t2/new' }, refused: {} });
    await leaf.answer('bad', 'default c1');
    expect(trust.got.at(-1)).toBe('ALL t2/new');
  });

  test('that cannot be encoded holds this one alone', () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1'), default: fakeCertificate('c1') });
    const encode = source.encode.bind(source);
    source.encode = (name, resource, salt) => {
      if (name === 'ALL') throw new Error('must not leave');
      return encode(name, resource, salt);
    };
    const delivery = proxy();
    const stream = new TestStream(source, delivery, {}).ask('ALL', 'default');
    expect(stream.got).toEqual(['default c1']);
    expect(delivery.whyHeld('ALL')).toBe('must not leave');
  });
});

describe('what is withdrawn', () => {
  test.each([
    { onWithdraw: 'keep', got: ['ALL t1'], isAbsent: true },
    { onWithdraw: 'block', got: ['ALL t1', 'ALL nobody'], isAbsent: false },
  ] as const)(
    'gets nothing in its place, or trust in nobody: $onWithdraw',
    async ({ onWithdraw, got, isAbsent }) => {
      const { source, delivery, trust, leaf } = await settled(start({ onWithdraw }));
      source.set({ ALL: absentResource, default: absentResource, td: absentResource });
      expect(trust.got).toEqual(got);
      expect(delivery.isAbsent('ALL')).toBe(isAbsent);
      expect(leaf.got).toEqual(['default c1']);
      expect(delivery.isAbsent('default')).toBe(true);
      const never = new TestStream(source, delivery, {}).ask('td', 'default');
      expect(never.got).toEqual([]);
      expect(delivery.isAbsent('td')).toBe(true);
      source.set({ ALL: fakeTrust('t2') });
      expect(trust.got.at(-1)).toBe('ALL t2');
    },
  );

  test('does not come back as the last good one', async () => {
    const { source, leaf } = await settled();
    source.set({ default: absentResource });
    source.set({ default: { kind: 'unfit', problem: 'broken' } });
    const again = new TestStream(source, leaf.delivery, {}).ask('default');
    expect(again.got).toEqual([]);
  });

  test.each<Resource>([
    { kind: 'held', reason: 'agent is starting', isAbsent: false },
    { kind: 'held', reason: 'file not read yet', isAbsent: false },
  ])('is not said of what is not known: $reason', async (resource) => {
    const { source, delivery, trust } = await settled(start({ onWithdraw: 'block' }));
    source.set({ ALL: resource });
    expect(trust.got).toEqual(['ALL t1']);
    expect(delivery.isAbsent('ALL')).toBe(false);
    expect(statusOf(delivery, 'ALL')).toMatchObject({
      kind: 'trust',
      held: 'reason' in resource && resource.reason,
    });
  });
});

describe('a proxy that is gone', () => {
  test('finds what it refused when it comes back, in five minutes', async () => {
    const { source, clock, proxy, leaf, trust } = await settled();
    source.set({ default: fakeCertificate('c2') });
    await leaf.answer('bad');
    await leaf.answer();
    await leaf.close();
    await trust.close();
    await clock.advance(290_000);
    const soon = new TestStream(source, proxy(), {}).ask('default');
    expect(soon.got).toEqual(['default c1']);
    await soon.close();
    await clock.advance(310_000);
    expect(new TestStream(source, proxy(), {}).ask('default').got).toEqual(['default c2']);
  });

  test('leaves its identities for operators, and no timer', async () => {
    const { source, clock, proxy, deliveries } = start();
    const entry = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web' });
    source.view.set({
      ...source.view.value,
      identities: [{ entry, svid: undefined, variants: new Map(), hint: '' }],
    });
    source.set({ ALL: fakeTrust('t1') });
    const delivery = proxy();
    delivery.noteNode({ id: 'sidecar', cluster: 'c', version: 'envoy 1.40.0', validator: undefined });
    const stream = new TestStream(source, delivery, {}).ask('ALL');
    const identities = ['spiffe://example.org/web'];
    const node = { id: 'sidecar', cluster: 'c', version: 'envoy 1.40.0' };
    expect(deliveries.book.statuses()).toMatchObject([
      {
        pid: 1,
        identities,
        node,
        connections: 1,
        streams: 1,
        protocols: ['sotw'],
        secrets: [{ name: 'ALL', streams: 1 }],
      },
    ]);
    await clock.advance(0);
    expect(clock.sleepers).toBe(1);
    await stream.close();
    await clock.advance(0);
    expect(clock.sleepers).toBe(0);
    expect(deliveries.book.statuses()).toMatchObject([
      { identities, node, connections: 0, streams: 0, protocols: [], secrets: [{ name: 'ALL', streams: 0 }] },
    ]);
  });

  test('may have refused what it did not answer: it is sent in other bytes', async () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1') });
    const delivery = proxy();
    const [one, other] = [{}, {}].map((key) => new TestStream(source, delivery, key).ask('ALL'));
    await one?.close();
    expect(other?.got, 'it has yet to answer the same').toEqual(['ALL t1']);
    await other?.close();
    expect(new TestStream(source, proxy(), {}).ask('ALL').got).toEqual(['ALL t1+1']);
  });

  test('is not waited for by certificates', async () => {
    const { source, leaf, trust } = await settled();
    source.set({ default: fakeCertificate('c2'), ALL: fakeTrust('t2') });
    expect(leaf.got).toEqual(['default c1']);
    await trust.close();
    expect(leaf.got).toEqual(['default c1', 'default c2']);
  });
});

describe('a stream that does not answer', () => {
  test('is logged once, shows in the status, and recovers', async () => {
    const { source, clock, lines, delivery, leaf } = await settled();
    const stalls = () => lines.filter(({ message }) => String(message).includes('not answered'));
    source.set({ default: fakeCertificate('c2') });
    await clock.advance(29_999);
    expect(stalls()).toEqual([]);
    await clock.advance(1);
    source.set({ default: fakeCertificate('c3') });
    await clock.advance(60_000);
    expect(stalls()).toMatchObject([{ level: 'warn', pid: 1, resource: 'default' }]);
    expect(statusOf(delivery, 'default').isStalled).toBe(true);
    expect(leaf.stalled).toEqual([]);
    await leaf.answer();
    expect(statusOf(delivery, 'default').isStalled).toBe(false);
    source.set({ default: fakeCertificate('c4') });
    await clock.advance(30_000);
    expect(stalls()).toHaveLength(2);
  });

  test('is to be ended where the settings say so', async () => {
    const { source, clock, leaf, trust } = await settled(start({ closeStalled: true, ackTimeoutMs: 5_000 }));
    source.set({ default: fakeCertificate('c2') });
    await clock.advance(5_000);
    expect(leaf.stalled).toMatchObject([
      { code: 'unavailable', message: expect.stringContaining('within 5 s') },
    ]);
    expect(trust.stalled).toEqual([]);
  });
});

test('a proxy whose last streams are ended because they stalled leaves no timer', async () => {
  const { source, clock, proxy } = start({ closeStalled: true });
  source.set({ ALL: fakeTrust('t1') });
  const delivery = proxy();
  const open = () => {
    const books = delivery.open(
      {},
      { protocol: 'sotw', changed: () => undefined, stalled: () => books.close() },
    );
    books.requested(['ALL']);
    books.sent('ALL', delivery.lookup('ALL')!);
  };
  open();
  await clock.advance(10);
  open();
  await clock.advance(29_990);
  expect(delivery.status().streams).toBe(1);
  await clock.advance(10);
  expect(delivery.status().streams).toBe(0);
  await clock.advance(0);
  expect(clock.sleepers).toBe(0);
});

describe('lookups', () => {
  test('cost nothing as long as nothing changes', async () => {
    const { source, delivery } = await settled();
    const before = source.resolved;
    for (let i = 0; i < 1_000; i += 1) delivery.lookup('default');
    expect(source.resolved).toBe(before);
    source.set({ default: fakeCertificate('c2') });
    expect(delivery.lookup('default')?.version).toBe('default c2');
  });

  test('follow what changes within a view, and streams are told', async () => {
    const { source, delivery, leaf, trust } = await settled();
    source.setWithin('ALL', fakeTrust('t2'));
    await Promise.resolve();
    expect(trust.got.at(-1)).toBe('ALL t2');
    expect([trust.told, leaf.told]).toEqual([1, 0]);
    delivery.noteNode({ id: 'a', cluster: 'b', version: '', validator: 'x509' });
    expect(delivery.lookup('ALL')?.version).toBe('ALL t2');
  });

  test('follow what the proxy says of itself first, until all its connections are gone', async () => {
    const { source, proxy } = start();
    source.set({ ALL: fakeTrust('t1') });
    const delivery = proxy();
    const flavours: (string | undefined)[] = [];
    const resolve = source.resolve.bind(source);
    source.resolve = (...[name, view, flavour]: [string, WorkloadView, string?]) => {
      flavours.push(flavour);
      return resolve(name, view);
    };
    const stream = new TestStream(source, delivery, {}).ask('ALL');
    const node = { id: 'a', cluster: 'b', version: '' };
    for (const validator of ['x509', 'spiffe', 'x509'] as const) delivery.noteNode({ ...node, validator });
    expect(flavours, 'each other word would make all be chosen anew').toEqual([undefined, 'x509']);
    await stream.close();
    new TestStream(source, delivery, {}).ask('ALL');
    delivery.noteNode({ ...node, validator: 'spiffe' });
    expect(flavours.at(-1)).toBe('spiffe');
  });

  test('and answers of a proxy with many names cost the same for each, also when it refuses all', async () => {
    const { source, proxy } = start();
    const names = Array.from({ length: 300 }, (_, i) => `name ${i}`);
    const all = (label: string) => Object.fromEntries(names.map((name) => [name, fakeCertificate(label)]));
    source.set({ ALL: fakeTrust('t1'), ...all('c1') });
    const stream = new TestStream(source, proxy(), {}).ask('ALL', ...names);
    await stream.answer();
    for (const name of names) await stream.answer(undefined, `${name} c1`);
    source.set({ ALL: fakeTrust('t2'), ...all('c2') });
    await stream.answer(undefined, 'ALL t2');
    const before = source.resolved;
    for (const name of names) await stream.answer('something is bad', `${name} c2`);
    expect(stream.got.filter((version) => version.endsWith('c2'))).toHaveLength(names.length);
    expect(source.resolved - before).toBeLessThan(10 * names.length);
  });

  test('find nothing under names that were not asked for, and more than a proxy may ask for', () => {
    const { source, proxy } = start();
    const names = Array.from({ length: 10_001 }, (_, i) => `name ${i}`);
    source.set(Object.fromEntries(names.map((name) => [name, fakeTrust(name)])));
    const delivery = proxy();
    expect(delivery.lookup('name 0')).toBeUndefined();
    const stream = new TestStream(source, delivery, {}).ask(...names);
    expect(stream.got).toHaveLength(10_000);
    expect(delivery.whyHeld('name 10000')).toMatch(/too many names/);
    expect(delivery.isAbsent('name 10000')).toBe(false);
    stream.ask();
    expect(delivery.status().secrets.length, 'what has not been answered is remembered').toBe(10_000);
  });
});

test('what is not due cannot be sent, and a closed stream says nothing more', async () => {
  const { source, proxy } = start();
  source.set({ ALL: fakeTrust('t1') });
  const delivery = proxy();
  const books = delivery.open({}, { protocol: 'delta', changed: () => undefined, stalled: () => undefined });
  books.requested(['ALL']);
  const stale = source.encode('ALL', fakeTrust('t0'));
  expect(() => books.sent('ALL', stale)).toThrow(expect.objectContaining({ code: 'internal' }));
  books.answered('ALL', 'never sent', 'bad');
  expect(statusOf(delivery, 'ALL').refused).toBeUndefined();
  books.close();
  books.close();
  books.requested(['ALL', 'td']);
  books.sent('ALL', stale);
  expect(delivery.status()).toMatchObject({ streams: 0, connections: 0, secrets: [] });
});
