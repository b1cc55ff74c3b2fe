// 10,000 registration entries: created in batches of 50, listed, and handed to the agent that may have all of them.
// A real server in a process of its own; the administrator calls over the Unix socket, the agent over TLS with the
// certificate of its attestation. The client does not decode what comes: these are figures of the server, of gRPC
// and of TLS. Every figure is the median of its rounds.
//
//   make bench BENCH=registration        (or: node bench/registration.ts [entries])
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetServer } from '../e2e/support/signet.ts';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { ServerClient } from '../src/clients/server-client.ts';
import { BatchCreateEntryResponse, EntryService } from '../src/gen/spire/api/server/entry/v1/entry.ts';
import { type ClientChannel, callUnary, openBidi, tlsChannel, unixChannel } from '../src/rpc/grpc-client.ts';
import { entryToWire } from '../src/rpc/messages.ts';
import { newEntry } from '../src/spiffe/registration-entry.ts';
import { parseSelector } from '../src/spiffe/selector.ts';
import { SpiffeId } from '../src/spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../src/spiffe/x509-svid.ts';
import { spireAgentMask } from '../src/testing/spire-agent-mask.ts';
import type { Certificate } from '../src/x509/certificate.ts';
import { buildCsr } from '../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../src/x509/signature.ts';
import { cpuSeconds, machine, percentile, rssMiB } from './support.ts';

const count = Number(process.argv[2] ?? 10_000);
const batchSize = 50;
const rounds = 41;
const signal = AbortSignal.timeout(600_000);

const undecoded = (bytes: Buffer) => bytes;
const getAuthorized = { ...EntryService.getAuthorizedEntries, responseDeserialize: undecoded };
const syncAuthorized = { ...EntryService.syncAuthorizedEntries, responseDeserialize: undecoded };
const listEntries = { ...EntryService.listEntries, responseDeserialize: undecoded };
const createEntries = { ...EntryService.batchCreateEntry, responseDeserialize: undecoded };

/** Attests with a join token; returns the agent and its own connection. */
async function join(server: SignetServer, admin: AdminClient) {
  const bundle = await admin.bundles.getOwn({ signal });
  const verifyServer = (chain: readonly Certificate[]) => {
    verifyX509Svid({ chain, bundles: () => bundle, nowMs: Date.now() });
  };
  const { value } = await admin.agents.createJoinToken({ ttlSeconds: 600, signal });
  const key = await generatePrivateKey('ec-p256');
  const nobody = tlsChannel({ address: server.address, tls: { verifyServer } });
  const { id, chain } = await new ServerClient(nobody).attestAgent({
    type: 'join_token',
    payload: Buffer.from(value),
    csr: await buildCsr({ signer: createSoftwareSigner(key), uris: [] }),
    answer: () => Promise.reject(new Error('there is no challenge')),
    signal,
  });
  nobody.close();
  const certificateChainPem = chain.map((certificate) => certificate.toPem()).join('');
  const privateKeyPem = key.export({ type: 'pkcs8', format: 'pem' }).toString();
  const tls = { verifyServer, certificateChainPem, privateKeyPem };
  return { id, channel: tlsChannel({ address: server.address, tls }) };
}

function entriesBelow(parentId: SpiffeId) {
  return Array.from({ length: count }, (_, i) =>
    entryToWire(
      newEntry({
        parentId,
        spiffeId: SpiffeId.parse(`spiffe://example.org/ns/team-${i % 97}/sa/service-${i}`),
        selectors: [`k8s:ns:team-${i % 97}`, `k8s:sa:service-${i}`, 'unix:uid:1000'].map(parseSelector),
        dnsNames: [`service-${i}.team-${i % 97}.svc.cluster.local`],
      }),
    ),
  );
}

/** Milliseconds of each batch. */
async function createAll(channel: ClientChannel, parentId: SpiffeId): Promise<readonly number[]> {
  const entries = entriesBelow(parentId);
  const times: number[] = [];
  for (let start = 0; start < count; start += batchSize) {
    const batch = entries.slice(start, start + batchSize);
    const startedAt = performance.now();
    const answer = await callUnary(channel, createEntries, { entries: batch, outputMask: undefined });
    times.push(performance.now() - startedAt);
    const { results } = BatchCreateEntryResponse.decode(answer);
    const refused = results.find(({ status }) => status?.code !== 0);
    if (refused !== undefined) throw new Error(`not created: ${refused.status?.message}`);
  }
  return times;
}

