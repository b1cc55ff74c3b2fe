import type { SignetServer } from '../../e2e/support/signet.ts';
import { AdminClient } from '../../src/clients/admin/admin-client.ts';
import { ServerClient } from '../../src/clients/server-client.ts';
import { verifyServerChain } from '../../src/clients/server-verification.ts';
import { type ClientChannel, tlsChannel, unixChannel } from '../../src/rpc/grpc-client.ts';
import { AppError } from '../../src/runtime/error.ts';
import { newEntry } from '../../src/spiffe/registration-entry.ts';
import { SpiffeId, TrustDomain } from '../../src/spiffe/spiffe-id.ts';
import type { Certificate } from '../../src/x509/certificate.ts';
import { buildCsr } from '../../src/x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey, type KeyType } from '../../src/x509/signature.ts';
import { childrenOf, cpuSeconds } from '../support.ts';

const workloads = 500;
const inFlight = 64;

/** A certificate that is asked for. */
export interface WorkloadRequest {
  readonly entryId: string;
  readonly csr: Uint8Array;
}

const idOf = (i: number) => `spiffe://example.org/bench/workload-${i}`;
const signal = () => AbortSignal.timeout(120_000);

/** One request of each workload, made beforehand, with keys of this type. */
export async function requestsWith(type: KeyType): Promise<readonly WorkloadRequest[]> {
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

/** Has `count` certificates signed, so many in one call. */
export async function byBatches(
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

/** Has `count` certificates minted, one per call. */
export async function byMint(admin: AdminClient, requests: readonly WorkloadRequest[], count: number) {
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

/** A server with its workloads registered, and who asks it. */
export interface Signing {
  readonly server: SignetServer;
  readonly admin: AdminClient;
  readonly agent: ServerClient;
  close(): void;
}

/** Registers the workloads and joins as their agent. */
export async function openSigning(server: SignetServer): Promise<Signing> {
  const adminChannel = unixChannel(server.adminSocket);
  const admin = new AdminClient(adminChannel);
  const agentChannel = await joinAsAgent(server, admin);
  const close = () => {
    for (const channel of [agentChannel, adminChannel]) channel.close();
  };
  return { server, admin, agent: new ServerClient(agentChannel), close };
}

/** Certificates per CPU second and per second. */
interface Rate {
  readonly perCpu: number;
  /** The same with the processes that the server has started: that which runs the module of an HSM. */
  readonly perCpuOfAll: number;
  readonly perSecond: number;
}

/** Prints the median of the runs, after one that only warms up. */
export async function measure(
  server: SignetServer,
  what: string,
  { count, runs }: { readonly count: number; readonly runs: number },
  work: (count: number) => Promise<void>,
): Promise<void> {
  await work(count);
  const { pid } = server.process;
  const helpers = childrenOf(pid);
  const cpuNow = () => ({
    own: cpuSeconds(pid),
    helpers: helpers.reduce((sum, helper) => sum + cpuSeconds(helper), 0),
  });
  const rates: Rate[] = [];
  for (let run = 0; run < runs; run += 1) {
    const [before, start] = [cpuNow(), performance.now()];
    await work(count);
    const perSecond = (count * 1000) / (performance.now() - start);
    const after = cpuNow();
    const own = after.own - before.own;
    const all = own + after.helpers - before.helpers;
    rates.push({ perCpu: count / own, perCpuOfAll: count / all, perSecond });
  }
  const median = rates.toSorted((a, b) => a.perCpu - b.perCpu)[Math.floor(runs / 2)];
  const all = rates.map(({ perCpu }) => perCpu.toFixed(0)).join(', ');
  const withHelpers =
    helpers.length === 0 ? '' : `; ${median?.perCpuOfAll.toFixed(0)} with the HSM's process`;
  console.log(
    `${what.padEnd(52)} ${median?.perCpu.toFixed(0).padStart(6)} per CPU second` +
      ` (${all})${withHelpers}; ${median?.perSecond.toFixed(0)} per second`,
  );
}
