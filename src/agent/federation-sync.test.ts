import fc from 'fast-check';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ServerClient } from '../clients/server-client.ts';
import { tlsChannel } from '../rpc/grpc-client.ts';
import { AppError } from '../runtime/error.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { eventually } from '../testing/eventually.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger } from '../testing/grpc-listener.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { ScriptedServer } from '../testing/scripted-server.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { TestTrustDomain } from '../testing/trust-domain.ts';
import { FederationSync } from './federation-sync.ts';
import { SvidCache } from './svid-cache.ts';

const call = { signal: noAbort };
const domains = new Map<string, TestTrustDomain>();

beforeAll(async () => {
  for (const name of ['a.org', 'b.org', 'c.org', 'example.org'])
    domains.set(name, await TestTrustDomain.create(name));
});

const bundle = (name: string): Bundle => domains.get(name)!.bundle();
const entry = (id: string, ...federatesWith: readonly string[]) =>
  testEntry({ id, spiffeId: `spiffe://example.org/${id}`, federatesWith });

/** A federation sync with a cache of its own; it is started by hand, as rounds do. */
function start(client: ServerClient) {
  const { log, lines } = memoryLogger();
  const cache = new SvidCache({ clock: new FakeClock(), keyType: 'ec-p256' });
  cache.setBundle(bundle('example.org'));
  const sync = new FederationSync({ client: () => client, cache, log });
  const stopping = new AbortController();
  onTestFinished(async () => {
    stopping.abort();
    await sync.settled();
  });
  const begin = () => sync.start(stopping.signal);
  const round = async () => {
    begin();
    await sync.settled();
  };
  const { view } = cache.watch([parseSelector('unix:uid:1000')]);
  const held = () => view.value.federatedBundles.map(({ trustDomain }) => trustDomain.name);
  return { sync, cache, begin, round, held, view, lines, stop: () => stopping.abort() };
}

/** The same with a server that answers what the test says; `answers` by trust domain. */
async function scripted(answers: Record<string, () => Promise<Bundle>> = {}) {
  const server = await ScriptedServer.start({ clock: new FakeClock(Date.now()) });
  const asked: string[] = [];
  server.script.federated = (name) => {
    asked.push(name);
    return answers[name]?.() ?? Promise.reject(new AppError('not-found', 'bundle not found'));
  };
  const leaf = await server.root.issue('spiffe://example.org/spire/agent/a', {
    notBeforeMs: Date.now() - 1_000,
    notAfterMs: Date.now() + 3_600_000,
  });
  const tls = { certificateChainPem: leaf.certificate.toPem(), privateKeyPem: leaf.privateKeyPem };
  const channel = tlsChannel({ address: server.address, tls: { ...tls, verifyServer: () => undefined } });
  onTestFinished(() => channel.close());
  return { ...start(new ServerClient(channel)), asked, answers };
}

const never = () => new Promise<Bundle>(() => undefined);
const fails = (code: 'unavailable' | 'permission-denied' | 'internal') => () =>
  Promise.reject(new AppError(code, 'no'));

describe('the bundles of other trust domains, from a real server', () => {
  it('are those that entries federate with, and follow the server', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    for (const name of ['a.org', 'b.org', 'c.org']) await server.admin.bundles.set(bundle(name), call);
    const { cache, round, held, view } = start(agent.client);
    cache.setEntries([entry('web', 'a.org', 'b.org', 'example.org')]);
    await round();
    expect(held()).toEqual(['a.org', 'b.org']);
    expect(view.value.federatedBundles[0]?.equals(bundle('a.org'))).toBe(true);
    const next = await TestTrustDomain.create('a.org');
    await server.admin.bundles.set(next.bundle(), call);
    await server.admin.bundles.delete([TrustDomain.parse('b.org')], { mode: 'restrict', ...call });
    await round();
    expect(held()).toEqual(['a.org']);
    expect(view.value.federatedBundles[0]?.equals(next.bundle())).toBe(true);
  });

  it('wake nobody when they come again unchanged', async () => {
    const server = await TestServer.start();
    const agent = await server.join();
    await server.admin.bundles.set(bundle('a.org'), call);
    const { cache, round, view } = start(agent.client);
    cache.setEntries([entry('web', 'a.org')]);
    await round();
    const before = view.version;
    await round();
    expect(view.version).toBe(before);
  });
});