/** Reads revisions to the last page, and asks for nothing: all is known. Returns the bytes that came. */
async function syncUnchanged(channel: ClientChannel): Promise<number> {
  const call = openBidi(channel, syncAuthorized, { signal });
  call.send({ outputMask: spireAgentMask, ids: [] });
  let bytes = 0;
  for (let page = await call.next(); page !== undefined; page = await call.next()) {
    bytes += page.length;
    // Field 3, `more`, is the last one and left out when false.
    if (page.at(-2) !== 0x18) break;
  }
  call.conclude();
  return bytes;
}

const rssSamples: number[] = [];

async function measure(what: string, server: SignetServer, work: () => Promise<number>): Promise<void> {
  const firstAt = performance.now();
  let size = await work();
  const first = performance.now() - firstAt;
  const times: number[] = [];
  const cpuBefore = cpuSeconds(server.process.pid);
  for (let round = 0; round < rounds; round += 1) {
    const startedAt = performance.now();
    size = await work();
    times.push(performance.now() - startedAt);
    rssSamples.push(rssMiB(server.process.pid));
    await nextTurn();
  }
  const cpuMs = ((cpuSeconds(server.process.pid) - cpuBefore) / rounds) * 1000;
  console.log(
    `${what}: p50 ${percentile(times, 0.5).toFixed(1)} ms, p90 ${percentile(times, 0.9).toFixed(1)} ms,` +
      ` first ${first.toFixed(0)} ms; server CPU ${cpuMs.toFixed(1)} ms; ${(size / 1024).toFixed(0)} KiB`,
  );
}

/** Entries a second: over all batches, or by the median of them, which a neighbour on the machine disturbs less. */
const rate = (times: readonly number[]) =>
  ((times.length * batchSize * 1000) / times.reduce((sum, ms) => sum + ms, 0)).toFixed(0);
const medianRate = (times: readonly number[]) => ((batchSize * 1000) / percentile(times, 0.5)).toFixed(0);

const sandbox = await Sandbox.create();
try {
  const server = await SignetServer.start(sandbox);
  const rssBefore = rssMiB(server.process.pid);
  const channel = unixChannel(server.adminSocket);
  const agent = await join(server, new AdminClient(channel));
  console.log(`${machine()}\n${count} entries below one agent\n`);
  const times = await createAll(channel, agent.id);
  const part = Math.floor(times.length / 5);
  console.log(
    `created by batches of ${batchSize}: ${rate(times)} a second (by the median of the batches ${medianRate(times)};` +
      ` of the first fifth ${medianRate(times.slice(0, part))}, of the last ${medianRate(times.slice(-part))});` +
      ` a batch p50 ${percentile(times, 0.5).toFixed(1)} ms,` +
      ` p99 ${percentile(times, 0.99).toFixed(1)} ms`,
  );
  const whole = { filter: undefined, outputMask: undefined, pageSize: 0, pageToken: '' };
  await measure('ListEntries, all in one', server, async () => {
    return (await callUnary(channel, listEntries, whole)).length;
  });
  await measure('the same, decoded by our client page by page', server, async () => {
    return (await new AdminClient(channel).entries.list({ signal })).length;
  });
  await measure('GetAuthorizedEntries', server, async () => {
    return (await callUnary(agent.channel, getAuthorized, { outputMask: spireAgentMask })).length;
  });
  await measure('SyncAuthorizedEntries, revisions', server, () => syncUnchanged(agent.channel));
  console.log(
    `server RSS while it answers p50 ${percentile(rssSamples, 0.5).toFixed(0)} MiB,` +
      ` max ${Math.max(...rssSamples).toFixed(0)} MiB; ${rssBefore.toFixed(0)} MiB before the entries`,
  );
  channel.close();
  agent.channel.close();
} finally {
  await sandbox.dispose();
}
