import { constants } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import {
  createServer as createTlsServer,
  type TLSSocket,
  type TlsOptions,
  type Server as TlsServer,
} from 'node:tls';
import { AppError, errorText } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import type { LogLimiter } from '../runtime/log-limiter.ts';
import type { Observable } from '../runtime/observable.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { Caller } from './caller.ts';
import type { FailureBudget } from './failure-budget.ts';
import { KeyExchange } from './key-exchange.ts';
import { peerChain } from './peer-chain.ts';
import { PendingHandshakes } from './pending-handshakes.ts';
import { type Acceptor, listenBacklog } from './unix-listener.ts';

/** What the listener presents and which roots it accepts clients from; all PEM. */
export interface TlsIdentity {
  readonly certificateChainPem: string;
  readonly privateKeyPem: string;
  readonly clientCaPem: string;
}

/** Decides from the parsed chain, leaf first, who the client is; throws when it is nobody. */
export type VerifyClient = (chain: readonly Certificate[]) => SpiffeId;

/** A client as TLS has proved it. */
export type TlsClient = Extract<Caller, { readonly kind: 'anonymous' | 'svid' | 'refused' }>;

const handshakeTimeoutMs = 10_000;
/** A client speaks first (RFC 8446 §2): who connects and says nothing wants only the place. */
const firstByteMs = 3_000;

interface TlsListenerOptions {
  readonly host: string;
  readonly port: number;
  readonly identity: Observable<TlsIdentity | undefined>;
  readonly verifyClient: VerifyClient;
  /** Handshakes at the same time; when one more comes, the oldest is cut off. 0 = no limit. */
  readonly maxHandshakes: number;
  /** Charged for what fails; while handshakes are scarce, addresses that have used it up get none. */
  readonly failures: FailureBudget;
  readonly handshakeTimeoutMs?: number;
  /** `prefer` unless given. */
  readonly postQuantum?: PostQuantum;
  readonly log: Logger;
  /** For what anybody can provoke. */
  readonly refusals: LogLimiter;
  /** A connection that the system could not accept, such as for want of descriptors. */
  readonly onAcceptError: (error: Error) => void;
}

/**
 * Listens with TLS 1.3 and ALPN `h2`. A client certificate is optional; with one that OpenSSL or `verifyClient` does
 * not accept a client is `refused`: it may be told why, and nothing else. A new `identity` counts for new connections.
 * Sessions are never resumed: a resumed session would skip the verification.
 */
export async function listenTls(
  options: TlsListenerOptions,
  onConnection: (socket: TLSSocket, client: TlsClient) => void,
): Promise<Acceptor> {
  const { identity, log, postQuantum = 'prefer' } = options;
  const keyExchange = new KeyExchange(postQuantum);
  const tls = createTlsServer({
    ...contextOf(identity.value, keyExchange),
    requestCert: true,
    // Without a certificate a client may come in; one with a bad certificate is told so, see `clientOf`.
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    handshakeTimeout: options.handshakeTimeoutMs ?? handshakeTimeoutMs,
  });
  const server = acceptTcp(tls, { ...options, keyExchange }, onConnection);
  await listening(server, options);
  const unsubscribe = identity.subscribe(() => {
    try {
      tls.setSecureContext(contextOf(identity.value, keyExchange));
    } catch (error) {
      log.error({ error }, 'the new TLS certificate cannot be used; the old one stays');
    }
  });
  return {
    address: boundAddress(server),
    close() {
      unsubscribe();
      server.close();
    },
  };
}