describe('a federated bundle', () => {
  it('is dropped when no entry needs it any more, and not asked for', async () => {
    const { cache, round, held, asked, sync } = await scripted({
      'a.org': async () => bundle('a.org'),
      'b.org': async () => bundle('b.org'),
    });
    cache.setEntries([entry('web', 'a.org'), entry('api', 'a.org', 'b.org')]);
    await round();
    cache.setEntries([entry('web', 'a.org')]);
    asked.length = 0;
    await round();
    expect([held(), asked]).toEqual([['a.org'], ['a.org']]);
    cache.setEntries([]);
    await round();
    expect(sync.status).toMatchObject({ wanted: 0, held: 0 });
  });

  it.each([
    { name: 'its server fails', answer: fails('unavailable') },
    { name: 'it is refused', answer: fails('permission-denied') },
    { name: 'another domain comes under its name', answer: async () => bundle('b.org') },
    { name: 'our own domain comes under its name', answer: async () => bundle('example.org') },
  ])('stays as it was when $name; that is said once, and its end', async ({ answer }) => {
    const { cache, round, view, answers, sync, lines } = await scripted({
      'a.org': async () => bundle('a.org'),
    });
    cache.setEntries([entry('web', 'a.org')]);
    await round();
    answers['a.org'] = answer;
    await round();
    await round();
    expect(view.value.federatedBundles[0]?.equals(bundle('a.org'))).toBe(true);
    expect([...sync.status.problems.keys()]).toEqual(['a.org']);
    const said = (text: string) => lines.filter(({ message }) => String(message).includes(text));
    expect(said('could not be fetched')).toMatchObject([{ trustDomain: 'a.org', isHeld: true }]);
    answers['a.org'] = async () => bundle('a.org');
    await round();
    expect(said('there again')).toHaveLength(1);
    expect(sync.status.problems.size).toBe(0);
  });

  it('that is missing is known to be awaited, failed or gone', async () => {
    const { cache, round, view, held, answers } = await scripted({
      'a.org': async () => bundle('a.org'),
      'b.org': fails('unavailable'),
    });
    const missing = () => Object.fromEntries(view.value.missingBundles);
    cache.setEntries([entry('web', 'a.org', 'b.org', 'c.org')]);
    expect(missing()).toEqual({ 'a.org': 'awaited', 'b.org': 'awaited', 'c.org': 'awaited' });
    await round();
    expect([held(), missing()]).toEqual([['a.org'], { 'b.org': 'failed', 'c.org': 'gone' }]);
    answers['b.org'] = async () => bundle('b.org');
    answers['a.org'] = fails('unavailable');
    await round();
    expect([held(), missing()]).toEqual([['a.org', 'b.org'], { 'c.org': 'gone' }]);
    // What is dropped is asked for anew before anything is said about it.
    cache.setEntries([entry('api', 'b.org')]);
    await round();
    cache.setEntries([entry('web', 'b.org', 'c.org')]);
    expect(missing()).toEqual({ 'c.org': 'awaited' });
  });

  it('of another domain never comes to speak for the one that was asked for', async () => {
    const { cache, round, held } = await scripted({ 'a.org': async () => bundle('b.org') });
    cache.setEntries([entry('web', 'a.org', 'b.org')]);
    await round();
    expect(held()).toEqual([]);
  });

  it('goes when the server has none any more', async () => {
    const { cache, round, held, answers } = await scripted({ 'a.org': async () => bundle('a.org') });
    cache.setEntries([entry('web', 'a.org')]);
    await round();
    delete answers['a.org'];
    await round();
    expect(held()).toEqual([]);
  });

  it('that does not come delays no other, and is not asked for twice', async () => {
    const { cache, begin, held, asked } = await scripted({
      'a.org': never,
      'b.org': async () => bundle('b.org'),
    });
    cache.setEntries([entry('web', 'a.org', 'b.org')]);
    begin();
    await eventually(() => expect(held()).toEqual(['b.org']));
    begin();
    await eventually(() => expect(asked.filter((name) => name === 'b.org')).toHaveLength(2));
    expect(asked.filter((name) => name === 'a.org')).toHaveLength(1);
  });

  it('that comes when nobody needs it any more is not kept', async () => {
    const answer = Promise.withResolvers<Bundle>();
    const { cache, begin, asked, sync } = await scripted({ 'a.org': () => answer.promise });
    cache.setEntries([entry('web', 'a.org')]);
    begin();
    await eventually(() => expect(asked).toEqual(['a.org']));
    cache.setEntries([]);
    answer.resolve(bundle('a.org'));
    await sync.settled();
    expect(sync.status.held).toBe(0);
  });

  it('is not waited for when the agent stops', async () => {
    const { cache, begin, asked, sync, stop } = await scripted({ 'a.org': never });
    cache.setEntries([entry('web', 'a.org')]);
    begin();
    await eventually(() => expect(asked).toEqual(['a.org']));
    stop();
    await sync.settled();
    expect(sync.status.problems.size).toBe(0);
  });
});

it('ten are fetched at a time, and those that wait have their turn', async () => {
  const names = Array.from({ length: 25 }, (_, i) => `d${i}.org`);
  const hanging = Promise.withResolvers<Bundle>();
  const { cache, begin, asked, sync, answers } = await scripted();
  for (const name of names) answers[name] = () => hanging.promise;
  cache.setEntries([entry('web', ...names)]);
  begin();
  await eventually(() => expect(asked).toHaveLength(10));
  begin();
  hanging.reject(new AppError('unavailable', 'no'));
  await sync.settled();
  expect([...asked].sort()).toEqual([...names].sort());
});

it('what is held is what the server last said of what entries need, whatever happens', async () => {
  const names = ['a.org', 'b.org', 'c.org'];
  const answer = fc.constantFrom('bundle', 'gone', 'failure');
  const step = fc.record({ wanted: fc.subarray(names), answers: fc.tuple(answer, answer, answer) });
  const { cache, round, held, answers } = await scripted();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
      cache.setEntries([]);
      await round();
      let expected: readonly string[] = [];
      for (const [revision, { wanted, answers: said }] of steps.entries()) {
        const of = (name: string) => said[names.indexOf(name)];
        for (const name of names) {
          if (of(name) === 'bundle') answers[name] = async () => bundle(name);
          else if (of(name) === 'failure') answers[name] = fails('unavailable');
          else delete answers[name];
        }
        cache.setEntries([{ ...entry('web', ...wanted), revision }]);
        await round();
        const stays = (name: string) => of(name) === 'failure' && expected.includes(name);
        expected = wanted.filter((name) => of(name) === 'bundle' || stays(name));
        expect(held()).toEqual(expected);
      }
    }),
    { numRuns: 20 },
  );
});
