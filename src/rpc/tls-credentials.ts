import { isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { CallCredentials, ChannelCredentials } from '@grpc/grpc-js';
import { AppError } from '../runtime/error.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';
import type { Certificate } from '../x509/certificate.ts';
import { findNegotiatedGroup, KeyExchange } from './key-exchange.ts';
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
  /** `prefer` unless given. */
  readonly postQuantum?: PostQuantum;
  /** Told with each connection which key exchange it has, such as `X25519MLKEM768`; undefined when Node does not tell. */
  readonly onKeyExchange?: (group: string | undefined) => void;
}

type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>;

const handshakeTimeoutMs = 10_000;

/** Channel credentials for TLS 1.3 between SPIFFE identities; grpc-js's own insist on host names. */
export class SpiffeTlsCredentials extends ChannelCredentials {
  readonly #host: string;
  readonly #tls: ClientTls;
  readonly #keyExchange: KeyExchange;

  /** Throws `failed-precondition` when `tls.postQuantum` asks for what OpenSSL lacks. */
  constructor(host: string, tls: ClientTls) {
    super();
    this.#host = host;
    this.#tls = tls;
    this.#keyExchange = new KeyExchange(tls.postQuantum ?? 'prefer');
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
        socket: await secure(socket, this.#host, { ...this.#tls, keyExchange: this.#keyExchange }),
        secure: true,
      }),
      waitForReady: async () => undefined,
      getCallCredentials: () => callCredentials ?? CallCredentials.createEmpty(),
      destroy: () => undefined,
    };
  }
}

type Handshake = ClientTls & { readonly keyExchange: KeyExchange };

async function secure(tcp: Socket, host: string, tls: Handshake): Promise<TLSSocket> {
  const socket = connect(connectionOptions(tcp, host, tls));
  try {
    await handshake(socket, tls.keyExchange);
    verify(socket, tls);
    tls.onKeyExchange?.(findNegotiatedGroup(socket));
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

function connectionOptions(socket: Socket, host: string, tls: Handshake): ConnectionOptions {
  return {
    socket,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.3',
    ecdhCurve: tls.keyExchange.ecdhCurve,
    // The verdict is `verify` below; the handshake itself always proves that the server holds the leaf's key.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    // RFC 6066 §3: no literal addresses.
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(tls.certificateChainPem === undefined ? {} : { cert: tls.certificateChainPem }),
    ...(tls.privateKeyPem === undefined ? {} : { key: tls.privateKeyPem }),
  };
}

function handshake(socket: TLSSocket, keyExchange: KeyExchange): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(failed('TLS handshake: no answer in time')), handshakeTimeoutMs);
    const settle = (outcome: () => void) => () => {
      clearTimeout(timer);
      outcome();
    };
    socket.once('secureConnect', settle(resolve));
    // Stays: an error after the verdict must not go unheard before the HTTP/2 session listens.
    socket.on('error', (cause) =>
      settle(() =>
        reject(failed('TLS handshake failed', keyExchange.findClientRefusal(cause) ?? cause.message)),
      )(),
    );
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

function failed(message: string, why?: string): AppError {
  // grpc-js keeps only the text.
  return new AppError('unavailable', why === undefined ? message : `${message}: ${why}`);
}
