import type { Socket } from 'node:net';
import { AppError } from '../runtime/error.ts';
import type { Logger } from '../runtime/log.ts';
import { LogLimiter } from '../runtime/log-limiter.ts';
import type { Observable } from '../runtime/observable.ts';
import { type Clock, systemClock } from '../runtime/time.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';
import { CallRunner } from './call-runner.ts';
import type { Caller, Connection } from './caller.ts';
import { type ConnectionGroup, ConnectionTable } from './connections.ts';
import { FailureBudget } from './failure-budget.ts';
import type { AdmitCall, Authorize, GrpcService } from './handlers.ts';
import { takePeer } from './peer-process.ts';
import { ReceiveBudget } from './receive-budget.ts';
import { SessionServer } from './session-server.ts';
import { listenTls, type TlsClient, type TlsIdentity, type VerifyClient } from './tls-listener.ts';
import { UnfinishedRequests } from './unfinished-requests.ts';
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
  /**
   * TLS only: those without a client certificate, and those with one that is refused, each. When one more comes, the
   * oldest of them is closed.
   */
  readonly maxAnonymousConnections: number;
  /** TLS only: when one more comes, the oldest of the same identity is closed. */
  readonly maxConnectionsPerIdentity: number;
  /** TLS only: at the same time. */
  readonly maxHandshakes: number;
  /** TLS only: after this a client is asked to connect, and so to be verified, anew. */
  readonly maxConnectionAgeMs: number;
}

const unixLimits: ListenerLimits = {
  maxConnections: 10_000,
  maxConnectionsPerUid: 2_000,
  maxStreamsPerConnection: 1_024,
  maxReceiveBytes: 1024 * 1024,
  maxAnonymousConnections: 0,
  maxConnectionsPerIdentity: 0,
  maxHandshakes: 1,
  maxConnectionAgeMs: 0,
};

const tlsLimits: ListenerLimits = {
  maxConnections: 10_000,
  maxConnectionsPerUid: 0,
  maxStreamsPerConnection: 256,
  maxReceiveBytes: 1024 * 1024,
  maxAnonymousConnections: 2_000,
  maxConnectionsPerIdentity: 256,
  maxHandshakes: 512,
  maxConnectionAgeMs: 15 * 60_000,
};

/** How long a connection may still finish its calls when it is too old. */
const ageGraceMs = 60_000;
/**
 * What anybody who can reach the port may have. A client without a certificate attests or asks for the bundle, and
 * goes; what it has sent of a request is held in memory before it can be refused.
 */
const anonymousLimits = {
  maxStreamsPerConnection: 4,
  maxReceiveBytes: 64 * 1024,
  maxConnectionAgeMs: 2 * 60_000,
  ageGraceMs: 10_000,
} as const;
/** Who is refused may read why, and goes. */
const refusedLimits = { ...anonymousLimits, maxConnectionAgeMs: 10_000, ageGraceMs: 1_000 } as const;
/** An honest one sends a few KiB in its life. */
const anonymousBytes = { each: 256 * 1024, together: 16 * 1024 * 1024 } as const;
/**
 * Of requests that are not complete, for all connections of one user or identity. Thousands of Envoys, all of one user,
 * may connect at once, each with 60 KiB about itself.
 */
const unfinishedLimits = { lateBytes: 8 * 1024 * 1024, bytes: 256 * 1024 * 1024 } as const;
/** Envoy opens an ended stream again within 0.25 s on the same connection; refusing that too keeps its log quiet. */
const quietMs = 300;
/** For the last frames to leave. */
const closingMs = 250;

interface CommonOptions {
  readonly services: readonly GrpcService[];
  readonly authorize: Authorize;
  /** By path: what methods without a handler answer to who may call them. */
  readonly missing?: Readonly<Record<string, string>>;
  readonly admit?: AdmitCall;
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
  readonly #refusals: LogLimiter;
  readonly #connections: ConnectionTable;
  readonly #identified: SessionServer;
  readonly #anonymous: SessionServer;
  readonly #refused: SessionServer;
  readonly #servers: readonly SessionServer[];
  readonly #anonymousBudget: ReceiveBudget;
  readonly #unfinished: UnfinishedRequests;
  readonly #stopping = new AbortController();
  #acceptor: Acceptor | undefined;
  #stopped: Promise<void> | undefined;

