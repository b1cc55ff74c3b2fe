// How many X509-SVIDs a server signs per second of CPU time, by where its keys are: in memory, on disk, in SoftHSM, or in
// memory below a root in SoftHSM. BatchNewX509SVID as an attested agent over TLS in batches of 500 and of 100, P-256
// throughout, as in issuance.ts. SoftHSM computes on the same machine, in a process of its own: the rate with its CPU
// time is printed too. With an HSM that computes elsewhere only that of the server counts here, and what the HSM can do.
//
//   make bench BENCH=topologies      (or: node bench/topologies.ts [certificates per run])
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetServer } from '../e2e/support/signet.ts';
import { createSoftHsm, softHsmModule } from '../src/testing/soft-hsm.ts';
import { byBatches, measure, openSigning, requestsWith } from './signing/load.ts';
import { busySeconds, machine } from './support.ts';

const perRun = Number(process.argv[2] ?? 20_000);
const runs = 3;

const topologies = {
  memory: { keyManager: { memory: {} } },
  disk: { keyManager: { disk: {} } },
  'SoftHSM direct': { keyManager: 'hsm' },
  'root in SoftHSM, signs in memory': {
    keyManager: { memory: {} },
    upstreamAuthority: { local_root: { keyManager: 'hsm' } },
  },
} as const;

const requests = await requestsWith('ec-p256');

/** With the key manager of the HSM where it says `hsm`. */
async function configIn(sandbox: Sandbox, topology: object): Promise<object> {
  const text = JSON.stringify(topology);
  if (!text.includes('"hsm"')) return topology;
  const dir = join(sandbox.dir, 'hsm');
  await mkdir(dir);
  const { module, tokenLabel, pinFile } = (await createSoftHsm(dir)).config();
  return JSON.parse(text.replace('"hsm"', JSON.stringify({ pkcs11: { module, tokenLabel, pinFile } })));
}

async function run(name: string, topology: object): Promise<void> {
  const sandbox = await Sandbox.create();
  try {
    const config = { ...(await configIn(sandbox, topology)), limits: { signing: { perSecond: 0 } } };
    const server = await SignetServer.start(sandbox, { config });
    const { agent, close } = await openSigning(server);
    sandbox.onDispose(close);
    for (const size of [500, 100]) {
      await measure(server, `${name}: batches of ${size}`, { count: perRun, runs }, (n) =>
        byBatches(agent, requests, size, n),
      );
    }
  } finally {
    await sandbox.dispose();
  }
}

console.log(`${machine()}\n${perRun} certificates per run, median of ${runs}\n`);
const [busy, start] = [busySeconds(), performance.now()];
for (const [name, topology] of Object.entries(topologies)) {
  if (softHsmModule === undefined && name.includes('SoftHSM')) {
    console.log(`${name}: left out, SoftHSM is not installed (apt-get install softhsm2)`);
  } else await run(name, topology);
}
const cores = ((busySeconds() - busy) * 1000) / (performance.now() - start);
console.log(`\nin use of the machine meanwhile, this bench included: ${cores.toFixed(1)} cores`);
