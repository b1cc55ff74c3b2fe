import type { Socket } from 'node:net';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import {
  HealthService,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from '../gen/grpc/health/v1/health.ts';
import { EntryService } from '../gen/spire/api/server/entry/v1/entry.ts';
import { type ClientChannel, unixChannel } from '../rpc/grpc-client.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import { bidi, type CallContext, type GrpcService, serverStream, serviceOf, unary } from '../rpc/handlers.ts';
import { createLogger, type Logger } from '../runtime/log.ts';
import { eventually } from './eventually.ts';
import { tempDir } from './temp-dir.ts';

type UnixOptions = Parameters<typeof GrpcListener.unix>[0];

/** A listener on a temporary Unix socket, stopped when the test ends. Anybody may call anything unless told otherwise. */
export async function startListener(
  options: Partial<UnixOptions> & { readonly services: readonly GrpcService[] },
): Promise<GrpcListener> {
  const listener = await GrpcListener.unix({
    path: join(tempDir(), 'test.sock'),
    mode: 0o600,
    peerOf: 'local',
    authorize: () => undefined,
    log: memoryLogger().log,
    ...options,
  });
  onTestFinished(() => listener.stop(0));
  return listener;
}

/** A channel to the listener, closed when the test ends. */
export function channelTo(listener: { readonly address: string }): ClientChannel {
  const channel = unixChannel(listener.address);
  onTestFinished(() => channel.close());
  return channel;
}

/** A logger at level debug whose lines, as objects, can be looked at. */
export function memoryLogger(): { readonly log: Logger; readonly lines: Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  const write = (line: string) => void lines.push(JSON.parse(line));
  return { log: createLogger({ level: 'debug', format: 'json', write }), lines };
}

/** A real service with a method of each kind, for tests of what is around it. */
export function sampleServices(handlers: {
  readonly check?: (service: string, context: CallContext) => Promise<void>;
  /** Each yield is one message. */
  readonly watch?: (service: string, context: CallContext) => AsyncIterable<void>;
  /** Answers each list of ids. */
  readonly sync?: (ids: readonly string[], context: CallContext) => Promise<void>;
}): readonly GrpcService[] {
  const { check, watch, sync } = handlers;
  const health = serviceOf(HealthService, {
    ...(check && {
      check: unary(async ({ service }, context) => {
        await check(service, context);
        return { status: ServingStatus.SERVING };
      }),
    }),
    ...(watch && {
      watch: serverStream(async function* ({ service }, context) {
        for await (const _ of watch(service, context)) yield { status: ServingStatus.SERVING };
      }),
    }),
  });
  const entries = serviceOf(EntryService, {
    ...(sync && {
      syncAuthorizedEntries: bidi(async function* (requests, context) {
        for await (const { ids } of requests) {
          await sync(ids, context);
          yield { entryRevisions: [], entries: [], more: ids.includes('more') };
        }
      }),
    }),
  });
  return [health, entries];
}

/** Polls until `isSo`, as patiently as `eventually`; fails saying `what`. For what has no event to wait for. */
export function until(isSo: () => boolean, what: string): Promise<void> {
  return eventually(() => {
    if (!isSo()) throw new Error(`it did not come to this: ${what}`);
  });
}

/** Resolves when the socket has closed, whether or not with an error. */
export function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.on('error', () => undefined);
    socket.once('close', () => resolve());
    socket.resume();
  });
}
