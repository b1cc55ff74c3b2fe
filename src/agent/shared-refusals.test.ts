import { expect, test } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger } from '../testing/grpc-listener.ts';
import { SharedRefusals } from './shared-refusals.ts';

const refusal = { name: 'default', version: '0123', error: 'no' };

test('what a second proxy refuses is an error in the log, once, and listed until one is left', () => {
  const { log, lines } = memoryLogger();
  const refusals = new SharedRefusals({ clock: new FakeClock(), log });
  const [one, other, third] = [{}, {}, {}];
  refusals.add(one, 1, refusal);
  refusals.add(one, 1, refusal);
  expect(refusals.list()).toEqual([]);
  expect(lines).toEqual([]);
  refusals.add(other, 2, { ...refusal, error: 'not at all' });
  refusals.add(third, 3, refusal);
  expect(lines).toMatchObject([{ level: 'error', message: 'several proxies refuse a secret' }]);
  expect(refusals.list()).toEqual([{ ...refusal, pids: [1, 2, 3] }]);
  refusals.remove(one, '0123');
  refusals.remove({}, '0123');
  refusals.remove(one, 'another');
  expect(refusals.list()).toMatchObject([{ pids: [2, 3] }]);
  refusals.remove(other, '0123');
  expect(refusals.list()).toEqual([]);
});

test('only so many versions are remembered', () => {
  const refusals = new SharedRefusals({ clock: new FakeClock(), log: memoryLogger().log });
  const proxies = [{}, {}];
  for (let i = 0; i < 1_500; i += 1) {
    for (const [pid, proxy] of proxies.entries()) refusals.add(proxy, pid, { ...refusal, version: `${i}` });
  }
  expect(refusals.list()).toHaveLength(1_000);
});

test('two proxies that refuse, take and refuse again do not fill the log', () => {
  const { log, lines } = memoryLogger();
  const refusals = new SharedRefusals({ clock: new FakeClock(), log });
  const proxies = [{}, {}];
  for (let i = 0; i < 1_000; i += 1) {
    for (const [pid, proxy] of proxies.entries()) refusals.add(proxy, pid, refusal);
    for (const proxy of proxies) refusals.remove(proxy, refusal.version);
  }
  expect(lines.length).toBeLessThan(100);
});
