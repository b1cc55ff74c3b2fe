import { expect, test } from 'vitest';
import { silentLogger } from '../runtime/log.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { ProxyBook, type ProxyPresence, type ProxyRecord } from './proxy-book.ts';

const presence: ProxyPresence = {
  identities: [],
  node: undefined,
  connections: 0,
  streams: 0,
  protocols: [],
  secrets: [],
};

function start() {
  const clock = new FakeClock();
  const create = (record: ProxyRecord) => ({ record, status: () => presence });
  const book = new ProxyBook({ clock, log: silentLogger, create });
  const open = (
    pid: number,
    facts: { uid?: number; instance?: string; selectors?: readonly string[] } = {},
  ) => {
    const { uid = 1, instance = 'started 1', selectors = ['web'] } = facts;
    const peer = { pid, uid, gid: 1, instance, isAlive: () => true };
    return book.open({ peer, selectors: selectors.map((value) => ({ type: 'test', value })) });
  };
  const pids = () => book.statuses().map(({ pid }) => pid);
  return { clock, book, open, pids };
}

test('a page is one of a process with its selectors, whatever the connection', () => {
  const { open, book } = start();
  const page = open(1);
  expect(open(1)).toBe(page);
  const others = [
    open(2),
    open(1, { instance: 'started 2' }),
    open(1, { selectors: ['web', 'b'] }),
    open(1, { uid: 2 }),
  ];
  expect(new Set([page, ...others]).size).toBe(5);
  expect(book.statuses()[0]).toMatchObject({ pid: 1, uid: 1, gid: 1, selectors: ['test:web'], secrets: [] });
});

test('a page is kept for five minutes after the proxy has gone, and as long as it is there', async () => {
  const { clock, book, open, pids } = start();
  const [gone, back, there] = [open(1), open(2), open(3)];
  for (const { record } of [gone, back, there]) record.came();
  gone.record.left();
  back.record.left();
  await clock.advance(200_000);
  expect(open(2)).toBe(back);
  back.record.came();
  expect(book.statuses()[1]?.connectedAtMs).toBe(clock.now());
  await clock.advance(200_000);
  expect(pids()).toEqual([2, 3]);
  expect(open(1)).not.toBe(gone);
});

test('as a service it forgets without being asked', async () => {
  const { clock, book, open } = start();
  const stop = new AbortController();
  let isReady = false;
  const running = book.run(stop.signal, () => {
    isReady = true;
  });
  expect(isReady).toBe(true);
  for (const pid of [1, 2]) open(pid).record.refused({ name: 'default', version: '0123', error: 'no' });
  await clock.advance(299_000);
  expect(book.sharedRefusals()).toHaveLength(1);
  await clock.advance(61_000);
  expect(book.sharedRefusals()).toEqual([]);
  stop.abort();
  await running;
});

test('only so many pages of gone proxies are kept, and nobody can displace those of another user', () => {
  const { open, pids } = start();
  open(1, { uid: 7 });
  for (let pid = 2; pid < 3_000; pid += 1) open(pid);
  expect(pids()).toHaveLength(1_000);
  expect(pids()).toContain(1);
  expect(pids()).toContain(2_999);
  expect(pids()).not.toContain(2);
});

test('what a proxy refuses counts until it takes it back or is forgotten', async () => {
  const { clock, book, open } = start();
  const [one, other] = [open(1), open(2)];
  const refusal = { name: 'default', version: '0123', error: 'no' };
  for (const { record } of [one, other]) record.refused(refusal);
  expect(book.sharedRefusals()).toMatchObject([{ name: 'default', pids: [1, 2] }]);
  one.record.noLongerRefused('0123');
  expect(book.sharedRefusals()).toEqual([]);
  one.record.refused(refusal);
  await clock.advance(400_000);
  expect(book.statuses()).toEqual([]);
  expect(book.sharedRefusals()).toEqual([]);
});
