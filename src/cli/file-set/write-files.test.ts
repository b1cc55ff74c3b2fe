import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { defaultStreamBudget, StreamBudget } from '../../agent/api/stream-budget.ts';
import { workloadApi } from '../../agent/api/workload-api.ts';
import type { HeldSvid } from '../../agent/workload-view.ts';
import { WorkloadClient } from '../../clients/workload-client.ts';
import { startNode } from '../../testing/child-process.ts';
import { eventually } from '../../testing/eventually.ts';
import type { FakeClock } from '../../testing/fake-clock.ts';
import { memoryLogger } from '../../testing/grpc-listener.ts';
import { testEntry } from '../../testing/registration-entry.ts';
import { tempDir } from '../../testing/temp-dir.ts';
import { TestTrustDomain } from '../../testing/trust-domain.ts';
import { startWorkloadSocket } from '../../testing/workload-socket.ts';
import {
  type BundleFileOptions,
  withBundleFileOptions,
  withX509FileOptions,
  type X509FileOptions,
} from './file-options.ts';
import { type FileWriting, writeBundleFiles, writeX509Files } from './write-files.ts';

const web = testEntry({ id: 'web', spiffeId: 'spiffe://example.org/web', createdAt: 1 });
const api = testEntry({ id: 'api', spiffeId: 'spiffe://example.org/api', createdAt: 2, hint: 'internal' });
const federated = testEntry({
  id: 'web',
  spiffeId: 'spiffe://example.org/web',
  createdAt: 1,
  federatesWith: ['foreign.org'],
});

let domain: TestTrustDomain;
let foreign: TestTrustDomain;
/** Two certificates for each of the two. */
let webSvids: readonly HeldSvid[];
let apiSvids: readonly HeldSvid[];
beforeAll(async () => {
  domain = await TestTrustDomain.create('example.org', { withIntermediate: true });
  foreign = await TestTrustDomain.create('foreign.org');
  webSvids = await Promise.all([domain.sign(web), domain.sign(web)]);
  apiSvids = await Promise.all([domain.sign(api), domain.sign(api)]);
});

/** The real Workload API, with what this process is granted. */
async function startAgent(path = join(tempDir(), 'api.sock')) {
  const budget = new StreamBudget(defaultStreamBudget);
  const socket = await startWorkloadSocket({
    services: ({ attestation, cache, clock }) => [workloadApi({ attestation, cache, clock, budget })],
    path,
  });
  const grant = (...svids: readonly HeldSvid[]) => {
    socket.cache.setBundle(domain.bundle());
    socket.cache.setEntries(svids.map(({ entry }) => entry));
    socket.cache.putSvids(svids);
  };
  return { ...socket, path, grant };
}

type Agent = Awaited<ReturnType<typeof startAgent>>;

/** The options as the command line makes them. */
async function parsed<Options>(add: (target: Command) => Command, words: readonly string[]) {
  let found: { options: Options & { writeTo: string }; args: string[] } | undefined;
  const target = add(new Command('x')).exitOverride();
  target.action((args: string[], options: Options & { writeTo: string }) => {
    found = { options, args };
  });
  await target.parseAsync([...words], { from: 'user' });
  return found!;
}

async function startWriting<Options>(
  agent: { readonly path: string; readonly clock: FakeClock },
  command: { add: (target: Command) => Command; write: (writing: FileWriting<Options>) => Promise<void> },
  words: readonly string[],
) {
  const dir = join(tempDir(), 'files');
  const { log, lines } = memoryLogger();
  const { clock } = agent;
  const client = WorkloadClient.connect(`unix://${agent.path}`, { log, clock });
  const stop = new AbortController();
  const { options, args } = await parsed<Options>(command.add, ['--write-to', dir, ...words]);
  const running = command.write({ client, options, args, log, signal: stop.signal, clock });
  running.catch(() => undefined);
  onTestFinished(async () => {
    stop.abort();
    await running.catch(() => undefined);
    client.close();
  });
  const text = (name: string) => readFileSync(join(dir, name), 'utf8');
  const said = (message: RegExp) => lines.filter((line) => message.test(String(line['message'])));
  return { dir, lines, said, stop, running, text };
}

const x509 = (agent: { path: string; clock: FakeClock }, ...words: string[]) =>
  startWriting<X509FileOptions>(agent, { add: withX509FileOptions, write: writeX509Files }, words);
