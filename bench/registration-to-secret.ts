// From `entry create` on the server to the secret on an SDS stream that has been waiting for it: the time that an
// Envoy which started before its registration waits. Default settings, real server and agent, one new entry and one
// waiting stream per round.
//
//   make bench BENCH=registration-to-secret        (or: node bench/registration-to-secret.ts [rounds])
import { Client, credentials } from '@grpc/grpc-js';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetAgent, SignetServer } from '../e2e/support/signet.ts';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { DiscoveryRequest, DiscoveryResponse } from '../src/gen/envoy/service/discovery/v3/discovery.ts';
import { unixChannel } from '../src/rpc/grpc-client.ts';
import { newEntry } from '../src/spiffe/registration-entry.ts';
import { SpiffeId } from '../src/spiffe/spiffe-id.ts';
import { machine, percentile } from './support.ts';

const rounds = Number(process.argv[2] ?? 100);
const secretType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

/** Opens a stream for `name`; resolves when the secret comes. */
function waitFor(client: Client, name: string): Promise<number> {
  const stream = client.makeBidiStreamRequest(
    '/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets',
    (r: DiscoveryRequest) => Buffer.from(DiscoveryRequest.encode(r).finish()),
    (bytes: Buffer) => DiscoveryResponse.decode(bytes),
  );
  stream.write({
    versionInfo: '',
    node: undefined,
    resourceNames: [name],
    typeUrl: secretType,
    responseNonce: '',
    errorDetail: undefined,
  });
  return new Promise((resolve, reject) => {
    stream.on('data', () => {
      resolve(performance.now());
      stream.cancel();
    });
    stream.on('error', reject);
  });
}

const sandbox = await Sandbox.create();
try {
  const server = await SignetServer.start(sandbox);
  // The default interval, where the tests use a shorter one.
  const agent = await SignetAgent.join(sandbox, { server, config: { syncInterval: '5s' } });
  const admin = new AdminClient(unixChannel(server.adminSocket));
  const envoy = new Client(`unix:${agent.socket}`, credentials.createInsecure());
  const selectors = [{ type: 'unix', value: `uid:${process.getuid?.() ?? 0}` }];
  // All wait at the same time, and the entries are created one by one over several intervals.
  const waits: Promise<number>[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const name = `spiffe://example.org/bench-${round}`;
    const arrived = waitFor(envoy, name);
    await new Promise((resolve) => setTimeout(resolve, 50 + Math.random() * 300));
    const createdAt = performance.now();
    await admin.entries.create(
      [newEntry({ spiffeId: SpiffeId.parse(name), parentId: SpiffeId.parse(agent.alias), selectors })],
      { signal: AbortSignal.timeout(10_000) },
    );
    waits.push(arrived.then((at) => at - createdAt));
  }
  const times = await Promise.all(waits);
  console.log(machine());
  console.log(
    `entry create → secret on a waiting stream, ${rounds} rounds: p50 ${percentile(times, 0.5).toFixed(0)} ms,` +
      ` p99 ${percentile(times, 0.99).toFixed(0)} ms, max ${Math.max(...times).toFixed(0)} ms`,
  );
} finally {
  await sandbox.dispose();
}
