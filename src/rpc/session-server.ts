import type { Socket } from 'node:net';
import { type ConnectionInjector, Server, ServerCredentials, type ServerInterceptor } from '@grpc/grpc-js';
import type { CallRunner } from './call-runner.ts';
import { silenceGrpc } from './grpc-log.ts';
import type { GrpcService } from './handlers.ts';

/** A connection that says nothing for this long (ms) is asked for a sign of life, and gets the second time to give one. */
export const keepaliveMs = 30_000;
const keepaliveTimeoutMs = 20_000;

/** What one connection may have. */
export interface SessionLimits {
  /** At least 1. */
  readonly maxStreamsPerConnection: number;
  /** Of one message; 0 = no limit. grpc-js reads a whole request before anybody may ask who sends it. */
  readonly maxReceiveBytes: number;
  /** After this a client is asked to connect, and so to be verified, anew; 0 = never. */
  readonly maxConnectionAgeMs: number;
  /** How long a connection may still finish its calls when it is too old. */
  readonly ageGraceMs: number;
}

/** grpc-js on connections that others have accepted, all under the same limits. */
export class SessionServer {
  readonly #server: Server;
  readonly #injector: ConnectionInjector;

  /** `interceptor` sees every call before the runner does. */
  constructor(
    services: readonly GrpcService[],
    runner: CallRunner,
    limits: SessionLimits & { readonly interceptor?: ServerInterceptor },
  ) {
    const { interceptor } = limits;
    silenceGrpc();
    this.#server = new Server({
      ...optionsOf(limits),
      ...(interceptor === undefined ? {} : { interceptors: [interceptor] }),
    });
    for (const service of services) {
      this.#server.addService(service.definition, runner.implementationOf(service));
    }
    this.#injector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
  }

  serve(socket: Socket): void {
    this.#injector.injectConnection(socket);
  }

  /** Asks all clients to leave once their calls are over. */
  drain(): void {
    this.#injector.destroy();
  }

  /** Ends everything at once. */
  shutdown(): void {
    this.#server.forceShutdown();
  }
}

function optionsOf(limits: SessionLimits): ConstructorParameters<typeof Server>[0] {
  const { maxConnectionAgeMs, ageGraceMs, maxReceiveBytes } = limits;
  const age =
    maxConnectionAgeMs === 0
      ? {}
      : { 'grpc.max_connection_age_ms': maxConnectionAgeMs, 'grpc.max_connection_age_grace_ms': ageGraceMs };
  return {
    // Otherwise every call is accounted for in a process-wide registry.
    'grpc.enable_channelz': 0,
    'grpc.max_concurrent_streams': limits.maxStreamsPerConnection,
    'grpc.max_receive_message_length': maxReceiveBytes === 0 ? -1 : maxReceiveBytes,
    'grpc.keepalive_time_ms': keepaliveMs,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    ...age,
  };
}