const bundles = (agent: { path: string; clock: FakeClock }, ...words: string[]) =>
  startWriting<BundleFileOptions>(agent, { add: withBundleFileOptions, write: writeBundleFiles }, words);

/** The serial number of the certificate, after a check that key and bundle belong to it. */
function serialIn(text: (name: string) => string): string {
  const leaf = new X509Certificate(text('svid.pem'));
  expect(leaf.publicKey.equals(createPublicKey(text('svid_key.pem')))).toBe(true);
  expect(text('bundle.pem')).toBe(domain.root.certificate.toPem());
  return leaf.serialNumber.toLowerCase();
}

const serialOf = (held: HeldSvid) => held.svid.leaf.serialHex.padStart(2, '0');

/** An application that says each SIGHUP it gets. */
async function startApplication() {
  const child = startNode(`
    process.on('SIGHUP', () => console.log('reload'));
    setInterval(() => {}, 1000);
    console.log('ready');
  `);
  await child.nextLine();
  return child;
}

describe('writing an identity', () => {
  it('follows rotations, and the application hears of each', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const application = await startApplication();
    const pidFile = join(tempDir(), 'app.pid');
    writeFileSync(pidFile, `${application.pid}\n`);
    const { text } = await x509(agent, '--pid-file', pidFile);
    expect(await application.nextLine()).toBe('reload');
    expect(serialIn(text)).toBe(serialOf(webSvids[0]!));
    agent.cache.putSvids([webSvids[1]!]);
    expect(await application.nextLine()).toBe('reload');
    expect(serialIn(text)).toBe(serialOf(webSvids[1]!));
  });

  it.each([
    { words: [], expected: () => webSvids[0]! },
    { words: ['--spiffe-id', 'spiffe://example.org/api'], expected: () => apiSvids[0]! },
    { words: ['--hint', 'internal'], expected: () => apiSvids[0]! },
  ])('takes the identity that is asked for, by default the first: $words', async ({ words, expected }) => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!, apiSvids[0]!);
    const { running, text } = await x509(agent, '--once', ...words);
    await running;
    expect(serialIn(text)).toBe(serialOf(expected()));
  });

  it('leaves its files alone when only another identity changes', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!, apiSvids[0]!);
    const { said, text } = await x509(agent);
    const other = await x509(agent, '--hint', 'internal');
    await eventually(() =>
      expect([...said(/files written/), ...other.said(/files written/)]).toHaveLength(2),
    );
    agent.cache.putSvids([apiSvids[1]!]);
    await eventually(() => expect(other.said(/files written/)).toHaveLength(2));
    agent.cache.putSvids([webSvids[1]!]);
    await eventually(() => expect(said(/files written/)).toHaveLength(2));
    expect(serialIn(text)).toBe(serialOf(webSvids[1]!));
  });

  it('waits for an identity that does not exist yet, and says what there is instead', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const { said, text, dir } = await x509(agent, '--spiffe-id', 'spiffe://example.org/api');
    await eventually(() => expect(said(/nothing to write/)).toHaveLength(1));
    expect(said(/nothing to write/)[0]).toMatchObject({
      level: 'warn',
      problem: expect.stringContaining('it has "spiffe://example.org/web"'),
    });
    expect(existsSync(join(dir, 'svid.pem'))).toBe(false);
    agent.grant(webSvids[0]!, apiSvids[0]!);
    await eventually(() => expect(serialIn(text)).toBe(serialOf(apiSvids[0]!)));
  });

  it('writes the bundles of other trust domains in files of their own', async () => {
    const agent = await startAgent();
    agent.grant({ ...webSvids[0]!, entry: federated });
    agent.cache.setFederatedBundles([foreign.bundle()]);
    const { said, text, dir } = await x509(agent);
    await eventually(() => expect(said(/files written/)).not.toHaveLength(0));
    await eventually(() => expect(text('federated.foreign.org.pem')).toBe(foreign.root.certificate.toPem()));
    agent.grant({ ...webSvids[0]!, entry: { ...web, revision: 1 } });
    await eventually(() => expect(existsSync(join(dir, 'federated.foreign.org.pem'))).toBe(false));
    expect(serialIn(text)).toBe(serialOf(webSvids[0]!));
  });

  it('keeps the files while the agent is away, says so once, and goes on when it is back', async () => {
    const path = join(tempDir(), 'api.sock');
    const before = await startAgent(path);
    before.grant(webSvids[0]!);
    const { said, text } = await x509(before);
    await eventually(() => expect(said(/files written/)).toHaveLength(1));
    await before.listener.stop(0);
    await eventually(() => expect(said(/stream ended/)).toHaveLength(1));
    for (let second = 0; second < 60; second += 1) await before.clock.advance(1_000);
    expect(said(/stream ended/).filter(({ level }) => level === 'warn')).toHaveLength(1);
    expect(serialIn(text)).toBe(serialOf(webSvids[0]!));
    const after = await startAgent(path);
    after.grant(webSvids[1]!);
    await eventually(async () => {
      await before.clock.advance(1_000);
      expect(serialIn(text)).toBe(serialOf(webSvids[1]!));
    });
    expect(said(/answers again/)).toHaveLength(1);
  });

  it('never logs a private key', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const { said, lines } = await x509(agent);
    await eventually(() => expect(said(/files written/)).toHaveLength(1));
    expect(said(/files written/)[0]).toMatchObject({ spiffeId: 'spiffe://example.org/web' });
    const body = webSvids[0]!.privateKeyPem.split('\n')[1]!;
    expect(JSON.stringify(lines)).not.toContain(body);
    expect(JSON.stringify(lines)).not.toContain('svid_key');
  });
});

