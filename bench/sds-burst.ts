// A burst of SDS streams: 2,000 streams on 50 connections, all opened at once by one process, each asking for
// "default" and "ALL", once with a small node and once with one of 61 KB as real Envoys send it. Then one more
// client, which must be served at once. Runs a real server and agent.
//
//   make bench BENCH=sds-burst        (or: node bench/sds-burst.ts [streams] [connections])
import { Client, type ClientDuplexStream, credentials } from '@grpc/grpc-js';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetAgent, SignetServer } from '../e2e/support/signet.ts';
import { DiscoveryRequest, DiscoveryResponse } from '../src/gen/envoy/service/discovery/v3/discovery.ts';
import { cpuSeconds, machine, percentile, rssMiB } from './support.ts';

const streams = Number(process.argv[2] ?? 2_000);
const connections = Number(process.argv[3] ?? 50);
const deadlineMs = 60_000;
const names = ['default', 'ALL'];
const secretType = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

/** A request whose node is `nodeBytes` long: `id`, and the rest as the extension list that Envoy sends (field 9). */
function request(nodeBytes: number): Buffer {
  const small = Buffer.from(
    DiscoveryRequest.encode({
      versionInfo: '',
      node: {
        id: 'bench',
        cluster: 'bench',
        metadata: undefined,
        userAgentName: 'envoy',
        userAgentVersionType: undefined,
      },
      resourceNames: names,
      typeUrl: secretType,
      responseNonce: '',
      errorDetail: undefined,
    }).finish(),
  );
  if (nodeBytes === 0) return small;
  const extension = field(9, field(1, Buffer.from('envoy.filters.http.an_extension_of_usual_length')));
  const extensions = Buffer.concat(
    Array.from({ length: Math.ceil(nodeBytes / extension.length) }, () => extension),
  );
  // A second occurrence of the field is merged into the first one by every protobuf decoder.
  return Buffer.concat([small, field(2, extensions)]);
}

/** What Envoy answers to a response it accepts: no node from the second request on. */
function ack({ versionInfo, nonce }: DiscoveryResponse): Buffer {
  return Buffer.from(
    DiscoveryRequest.encode({
      versionInfo,
      node: undefined,
      resourceNames: names,
      typeUrl: secretType,
      responseNonce: nonce,
      errorDetail: undefined,
    }).finish(),
  );
}

function field(number: number, value: Buffer): Buffer {
  const length: number[] = [];
  for (let rest = value.length; ; rest >>>= 7) {
    length.push(rest < 128 ? rest : (rest & 127) | 128);
    if (rest < 128) break;
  }
  return Buffer.concat([Buffer.of((number << 3) | 2), Buffer.from(length), value]);
}

interface Burst {
  readonly answered: number;
  readonly allMs: number;
  readonly firstAnswerMs: readonly number[];
  readonly laterMs: number;
}

async function burst(socket: string, message: Buffer): Promise<Burst> {
  const clients = Array.from({ length: connections }, (_, i) => newClient(socket, i));
  await Promise.all(clients.map((client) => ready(client)));
  const startedAt = performance.now();
  const answers = await Promise.all(
    Array.from({ length: streams }, (_, i) => answered(clients[i % connections] as Client, message)),
  );
  const allMs = performance.now() - startedAt;
  const late = newClient(socket, connections);
  const lateStart = performance.now();
  await answered(late, message);
  const laterMs = performance.now() - lateStart;
  // Closing a channel leaves its calls running.
  for (const stream of open.splice(0)) stream.cancel();
  for (const client of [...clients, late]) client.close();
  return {
    answered: answers.filter((ms) => ms !== undefined).length,
    allMs,
    firstAnswerMs: answers.filter((ms) => ms !== undefined),
    laterMs,
  };
}

function newClient(socket: string, i: number): Client {
  // An argument of its own keeps grpc-js from sharing one connection among the clients.
  return new Client(`unix:${socket}`, credentials.createInsecure(), {
    'bench.connection': i,
    'grpc.use_local_subchannel_pool': 1,
  });
}

function ready(client: Client): Promise<void> {
  return new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + deadlineMs, (error) => (error ? reject(error) : resolve()));
  });
}

const open: { cancel(): void }[] = [];

/** Milliseconds until all names were answered; undefined when the stream failed. */
function answered(client: Client, message: Buffer): Promise<number | undefined> {
  const startedAt = performance.now();
  const stream: ClientDuplexStream<Buffer, DiscoveryResponse> = client.makeBidiStreamRequest(
    '/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets',
    (bytes: Buffer) => bytes,
    (bytes: Buffer) => DiscoveryResponse.decode(bytes),
    { deadline: Date.now() + deadlineMs },
  );
  open.push(stream);
  return new Promise((resolve) => {
    let left = names.length;
    stream.on('data', (response) => {
      stream.write(ack(response));
      left -= 1;
      if (left === 0) resolve(performance.now() - startedAt);
    });
    stream.on('error', () => resolve(undefined));
    stream.write(message);
  });
}

const sandbox = await Sandbox.create();
try {
  const server = await SignetServer.start(sandbox);
  const agent = await SignetAgent.join(sandbox, { server, config: { limits: { connectionsPerUid: 0 } } });
  await server.createEntry({
    spiffeId: 'spiffe://example.org/bench',
    parent: agent.alias,
    selectors: [`unix:uid:${process.getuid?.() ?? 0}`],
  });
  console.log(
    `${machine()}\n${streams} streams on ${connections} connections, names ${names.join(' and ')}\n`,
  );
  // Wait until the identity is there, so that the burst measures the agent and not the first signature.
  const probe = newClient(agent.socket, -1);
  await answered(probe, request(0));
  probe.close();
  for (const [label, nodeBytes] of [
    ['small node', 0],
    ['61 KB node', 61_000],
  ] as const) {
    for (let run = 1; run <= 3; run += 1) {
      const cpuBefore = cpuSeconds(agent.process.pid);
      const result = await burst(agent.socket, request(nodeBytes));
      const cpu = cpuSeconds(agent.process.pid) - cpuBefore;
      console.log(
        `${label}, run ${run}: ${result.answered}/${streams} answered in ${result.allMs.toFixed(0)} ms` +
          ` (p50 ${percentile(result.firstAnswerMs, 0.5).toFixed(0)}, p99 ${percentile(result.firstAnswerMs, 0.99).toFixed(0)} ms);` +
          ` a later client in ${result.laterMs.toFixed(1)} ms; agent CPU ${cpu.toFixed(2)} s, RSS ${rssMiB(agent.process.pid).toFixed(0)} MiB`,
      );
    }
  }
} finally {
  await sandbox.dispose();
}