/** Takes TCP connections itself, in front of Node's TLS server, to bound those that have not finished the handshake. */
function acceptTcp(
  tls: TlsServer,
  options: TlsListenerOptions & { readonly keyExchange: KeyExchange },
  onConnection: (socket: TLSSocket, client: TlsClient) => void,
): Server {
  const { verifyClient, maxHandshakes, handshakeTimeoutMs: timeoutMs, refusals, failures } = options;
  const { keyExchange } = options;
  const limits = { max: maxHandshakes, firstByteMs: Math.min(firstByteMs, timeoutMs ?? firstByteMs) };
  const handshakes = new PendingHandshakes(limits, {
    isSuspect: (address) => failures.waitMs(address) > 0,
    onFailed: (address) => failures.charge(address),
    onDrop: () =>
      refusals.write(
        'warn',
        { limit: maxHandshakes },
        'connection dropped: too many TLS handshakes are open',
      ),
  });
  tls.on('tlsClientError', (error, socket) => {
    const address = addressOf(socket);
    const refusal = keyExchange.findServerRefusal(error);
    if (refusal === undefined) refusals.write('debug', { error, address }, 'TLS handshake failed');
    else refusals.write('info', { address, error: refusal }, 'TLS client refused', 'key exchange');
    // Node leaves it open when the handshake was too slow.
    socket.destroy();
  });
  tls.on('secureConnection', (socket) => {
    // Nobody else listens for the errors of a connection that its client drops.
    socket.on('error', () => undefined);
    handshakes.done(socket);
    const address = addressOf(socket);
    try {
      requireHttp2(socket);
      const client = clientOf(socket, address, verifyClient);
      if (client.kind === 'refused') {
        failures.charge(address);
        refusals.write('info', { address, error: client.refusal }, 'TLS client refused');
      }
      onConnection(socket, client);
    } catch (error) {
      failures.charge(address);
      refusals.write('info', { address, error }, 'TLS client refused');
      socket.destroy();
    }
  });
  return createServer((socket) => {
    socket.on('error', () => undefined);
    // It broke off in the queue.
    if (socket.remoteAddress === undefined) {
      socket.destroy();
      return;
    }
    if (handshakes.add(socket, addressOf(socket))) tls.emit('connection', socket);
  });
}

/** Throws when the connection cannot be served. */
function requireHttp2(socket: TLSSocket): void {
  if (socket.alpnProtocol !== 'h2') throw refused('the client does not speak HTTP/2 (ALPN h2)');
  if (socket.isSessionReused()) throw refused('the client resumed a session');
}

function clientOf(socket: TLSSocket, address: string, verifyClient: VerifyClient): TlsClient {
  try {
    const chain = peerChain(socket);
    const [certificate] = chain;
    if (certificate === undefined) return { kind: 'anonymous', address };
    const claimed = requireOneUri(certificate);
    if (!socket.authorized) {
      // On this side of a connection Node gives OpenSSL's name for it, a text, whatever its types say.
      const reason = String(socket.authorizationError ?? 'unknown reason');
      throw refused(`the client certificate of "${claimed}" does not verify: ${reason}`);
    }
    // OpenSSL has all roots in one pool; this check uses only those of the certificate's own trust domain.
    return { kind: 'svid', id: verifyClient(chain), certificate, address };
  } catch (error) {
    return { kind: 'refused', refusal: refused(errorText(error)), address };
  }
}

/** In SPIRE's words, which people search for; the profile of an SVID asks for the same. */
function requireOneUri({ uris }: Certificate): SpiffeId {
  if (uris.length === 0) throw refused('client certificate has no URI SAN');
  if (uris.length > 1) throw refused('client certificate has more than one URI SAN');
  try {
    return SpiffeId.parse(uris[0] ?? '');
  } catch (error) {
    throw refused(`client certificate has a malformed URI SAN: ${errorText(error)}`);
  }
}

function contextOf(identity: TlsIdentity | undefined, { ecdhCurve }: KeyExchange): TlsOptions {
  if (identity === undefined)
    throw new AppError('failed-precondition', 'there is no TLS certificate to listen with yet');
  // Without roots Node would fall back to those of the public web.
  if (!identity.clientCaPem.includes('-----BEGIN CERTIFICATE-----')) {
    throw new AppError('failed-precondition', 'there are no roots to verify TLS clients with');
  }
  return {
    cert: identity.certificateChainPem,
    key: identity.privateKeyPem,
    ca: identity.clientCaPem,
    // A root of a bundle need not be self-signed.
    allowPartialTrustChain: true,
    minVersion: 'TLSv1.3',
    ecdhCurve,
    // With no session store either, tickets cannot be used again.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

async function listening(
  server: Server,
  options: {
    readonly host: string;
    readonly port: number;
    readonly onAcceptError: (error: Error) => void;
  },
): Promise<void> {
  const { host, port, onAcceptError } = options;
  await new Promise<void>((done, failed) => {
    server.once('error', failed);
    server.listen({ host, port, backlog: listenBacklog }, () => {
      server.off('error', failed);
      server.on('error', onAcceptError);
      done();
    });
  }).catch((cause: unknown) => {
    throw new AppError('failed-precondition', `cannot listen on ${hostPort(host, port)}`, { cause });
  });
}

function boundAddress(server: Server): string {
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? hostPort(bound.address, bound.port) : '';
}

function addressOf(socket: Socket): string {
  const { remoteAddress, remotePort } = socket;
  return remoteAddress === undefined ? 'unknown' : hostPort(remoteAddress, remotePort ?? 0);
}

function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function refused(message: string): AppError {
  return new AppError('unauthenticated', message);
}
