import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { SpiffeWorkloadAPIService, type X509SVIDResponse } from '../gen/workloadapi.ts';
import { unixChannel } from '../rpc/grpc-client.ts';
import { type CallContext, serverStream, serviceOf } from '../rpc/handlers.ts';
import { AppError } from '../runtime/error.ts';
import { silentLogger } from '../runtime/log.ts';
import { type Clock, systemClock } from '../runtime/time.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { memoryLogger, startListener, until } from '../testing/grpc-listener.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { WorkloadClient, type WorkloadX509Update } from './workload-client.ts';

let root: TestIdentity;
let names: readonly TestIdentity[];
beforeAll(async () => {
  root = await TestIdentity.root('example.org');
  names = await Promise.all(['a', 'b'].map((name) => root.issue(`spiffe://example.org/${name}`)));
});

/** A message with the first `count` identities. */
function message(count: number): X509SVIDResponse {
  const svids = names.slice(0, count).map((identity) => ({
    spiffeId: identity.certificate.uris[0]!,
    x509Svid: identity.certificate.der,
    x509SvidKey: identity.key.export({ type: 'pkcs8', format: 'der' }),
    bundle: root.certificate.der,
    hint: '',
  }));
  return { svids, crl: [], federatedBundles: {} };
}

/** A number is a good message with so many SVIDs. */
type Step = number | X509SVIDResponse | AppError | 'end' | 'stay';

/** An agent that follows the script: a stream per call, each ending at an error, at `end`, or never. */
function scriptedAgent(script: readonly Step[]) {
  const steps = [...script];
  const contexts: CallContext[] = [];
  const service = serviceOf(SpiffeWorkloadAPIService, {
    fetchX509Svid: serverStream(async function* (_, context) {
      contexts.push(context);
      for (let step = steps.shift(); step !== undefined; step = steps.shift()) {
        if (step instanceof AppError) throw step;
        if (step === 'end') return;
        if (step === 'stay') break;
        yield typeof step === 'number' ? message(step) : step;
      }
      await new Promise((_, reject) => {
        context.signal.addEventListener('abort', reject, { once: true });
      });
    }),
    fetchX509Bundles: serverStream(async function* (_, context) {
      contexts.push(context);
      yield { crl: [], bundles: { 'spiffe://example.org': root.certificate.der } };
    }),
  });
  return { service, contexts };
}

function connect(path: string) {
  const clock = new FakeClock();
  const { log, lines } = memoryLogger();
  const client = new WorkloadClient({ channel: unixChannel(path), clock, log });
  onTestFinished(() => client.close());
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  return { client, clock, lines, stop };
}

async function start(script: readonly Step[]) {
  const agent = scriptedAgent(script);
  const { address } = await startListener({ services: [agent.service] });
  return { ...agent, ...connect(address) };
}

/** Takes updates as the numbers of their SVIDs, while fake time passes. */
async function counts(
  updates: AsyncIterable<WorkloadX509Update>,
  options: { readonly take: number; readonly clock: FakeClock },
): Promise<number[]> {
  const found: number[] = [];
  const taken = (async () => {
    for await (const { svids } of updates) if (found.push(svids.length) === options.take) return;
  })();
  let isOver = false;
  const done = () => {
    isOver = true;
  };
  taken.then(done, done);
  while (!isOver) await options.clock.advance(100);
  await taken;
  return found;
}

const unavailable = new AppError('unavailable', 'starting');
const denied = new AppError('permission-denied', 'no identity issued');

const empty: X509SVIDResponse = { svids: [], crl: [], federatedBundles: {} };

describe('fetching', () => {
  it('takes the first message, and says the magic word', async () => {
    const { client, contexts, stop } = await start([2]);
    const { svids } = await client.fetchX509Svids({ signal: stop.signal });
    expect(svids.map(({ svid }) => svid.id.path)).toEqual(['/a', '/b']);
    const bundles = await client.fetchX509Bundles({ signal: stop.signal });
    expect(bundles.get('example.org')?.certificates()).toHaveLength(1);
    expect(contexts.map(({ metadata }) => metadata.get('workload.spiffe.io'))).toEqual([['true'], ['true']]);
    await until(() => contexts.every(({ signal }) => signal.aborted), 'no stream stays open');
  });

  it.each<{ name: string; script: Step[]; code: string }>([
    { name: 'is refused', script: [denied], code: 'permission-denied' },
    { name: 'gets nothing', script: ['end'], code: 'unavailable' },
    { name: 'gets nonsense', script: [empty], code: 'internal' },
  ])('fails when it $name', async ({ script, code }) => {
    const { client, stop } = await start(script);
    await expect(client.fetchX509Svids({ signal: stop.signal })).rejects.toMatchObject({ code });
  });
});