describe('writing once', () => {
  it('ends when the files are there and the application knows', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const application = await startApplication();
    const { running, text } = await x509(agent, '--once', '--pid', String(application.pid));
    await running;
    expect(serialIn(text)).toBe(serialOf(webSvids[0]!));
    expect(await application.nextLine()).toBe('reload');
  });

  it.each<{ name: string; words: string[]; grants: boolean; failure: object }>([
    { name: 'there is no identity', words: [], grants: false, failure: { code: 'permission-denied' } },
    {
      name: 'it is not the one asked for',
      words: ['--hint', 'external'],
      grants: true,
      failure: { code: 'not-found', message: expect.stringContaining('"spiffe://example.org/web"') },
    },
    {
      name: 'the application cannot be told',
      words: ['--run', '/nonexistent/reload'],
      grants: true,
      failure: { code: 'failed-precondition', message: expect.stringContaining('no such program') },
    },
  ])('fails when $name', async ({ words, grants, failure }) => {
    const agent = await startAgent();
    agent.cache.setEntries([]);
    if (grants) agent.grant(webSvids[0]!);
    const { running } = await x509(agent, '--once', ...words);
    await expect(running).rejects.toMatchObject(failure);
  });

  it('waits for agent and identity when told to', async () => {
    const path = join(tempDir(), 'api.sock');
    const early: Agent = await startAgent();
    const { running, text, said } = await x509({ path, clock: early.clock }, '--once', '--wait', '1h');
    await eventually(() => expect(said(/stream ended/)).not.toHaveLength(0));
    const agent = await startAgent(path);
    agent.grant(webSvids[0]!);
    await eventually(async () => {
      await early.clock.advance(1_000);
      expect(serialIn(text)).toBe(serialOf(webSvids[0]!));
    });
    await running;
  });

  it('does not wait for ever', async () => {
    const agent = await startAgent();
    const { running } = await x509(agent, '--once', '--wait', '1h');
    await agent.clock.untilSleepers(1);
    await agent.clock.advance(3_600_000);
    await expect(running).rejects.toMatchObject({ code: 'deadline-exceeded' });
  });
});

describe('writing bundles', () => {
  it('makes a file for each trust domain, and follows changes', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const { dir, text } = await bundles(agent);
    await eventually(() => expect(text('example.org.pem')).toBe(domain.root.certificate.toPem()));
    const both = await TestTrustDomain.create();
    agent.cache.setBundle(both.bundle());
    await eventually(() => expect(text('example.org.pem')).toBe(both.root.certificate.toPem()));
    expect(readdirSync(dir).sort()).toEqual(['.signet', 'current', 'example.org.pem']);
  });

  it('makes SPIFFE bundle documents when asked to', async () => {
    const agent = await startAgent();
    agent.grant(webSvids[0]!);
    const { running, text } = await bundles(agent, '--once', '--format', 'spiffe');
    await running;
    expect(JSON.parse(text('example.org.json'))).toMatchObject({ keys: [{ use: 'x509-svid' }] });
  });
});
