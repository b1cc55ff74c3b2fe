/**
 * A program that speaks mTLS by itself, without Envoy: it tells each caller who it is. Run by the demo with
 * SPIFFE_ENDPOINT_SOCKET set and the SPIFFE ID that may call as argument.
 */
import { createServer, type TLSSocket } from 'node:tls';
import { WorkloadClient, type WorkloadX509Update } from '../src/clients/workload-client.ts';
import { errorText } from '../src/runtime/error.ts';
import { ownSvid, tlsOptions, verifyPeer } from './tls-identity.ts';

const [allowed = ''] = process.argv.slice(2);
let identity: WorkloadX509Update;

const server = createServer({ requestCert: true, rejectUnauthorized: true }, serve);
server.on('tlsClientError', (error) => console.log(`refused: ${error.message}`));

for await (identity of WorkloadClient.connect().watchX509Svids(new AbortController().signal)) {
  // For connections from now on; those that are open keep what they were opened with.
  server.setSecureContext(tlsOptions(identity));
  console.log(`serial ${ownSvid(identity).svid.leaf.serialHex}`);
  if (!server.listening) server.listen(0, '127.0.0.1', () => console.log(`port ${portOf(server.address())}`));
}

function serve(socket: TLSSocket): void {
  socket.on('error', (error) => console.log(`connection lost: ${error.message}`));
  try {
    verifyPeer(socket, identity, allowed);
    socket.end(allowed);
  } catch (error) {
    console.log(`refused: ${errorText(error)}`);
    socket.destroy();
  }
}

function portOf(address: ReturnType<typeof server.address>): number {
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
