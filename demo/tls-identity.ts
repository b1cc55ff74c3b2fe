import { constants } from 'node:crypto';
import type { SecureContextOptions, TLSSocket } from 'node:tls';
import type { WorkloadX509Svid, WorkloadX509Update } from '../src/clients/workload-client.ts';
import { peerChain } from '../src/rpc/peer-chain.ts';
import { verifyX509Svid } from '../src/spiffe/x509-svid.ts';

/** The identity that the agent gave; throws when it gave none, or has taken it away. */
export function ownSvid(update: WorkloadX509Update): WorkloadX509Svid {
  const [own] = update.svids;
  if (own === undefined) throw new Error('this process has no identity any more');
  return own;
}

/** What node:tls needs for mTLS with this identity. */
export function tlsOptions(update: WorkloadX509Update): SecureContextOptions {
  const { svid, privateKeyPem, bundle } = ownSvid(update);
  return {
    cert: svid.chain.map((certificate) => certificate.toPem()).join(''),
    key: privateKeyPem,
    ca: bundle.toPem(),
    minVersion: 'TLSv1.3',
    // A resumed session would outlive the certificate that it was opened with.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** Throws unless the other side has proved to be `expected`: TLS knows roots and host names, not SPIFFE IDs. */
export function verifyPeer(socket: TLSSocket, update: WorkloadX509Update, expected: string): void {
  const { id } = verifyX509Svid({
    chain: peerChain(socket),
    bundles: (trustDomain) => update.bundles.get(trustDomain.name),
    nowMs: Date.now(),
  });
  if (id.toString() !== expected) throw new Error(`expected "${expected}", "${id}" came`);
}