  private constructor(options: CommonOptions, limits: ListenerLimits) {
    const { log, authorize, services } = options;
    this.#clock = options.clock ?? systemClock;
    this.#refusals = new LogLimiter({ clock: this.#clock, log });
    this.#connections = new ConnectionTable(this.#refusals, limits.maxConnections);
    const callerOf = (peer: string) => this.#connections.callerOf(peer);
    const { admit, missing } = options;
    this.#runner = new CallRunner({ callerOf, authorize, admit, missing, log, clock: this.#clock });
    this.#unfinished = new UnfinishedRequests(unfinishedLimits, {
      clock: this.#clock,
      signal: this.#stopping.signal,
      onDrop: () =>
        this.#refusals.write('warn', {}, 'connection dropped: it sent too much of unfinished calls'),
    });
    const { interceptor } = this.#unfinished;
    this.#identified = new SessionServer(services, this.#runner, { ...limits, ageGraceMs, interceptor });
    this.#anonymous = new SessionServer(services, this.#runner, anonymousLimits);
    this.#refused = new SessionServer(services, this.#runner, refusedLimits);
    this.#servers = [this.#identified, this.#anonymous, this.#refused];
    this.#anonymousBudget = new ReceiveBudget(anonymousBytes, {
      clock: this.#clock,
      signal: this.#stopping.signal,
      onDrop: () =>
        this.#refusals.write('warn', {}, 'connection dropped: it sent too much without a certificate'),
    });
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
    const limits = { ...unixLimits, ...options.limits };
    const listener = new GrpcListener(options, limits);
    const { path, mode, peerOf } = options;
    const accept = (socket: Socket) => {
      socket.on('error', () => undefined);
      if (peerOf === 'local') listener.#acceptLocal(socket);
      else listener.#acceptProcess(socket, { ...options, maxPerUid: limits.maxConnectionsPerUid });
    };
    const isPrivate = peerOf === 'local';
    return listener.#accepting(
      await listenUnix({ path, mode, isPrivate, onAcceptError: listener.#onAcceptError }, accept),
    );
  }

  /** Listens with TLS 1.3; see `listenTls`. Port 0 takes a free one. */
  static async tls(
    options: CommonOptions & {
      readonly host: string;
      readonly port: number;
      readonly identity: Observable<TlsIdentity | undefined>;
      readonly verifyClient: VerifyClient;
      readonly handshakeTimeoutMs?: number;
      readonly failures?: FailureBudget;
      readonly postQuantum?: PostQuantum;
    },
  ): Promise<GrpcListener> {
    const limits = { ...tlsLimits, ...options.limits };
    const listener = new GrpcListener(options, limits);
    const { maxHandshakes } = limits;
    return listener.#accepting(
      await listenTls(
        {
          ...options,
          maxHandshakes,
          failures: options.failures ?? new FailureBudget(listener.#clock, { perMinute: 0 }),
          refusals: listener.#refusals,
          onAcceptError: listener.#onAcceptError,
        },
        (socket, client) =>
          listener.#admit(socket, { group: groupOf(client, limits), callerOf: () => client }),
      ),
    );
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
   * Ends the calls, unary ones and streams, of callers that match with `error`. Their connections stay: whether later
   * calls on them are let in is up to `authorize`.
   */
  endCalls(match: (caller: Caller) => boolean, error: AppError): void {
    this.#runner.endCalls(match, error);
  }

  /**
   * Stops quietly: takes no more connections; ends streams with UNAVAILABLE and answers new calls with it for a
   * moment; lets unary calls finish within `graceMs`; then closes all connections.
   */
  stop(graceMs: number): Promise<void> {
    this.#stopped ??= this.#stop(graceMs);
    return this.#stopped;
  }

  #accepting(acceptor: Acceptor): this {
    this.#acceptor = acceptor;
    void this.#connections.sweep(this.#clock, this.#stopping.signal);
    return this;
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
    for (const server of this.#servers) server.drain();
    await this.#atMost(closingMs, this.#connections.empty());
    this.#stopping.abort();
    this.#connections.destroyAll();
    for (const server of this.#servers) server.shutdown();
  }

  async #atMost(ms: number, work: Promise<unknown>): Promise<void> {
    const done = new AbortController();
    await Promise.race([work, this.#clock.sleep(ms, done.signal)]);
    done.abort();
  }

  readonly #onAcceptError = (error: Error): void =>
    this.#refusals.write('warn', { error }, 'connection refused: the system cannot accept it');

  #acceptLocal(socket: Socket): void {
    this.#admit(socket, { callerOf: () => ({ kind: 'local' }) });
  }

  #acceptProcess(
    socket: Socket,
    options: { readonly requirePeerPidfd?: boolean; readonly maxPerUid: number },
  ): void {
    try {
      const peer = takePeer(socket, { requirePeerPidfd: options.requirePeerPidfd ?? false });
      this.#admit(socket, {
        group: { name: `uid ${peer.uid}`, limit: options.maxPerUid },
        callerOf: (connection) => ({ kind: 'process', peer, connection }),
        onClose: () => peer.close(),
      });
    } catch (error) {
      this.#refusals.write('warn', { error }, 'connection refused: its process cannot be identified');
      socket.destroy();
    }
  }

  #admit(
    socket: Socket,
    options: {
      readonly group?: ConnectionGroup;
      readonly callerOf: (connection: Connection) => Caller;
      readonly onClose?: () => void;
    },
  ): void {
    if (!this.#connections.admits(options.group)) {
      options.onClose?.();
      socket.destroy();
      return;
    }
    const { kind } = this.#connections.add(socket, options);
    if (options.group !== undefined && (kind === 'process' || kind === 'svid')) {
      this.#unfinished.add(socket, options.group.name);
    }
    const isNobody = kind === 'anonymous' || kind === 'refused';
    if (isNobody) this.#anonymousBudget.add(socket);
    if (kind === 'refused') this.#refused.serve(socket);
    else (isNobody ? this.#anonymous : this.#identified).serve(socket);
  }
}

/** Whoever is in a group competes for places only with the others of it. */
function groupOf(client: TlsClient, limits: ListenerLimits): ConnectionGroup {
  const { maxAnonymousConnections, maxConnectionsPerIdentity } = limits;
  switch (client.kind) {
    case 'svid':
      return { name: client.id.toString(), limit: maxConnectionsPerIdentity, dropsOldest: true };
    case 'anonymous':
      return { name: 'no certificate', limit: maxAnonymousConnections, dropsOldest: true };
    case 'refused':
      return { name: 'refused certificate', limit: maxAnonymousConnections, dropsOldest: true };
  }
}