describe('watching', () => {
  it('passes on each update, also when an identity is taken away', async () => {
    const { client, clock, stop } = await start([1, 2, 1]);
    expect(await counts(client.watchX509Svids(stop.signal), { take: 3, clock })).toEqual([1, 2, 1]);
  });

  it.each<{ name: string; script: Step[]; expected: number[] }>([
    { name: 'the stream ends', script: [1, 'end', 2], expected: [1, 2] },
    {
      name: 'the agent is not ready',
      script: [unavailable, unavailable, unavailable, 1],
      expected: [1],
    },
    { name: 'there is no identity yet', script: [denied, denied, 1], expected: [1] },
    {
      name: 'all is taken away and given again',
      script: [2, denied, denied, 1],
      expected: [2, 0, 1],
    },
  ])('goes on when $name', async ({ script, expected }) => {
    const { client, clock, stop } = await start(script);
    expect(await counts(client.watchX509Svids(stop.signal), { take: expected.length, clock })).toEqual(
      expected,
    );
  });

  it('keeps what it has when a message is no good', async () => {
    const { client, clock, lines, stop } = await start([1, empty, 2]);
    expect(await counts(client.watchX509Svids(stop.signal), { take: 2, clock })).toEqual([1, 2]);
    expect(lines).toContainEqual(
      expect.objectContaining({ level: 'error', message: 'Workload API message discarded' }),
    );
  });

  it.each(['invalid-argument', 'unimplemented'] as const)('gives up at %s', async (code) => {
    const { client, clock, contexts, stop } = await start([new AppError(code, 'no'), 1]);
    const watched = counts(client.watchX509Svids(stop.signal), { take: 1, clock });
    await expect(watched).rejects.toMatchObject({ code });
    expect(contexts).toHaveLength(1);
  });

  it('waits longer after each failure, up to a limit, and starts over after a success', async () => {
    const agent = scriptedAgent([...Array(12).fill(unavailable), 1, 'end', 'stay']);
    const { address } = await startListener({ services: [agent.service] });
    const waits: number[] = [];
    const clock: Clock = { ...systemClock, sleep: async (ms) => void waits.push(ms) };
    const client = new WorkloadClient({ channel: unixChannel(address), clock, log: silentLogger });
    onTestFinished(() => client.close());
    const stop = new AbortController();
    const updates = client.watchX509Svids(stop.signal);
    await updates.next();
    const last = updates.next();
    await until(() => waits.length === 13, 'it tries again');
    stop.abort();
    await last;
    expect(waits[0]).toBeLessThanOrEqual(500);
    expect(Math.min(...waits.slice(6, 12))).toBeGreaterThanOrEqual(3_000);
    expect(Math.max(...waits)).toBeLessThanOrEqual(30_000);
    expect(waits[12]).toBeLessThanOrEqual(500);
  });

  it('survives a restart of the agent', async () => {
    const path = join(tempDir(), 'agent.sock');
    const before = await startListener({ path, services: [scriptedAgent([1]).service] });
    const { client, clock, stop } = connect(path);
    const updates = client.watchX509Svids(stop.signal);
    expect((await updates.next()).value?.svids).toHaveLength(1);
    await before.stop(0);
    await startListener({ path, services: [scriptedAgent([2]).service] });
    const next = counts(updates, { take: 1, clock });
    expect(await next).toEqual([2]);
  });

  it('ends without an error when it is no longer wanted', async () => {
    const { client, stop } = await start([1]);
    const updates = client.watchX509Svids(stop.signal);
    await updates.next();
    stop.abort();
    expect(await updates.next()).toMatchObject({ done: true });
  });

  it('ends while it waits for the next try', async () => {
    const { address } = await startListener({ services: [] });
    rmSync(address);
    const { client, clock, stop } = connect(address);
    const next = client.watchX509Svids(stop.signal).next();
    await clock.untilSleepers(1);
    stop.abort();
    expect(await next).toMatchObject({ done: true });
  });
});
