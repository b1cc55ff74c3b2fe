import type { Socket } from 'node:net';
import { type ConnectionInjector, Server, ServerCredentials } from '@grpc/grpc-js';
import { AppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import type { Observable } from '../runtime/observable.ts';
import { type Clock, systemClock } from '../runtime/time.ts';
import { CallRunner } from './call-runner.ts';
import { ConnectionTable, RefusalLog } from './connections.ts';
import type { Authorize, GrpcService } from './handlers.ts';
import { takePeer } from './peer-process.ts';
import { listenTls, type TlsIdentity, type VerifyClient } from './tls-listener.ts';
import { type Acceptor, listenUnix } from './unix-listener.ts';

/** Bounds that protect a listener; 0 = no limit where not said otherwise. */
export interface ListenerLimits {
  readonly maxConnections: number;
  /** Unix sockets that identify processes only. */
  readonly maxConnectionsPerUid: number;
  /** At least 1. */
  readonly maxStreamsPerConnection: number;
  /** Of one message. */
  readonly maxReceiveBytes: number;
  /** TLS only; at least 1. */
  readonly maxHandshakes: number;
  /** TLS only: after this a client is asked to connect, and so to be verified, anew. */
  readonly maxConnectionAgeMs: number;
}

const unixLimits: ListenerLimits = {
  maxConnections: 10_000,
  maxConnectionsPerUid: 2_000,
  maxStreamsPerConnection: 1_024,
  maxReceiveBytes: 1024 * 1024,
  maxHandshakes: 1,
  maxConnectionAgeMs: 0,
};

const tlsLimits: ListenerLimits = {
  maxConnections: 10_000,
  maxConnectionsPerUid: 0,
  maxStreamsPerConnection: 256,
  maxReceiveBytes: 4 * 1024 * 1024,
  maxHandshakes: 512,
  maxConnectionAgeMs: 15 * 60_000,
};

/** A connection that says nothing for this long is asked for a sign of life, and gets the second time to give one. */
const keepaliveMs = 30_000;
const keepaliveTimeoutMs = 20_000;
/** How long a connection may still finish its calls when it is too old. */
const ageGraceMs = 60_000;
/** Envoy opens an ended stream again within 0.25 s on the same connection; refusing that too keeps its log quiet. */
const quietMs = 300;
/** For the last frames to leave. */
const closingMs = 250;

interface CommonOptions {
  readonly services: readonly GrpcService[];
  readonly authorize: Authorize;
  readonly limits?: Partial<ListenerLimits>;
  readonly log: Logger;
  readonly clock?: Clock;
}

/**
 * One gRPC listener, on a Unix socket or on TCP with TLS. It accepts connections itself, finds out who is at the
 * other end, once, and only then hands them to grpc-js; each call gets its caller from its connection.
 */
export class GrpcListener {
  readonly #clock: Clock;
  readonly #runner: CallRunner;
  readonly #refusals: RefusalLog;
  readonly #connections: ConnectionTable;
  readonly #server: Server;
  readonly #injector: ConnectionInjector;
  #acceptor: Acceptor | undefined;
  #stopped: Promise<void> | undefined;

  private constructor(options: CommonOptions, limits: ListenerLimits) {
    const { log, authorize, services } = options;
    this.#clock = options.clock ?? systemClock;
    this.#refusals = new RefusalLog({ clock: this.#clock, log });
    this.#connections = new ConnectionTable(this.#refusals, {
      total: limits.maxConnections,
      perGroup: limits.maxConnectionsPerUid,
    });
    this.#runner = new CallRunner({ callerOf: (peer) => this.#connections.callerOf(peer), authorize, log });
    this.#server = new Server(serverOptions(limits));
    for (const service of services) {
      this.#server.addService(service.definition, this.#runner.implementationOf(service));
    }
    this.#injector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
  }

  /**
   * Listens on a Unix socket: `local` for one whose file permissions are the access control (its directory is made
   * private), `process` for one that anybody may open and where the kernel names each caller.
   */
  static async unix(
    options: CommonOptions & {
      readonly path: string;
      readonly mode: number;
      readonly peerOf: 'local' | 'process';
      /** Refuse callers where the kernel cannot name them race-free (Linux before 6.5). */
      readonly requirePeerPidfd?: boolean;
    },
  ): Promise<GrpcListener> {
    const listener = new GrpcListener(options, { ...unixLimits, ...options.limits });
    const { path, mode, peerOf } = options;
    const accept = (socket: Socket) => {
      socket.on('error', () => undefined);
      if (peerOf === 'local') listener.#acceptLocal(socket);
      else listener.#acceptProcess(socket, options);
    };
    listener.#acceptor = await listenUnix(
      { path, mode, isPrivate: peerOf === 'local', onAcceptError: listener.#onAcceptError },
      accept,
    );
    return listener;
  }

  /** Listens with TLS 1.3; see `listenTls`. Port 0 takes a free one. */
  static async tls(
    options: CommonOptions & {
      readonly host: string;
      readonly port: number;
      readonly identity: Observable<TlsIdentity | undefined>;
      readonly verifyClient: VerifyClient;
      readonly handshakeTimeoutMs?: number;
    },
  ): Promise<GrpcListener> {
    const limits = { ...tlsLimits, ...options.limits };
    const listener = new GrpcListener(options, limits);
    listener.#acceptor = await listenTls(
      { ...options, maxHandshakes: limits.maxHandshakes, onAcceptError: listener.#onAcceptError },
      (socket, client) => {
        const { address, svid } = client;
        const callerOf = () =>
          svid === undefined
            ? ({ kind: 'anonymous', address } as const)
            : ({ kind: 'svid', ...svid, address } as const);
        listener.#admit(socket, { callerOf });
      },
    );
    return listener;
  }

  /** The socket's path, or `HOST:PORT` as bound. */
  get address(): string {
    return this.#acceptor?.address ?? '';
  }

  /** How many connections are open. */
  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Stops quietly: takes no more connections; ends streams with UNAVAILABLE and answers new calls with it for a
   * moment; lets unary calls finish within `graceMs`; then closes all connections.
   */
  stop(graceMs: number): Promise<void> {
    this.#stopped ??= this.#stop(graceMs);
    return this.#stopped;
  }

  async #stop(graceMs: number): Promise<void> {
    const stopping = new AppError('unavailable', 'shutting down');
    this.#acceptor?.close();
    this.#runner.refuse(stopping);
    await this.#atMost(
      graceMs,
      Promise.all([this.#runner.idle(), this.#atMost(quietMs, this.#connections.empty())]),
    );
    this.#runner.stopAll(stopping);
    this.#injector.destroy();
    await this.#atMost(closingMs, this.#connections.empty());
    this.#connections.destroyAll();
    this.#server.forceShutdown();
  }

  async #atMost(ms: number, work: Promise<unknown>): Promise<void> {
    const done = new AbortController();
    await Promise.race([work, this.#clock.sleep(ms, done.signal)]);
    done.abort();
  }

  readonly #onAcceptError = (error: Error): void =>
    this.#refusals.note({ error }, 'the system cannot accept it');

  #acceptLocal(socket: Socket): void {
    this.#admit(socket, { callerOf: () => ({ kind: 'local' }) });
  }

  #acceptProcess(socket: Socket, options: { readonly requirePeerPidfd?: boolean }): void {
    try {
      const peer = takePeer(socket, { requirePeerPidfd: options.requirePeerPidfd ?? false });
      this.#admit(socket, {
        group: peer.uid,
        callerOf: (connection) => ({ kind: 'process', peer, connection }),
        onClose: () => peer.close(),
      });
    } catch (error) {
      this.#refusals.note({ error }, 'its process cannot be identified');
      socket.destroy();
    }
  }

  #admit(socket: Socket, options: Parameters<ConnectionTable['add']>[1]): void {
    if (!this.#connections.admits(options.group)) {
      options.onClose?.();
      socket.destroy();
      return;
    }
    this.#connections.add(socket, options);
    this.#injector.injectConnection(socket);
  }
}

function serverOptions(limits: ListenerLimits): ConstructorParameters<typeof Server>[0] {
  const { maxConnectionAgeMs } = limits;
  const age =
    maxConnectionAgeMs === 0
      ? {}
      : { 'grpc.max_connection_age_ms': maxConnectionAgeMs, 'grpc.max_connection_age_grace_ms': ageGraceMs };
  return {
    // Otherwise every call is accounted for in a process-wide registry.
    'grpc.enable_channelz': 0,
    'grpc.max_concurrent_streams': limits.maxStreamsPerConnection,
    'grpc.max_receive_message_length': limits.maxReceiveBytes === 0 ? -1 : limits.maxReceiveBytes,
    'grpc.keepalive_time_ms': keepaliveMs,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    ...age,
  };
}
