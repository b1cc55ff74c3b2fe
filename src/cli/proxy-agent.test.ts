import { expect, it } from 'vitest';
import {
  type DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
  DiscoveryRequest,
  type DiscoveryResponse,
} from '../gen/envoy/service/discovery/v3/discovery.ts';
import { SecretDiscoveryServiceClient } from '../gen/envoy/service/secret/v3/sds.ts';
import { State } from '../gen/signet/health/v1/health.ts';
import { CapturedOutput } from '../testing/captured-output.ts';
import { discoveryRequest, envoyNode } from '../testing/envoy-node.ts';
import { eventually } from '../testing/eventually.ts';
import { Received } from '../testing/received.ts';
import { testEntry } from '../testing/registration-entry.ts';
import { healthy, startAgent } from '../testing/running-agent.ts';
import { noAbort } from '../testing/test-server.ts';
import { connectTo } from '../testing/workload-socket.ts';
import { exitCodes, runCommandLine } from './program.ts';

const uid = process.getuid?.() ?? 0;
const me = 'spiffe://example.org/me';
const typeUrl = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

interface Shown {
  readonly pid: number;
  readonly counts: Record<string, number>;
  readonly secrets: readonly (Record<string, string> & { readonly name: string })[];
}

/** A server with an agent, and on the agent's host this process as a proxy, and the command line. */
async function start() {
  const running = await startAgent();
  const { config, server, health } = running;
  await healthy(health, ({ state }) => state === State.OK);
  const client = connectTo(SecretDiscoveryServiceClient, `unix:${config.workloadSocket}`);
  const [agent] = await server.admin.agents.list({ signal: noAbort });
  const register = async () => {
    const entry = testEntry({ id: 'me', spiffeId: me, parentId: agent!.id, selectors: [`unix:uid:${uid}`] });
    await server.admin.entries.create([entry], { signal: noAbort });
  };
  const output = new CapturedOutput();
  const signet = async (...words: readonly string[]) => {
    output.clear();
    const code = await runCommandLine(['node', 'signet', 'proxy', ...words, '--socket', config.adminSocket]);
    return { code, stdout: output.stdout, stderr: output.stderr };
  };
  const show = async () => {
    const { code, stdout } = await signet('show', 'proxy-1', '-o', 'json');
    const [proxy] = JSON.parse(stdout) as [Shown];
    return { ...proxy, code, secret: new Map(proxy.secrets.map((secret) => [secret.name, secret])) };
  };
  return { ...running, agentId: agent!.id, client, register, signet, show };
}

/** A stream for one secret, as Envoy opens it. */
function ask(client: SecretDiscoveryServiceClient, name: string) {
  const call = client.streamSecrets();
  const received = new Received<DiscoveryResponse>(call);
  call.write(DiscoveryRequest.decode(discoveryRequest({ names: [name], node: envoyNode() })));
  const answer = ({ versionInfo, nonce }: DiscoveryResponse, error?: string) => {
    const said = error === undefined ? {} : { error };
    call.write(DiscoveryRequest.decode(discoveryRequest({ names: [name], versionInfo, nonce, ...said })));
  };
  return { call, answer, next: () => received.next() };
}

it('shows what a real agent sent, and what the proxy said to it', async () => {
  const { client, clock, register, signet, show, agentId } = await start();
  const [leaf, bundle, other] = ['default', 'ALL', 'spiffe://example.org/other'].map((name) =>
    ask(client, name),
  );
  await eventually(async () => expect((await signet('show', 'proxy-1')).code).toBe(exitCodes.done));
  const waiting = await eventually(async () => {
    const shown = await show();
    expect(shown.counts).toMatchObject({ secrets: 3, held: 3 });
    expect(shown.secret.get('default')?.['held']).toBe('no registration entry');
    return shown;
  });
  expect(waiting).toMatchObject({
    ...{
      pid: process.pid,
      uid,
      gid: process.getgid?.(),
      node: 'proxy-1',
      cluster: 'front',
      version: 'envoy 1.40.0',
    },
    ...{ identities: [], selectors: expect.arrayContaining([`unix:uid:${uid}`]), protocols: ['sotw'] },
    ...{ connected: true, connections: 1, streams: 3 },
  });
  expect(waiting.secret.get('default')?.['nextStep']).toContain(
    `signet entry create --spiffe-id spiffe://example.org/NAME --parent ${agentId} --selector unix:uid:${uid}`,
  );

  await register();
  const arriving = Promise.all([leaf!.next(), bundle!.next()]);
  let isThere = false;
  void arriving.then(() => {
    isThere = true;
  });
  const [secret, trust] = await eventually(async () => {
    await clock.advance(1_000);
    expect(isThere).toBe(true);
    return arriving;
  });
  expect((await show()).counts).toMatchObject({ pending: 2, held: 1 });
  leaf!.answer(secret);
  await eventually(async () => expect((await show()).counts).toMatchObject({ acknowledged: 1, pending: 1 }));
  bundle!.answer(trust, 'no \u001b[2Jroot');
  const refused = await eventually(async () => {
    const shown = await show();
    expect(shown.counts).toMatchObject({ refused: 1 });
    return shown;
  });
  expect(refused.code).toBe(exitCodes.notHealthy);
  expect(refused).toMatchObject({ identities: [me] });
  expect(refused.secret.get('ALL')).toMatchObject({
    ...{ kind: 'trust', state: 'refused', refusedVersion: trust.versionInfo, error: 'no \\u{1b}[2Jroot' },
  });
  expect(refused.secret.get('default')).toMatchObject({
    ...{ kind: 'certificate', sentVersion: secret.versionInfo, acknowledgedVersion: secret.versionInfo },
  });
  expect(refused.secret.get('spiffe://example.org/other')).toMatchObject({
    ...{ state: 'held', held: 'not entitled', sentVersion: '' },
    nextStep: expect.stringContaining('signet entry create --spiffe-id spiffe://example.org/other '),
  });
  const list = await signet('list', '--refused', '-q', '--spiffe-id', me);
  expect(list).toMatchObject({ code: exitCodes.notHealthy, stdout: `${process.pid}\n` });

  for (const stream of [leaf, bundle, other]) stream!.call.cancel();
  await eventually(async () => {
    expect((await signet('list', '-q')).stdout).toBe('');
    expect(await signet('list', '-q', '--gone')).toMatchObject({ code: 0, stdout: `${process.pid}\n` });
  });
});

it('shows a proxy that asks incrementally', async () => {
  const { client, show } = await start();
  const call = client.deltaSecrets();
  const received = new Received<DeltaDiscoveryResponse>(call);
  const nothing: DeltaDiscoveryRequest = {
    ...{ node: undefined, typeUrl, resourceNamesSubscribe: ['default'], resourceNamesUnsubscribe: [] },
    ...{ initialResourceVersions: {}, responseNonce: '', errorDetail: undefined },
  };
  const node = DiscoveryRequest.decode(discoveryRequest({ node: envoyNode() })).node;
  call.write({ ...nothing, node });
  expect((await received.next()).removedResources).toEqual(['default']);
  const shown = await show();
  expect(shown).toMatchObject({ protocols: ['delta'], secrets: [{ name: 'default', state: 'held' }] });
});
