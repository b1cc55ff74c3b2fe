// How many X509-SVIDs a server signs per second of its own CPU time: BatchNewX509SVID as an attested agent over TLS
// (batches of 500 and of 100), and MintX509SVID at the admin socket (one per call, 64 calls in flight); with each
// type of CA key, and for requests with each type of key. The requests are made beforehand, and the server is a
// process of its own, so what counts is only what it does: TLS, gRPC, checking, linting, signing.
//
//   make bench BENCH=issuance        (or: node bench/issuance.ts [certificates per run])
import { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetServer } from '../e2e/support/signet.ts';
import type { KeyType } from '../src/x509/signature.ts';
import {
  byBatches,
  byMint,
  measure,
  openSigning,
  requestsWith,
  type WorkloadRequest,
} from './signing/load.ts';
import { machine } from './support.ts';

const perRun = Number(process.argv[2] ?? 20_000);
const runs = 3;

async function run(
  caKeyType: KeyType,
  csrs: ReadonlyMap<KeyType, readonly WorkloadRequest[]>,
): Promise<void> {
  const sandbox = await Sandbox.create();
  try {
    const config = { authority: { caKeyType }, limits: { signing: { perSecond: 0 } } };
    const server = await SignetServer.start(sandbox, { config });
    const { admin, agent, close } = await openSigning(server);
    sandbox.onDispose(close);
    for (const [keyType, requests] of csrs) {
      // RSA signs at a twentieth of the speed.
      const count = caKeyType.startsWith('ec') ? perRun : Math.ceil(perRun / 10);
      const label = `CA ${caKeyType}, CSR ${keyType}`;
      for (const size of [500, 100]) {
        await measure(server, `${label}: batches of ${size}`, { count, runs }, (n) =>
          byBatches(agent, requests, size, n),
        );
      }
      await measure(server, `${label}: mint`, { count, runs }, (n) => byMint(admin, requests, n));
    }
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
