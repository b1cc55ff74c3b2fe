import { isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { CallCredentials, ChannelCredentials } from '@grpc/grpc-js';
import { AppError } from '../runtime/error.ts';
import type { Certificate } from '../x509/certificate.ts';
import { peerChain } from './peer-chain.ts';

/** How a TLS channel proves itself and whom it believes. PEM; the client certificate is optional. */
export interface ClientTls {
  /**
   * Throws unless the chain that the server presented, leaf first, verifies and names the right server. Nobody else
   * checks it: there is no host name to compare.
   */
  readonly verifyServer: (chain: readonly Certificate[]) => void;
  readonly certificateChainPem?: string;
  /** PKCS#8. */
  readonly privateKeyPem?: string;
}

type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>;

const handshakeTimeoutMs = 10_000;

/** Channel credentials for TLS 1.3 between SPIFFE identities; grpc-js's own insist on host names. */
export class SpiffeTlsCredentials extends ChannelCredentials {
  readonly #host: string;
  readonly #tls: ClientTls;

  constructor(host: string, tls: ClientTls) {
    super();
    this.#host = host;
    this.#tls = tls;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(
    _target: unknown,
    _options: unknown,
    callCredentials?: CallCredentials,
  ): SecureConnector {
    return {
      connect: async (socket: Socket) => ({
        socket: await secure(socket, this.#host, this.#tls),
        secure: true,
      }),
      waitForReady: async () => undefined,
      getCallCredentials: () => callCredentials ?? CallCredentials.createEmpty(),
      destroy: () => undefined,
    };
  }
}

async function secure(tcp: Socket, host: string, tls: ClientTls): Promise<TLSSocket> {
  const socket = connect(connectionOptions(tcp, host, tls));
  try {
    await handshake(socket);
    verify(socket, tls);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

function connectionOptions(socket: Socket, host: string, tls: ClientTls): ConnectionOptions {
  return {
    socket,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.3',
    // The verdict is `verify` below; the handshake itself always proves that the server holds the leaf's key.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    // RFC 6066 §3: no literal addresses.
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(tls.certificateChainPem === undefined ? {} : { cert: tls.certificateChainPem }),
    ...(tls.privateKeyPem === undefined ? {} : { key: tls.privateKeyPem }),
  };
}

function handshake(socket: TLSSocket): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(failed('TLS handshake: no answer in time')), handshakeTimeoutMs);
    const settle = (outcome: () => void) => () => {
      clearTimeout(timer);
      outcome();
    };
    socket.once('secureConnect', settle(resolve));
    // Stays: an error after the verdict must not go unheard before the HTTP/2 session listens.
    socket.on('error', (cause) => settle(() => reject(failed('TLS handshake failed', cause)))());
    socket.once(
      'close',
      settle(() => reject(failed('TLS handshake: the server closed the connection'))),
    );
  });
}

function verify(socket: TLSSocket, tls: ClientTls): void {
  if (socket.alpnProtocol !== 'h2') throw failed('the server does not speak HTTP/2 (ALPN h2)');
  const chain = peerChain(socket);
  if (chain.length === 0) throw new AppError('unauthenticated', 'the server presented no certificate');
  tls.verifyServer(chain);
}

function failed(message: string, cause?: Error): AppError {
  // grpc-js keeps only the text.
  return new AppError('unavailable', cause === undefined ? message : `${message}: ${cause.message}`);
}
