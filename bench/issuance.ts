// How many X509-SVIDs a server signs per second of its own CPU time: BatchNewX509SVID as an attested agent over TLS
// (batches of 500 and of 100), and MintX509SVID at the admin socket (one per call, 64 calls in flight); with each
// type of CA key, and for requests with each type of key. The requests are made beforehand, and the server is a
// process of its own, so what counts is only what it does: TLS, gRPC, checking, linting, signing.
//
//   make bench BENCH=issuance        (or: node bench/issuance.ts [certificates per run])
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetServer } from '../e2e/support/signet.ts';
import { AdminClient } from '../src/clients/admin/admin-client.ts';
import { ServerClient } from '../src/clients/server-client.ts';
import { verifyServerChain } from '../src/clients/server-verification.ts';
import { type ClientChannel, tlsChannel, unixChannel } from '../src/rpc/grpc-client.ts';
import { AppError } from '../src/runtime/error.ts';
import { newEntry } from '../src/spiffe/registration-entry.ts';
import { SpiffeId, TrustDomain } from '../src/spiffe/spiffe-id.ts';
import type { Certificate } from '../src/x509/certificate.ts';
import { buildCsr } from '../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../src/x509/signature.ts';
import { cpuSeconds, machine } from './support.ts';

const perRun = Number(process.argv[2] ?? 20_000);
const runs = 3;
const workloads = 500;
const inFlight = 64;

interface WorkloadRequest {
  readonly entryId: string;
  readonly csr: Uint8Array;
}

const idOf = (i: number) => `spiffe://example.org/bench/workload-${i}`;
const signal = () => AbortSignal.timeout(120_000);

async function requestsWith(type: KeyType): Promise<readonly WorkloadRequest[]> {
  // An RSA key takes a second or so to make; the server cannot tell that there are only a few.
  const distinct = type.startsWith('ec') ? workloads : 4;
  const keys = await Promise.all(Array.from({ length: distinct }, () => generatePrivateKey(type)));
  const signers = keys.map(createSoftwareSigner);
  return Promise.all(
    Array.from({ length: workloads }, async (_, i) => {
      const signer = signers[i % distinct];
      if (signer === undefined) throw new Error('no key');
      return { entryId: `bench-${i}`, csr: await buildCsr({ signer, uris: [idOf(i)] }) };
    }),
  );
}

/** Joins as an agent of its own and registers the workloads below it. */
async function joinAsAgent(server: SignetServer, admin: AdminClient): Promise<ClientChannel> {
  const trustDomain = TrustDomain.parse(server.trustDomain);
  const bundle = await admin.bundles.getOwn({ signal: signal() });
  const tls = {
    verifyServer: (sent: readonly Certificate[]) =>
      verifyServerChain(sent, { trustDomain, bundle, nowMs: Date.now() }),
  };
  const { value } = await admin.agents.createJoinToken({ ttlSeconds: 600, signal: signal() });
  const key = await generatePrivateKey('ec-p256');
  const anonymous = tlsChannel({ address: server.address, tls });
  const { id, chain } = await new ServerClient(anonymous).attestAgent({
    type: 'join_token',
    payload: Buffer.from(value),
    csr: await buildCsr({ signer: createSoftwareSigner(key) }),
    answer: () => Promise.reject(new Error('there is no challenge')),
    signal: signal(),
  });
  anonymous.close();
  await admin.entries.create(
    Array.from({ length: workloads }, (_, i) =>
      newEntry({
        id: `bench-${i}`,
        spiffeId: SpiffeId.parse(idOf(i)),
        parentId: id,
        selectors: [{ type: 'unix', value: `uid:${i}` }],
        dnsNames: [`workload-${i}.bench.internal`],
      }),
    ),
    { signal: signal() },
  );
  return tlsChannel({
    address: server.address,
    tls: {
      ...tls,
      certificateChainPem: chain.map((certificate) => certificate.toPem()).join(''),
      privateKeyPem: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    },
  });
}

async function byBatches(
  agent: ServerClient,
  requests: readonly WorkloadRequest[],
  size: number,
  count: number,
) {
  for (let done = 0; done < count; done += size) {
    const from = done % workloads;
    const answers = await agent.batchNewX509Svid(requests.slice(from, from + size), { signal: signal() });
    const failed = answers.find((answer) => answer instanceof AppError);
    if (failed !== undefined) throw failed;
  }
}

async function byMint(admin: AdminClient, requests: readonly WorkloadRequest[], count: number) {
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const request = requests[next % workloads];
      next += 1;
      if (request === undefined) throw new Error('no request');
      await admin.svids.mintX509({ csr: request.csr, ttlSeconds: 0, signal: signal() });
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

/** Prints the median of the runs, after one that only warms up. */
async function measure(
  server: SignetServer,
  what: string,
  count: number,
  work: (count: number) => Promise<void>,
) {
  await work(count);
  const rates: { readonly perCpu: number; readonly perSecond: number }[] = [];
  for (let run = 0; run < runs; run += 1) {
    const [cpu, start] = [cpuSeconds(server.process.pid), performance.now()];
    await work(count);
    const seconds = (performance.now() - start) / 1000;
    rates.push({ perCpu: count / (cpuSeconds(server.process.pid) - cpu), perSecond: count / seconds });
  }
  const median = rates.toSorted((a, b) => a.perCpu - b.perCpu)[Math.floor(runs / 2)];
  const all = rates.map(({ perCpu }) => perCpu.toFixed(0)).join(', ');
  console.log(
    `${what.padEnd(52)} ${median?.perCpu.toFixed(0).padStart(6)} per CPU second` +
      ` (${all}); ${median?.perSecond.toFixed(0)} per second`,
  );
}

async function run(
  caKeyType: KeyType,
  csrs: ReadonlyMap<KeyType, readonly WorkloadRequest[]>,
): Promise<void> {
  const sandbox = await Sandbox.create();
  try {
    const config = { authority: { caKeyType }, limits: { signing: { perSecond: 0 } } };
    const server = await SignetServer.start(sandbox, { config });
    const adminChannel = unixChannel(server.adminSocket);
    const admin = new AdminClient(adminChannel);
    const agentChannel = await joinAsAgent(server, admin);
    const agent = new ServerClient(agentChannel);
    for (const [keyType, requests] of csrs) {
      // RSA signs at a twentieth of the speed.
      const count = caKeyType.startsWith('ec') ? perRun : Math.ceil(perRun / 10);
      const label = `CA ${caKeyType}, CSR ${keyType}`;
      for (const size of [500, 100]) {
        await measure(server, `${label}: batches of ${size}`, count, (n) =>
          byBatches(agent, requests, size, n),
        );
      }
      await measure(server, `${label}: mint`, count, (n) => byMint(admin, requests, n));
    }
    for (const channel of [agentChannel, adminChannel]) channel.close();
  } finally {
    await sandbox.dispose();
  }
}

console.log(`${machine()}\n${perRun} certificates per run, median of ${runs}\n`);
const p256 = await requestsWith('ec-p256');
await run(
  'ec-p256',
  new Map([
    ['ec-p256', p256],
    ['ec-p384', await requestsWith('ec-p384')],
    ['rsa-2048', await requestsWith('rsa-2048')],
  ]),
);
for (const caKeyType of ['ec-p384', 'rsa-2048'] as const) await run(caKeyType, new Map([['ec-p256', p256]]));
