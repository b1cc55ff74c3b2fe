/**
 * A program that speaks mTLS by itself, without Envoy: it calls a service many times a second, each time on a new
 * connection. Run by the demo with SPIFFE_ENDPOINT_SOCKET set; arguments: port, SPIFFE ID of the service, rate.
 */
import { connect, type TLSSocket } from 'node:tls';
import { WorkloadClient, type WorkloadX509Update } from '../src/clients/workload-client.ts';
import { errorText } from '../src/runtime/error.ts';
import { ownSvid, tlsOptions, verifyPeer } from './tls-identity.ts';

const [port, service = '', perSecond] = process.argv.slice(2);
let identity: WorkloadX509Update;
let isCalling = false;

for await (identity of WorkloadClient.connect().watchX509Svids(new AbortController().signal)) {
  console.log(`serial ${ownSvid(identity).svid.leaf.serialHex}`);
  if (!isCalling) setInterval(callAndTell, 1_000 / Number(perSecond));
  isCalling = true;
}

function callAndTell(): void {
  call().then(
    (caller) => console.log(`called ${service} as ${caller}`),
    (error: unknown) => console.log(`failed: ${errorText(error)}`),
  );
}

/** One call; returns as whom the service knows us. */
async function call(): Promise<string> {
  const socket = connect({
    host: '127.0.0.1',
    port: Number(port),
    ...tlsOptions(identity),
    // SVIDs carry no host names: the name is verified once the handshake is done.
    checkServerIdentity: () => undefined,
    timeout: 5_000,
  });
  socket.on('timeout', () => socket.destroy(new Error('no answer')));
  socket.on('secureConnect', () => verifyOrDestroy(socket));
  let answer = '';
  for await (const data of socket.setEncoding('utf8')) answer += data;
  if (answer === '') throw new Error('closed without an answer');
  return answer;
}

function verifyOrDestroy(socket: TLSSocket): void {
  try {
    verifyPeer(socket, identity, service);
  } catch (error) {
    socket.destroy(error instanceof Error ? error : new Error(String(error)));
  }
}
