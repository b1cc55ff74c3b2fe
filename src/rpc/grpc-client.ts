import { resolve as resolvePath } from 'node:path';
import { type ChannelOptions, Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { AppError } from '../runtime/error.ts';
import { findHostPort, hostPortRule } from '../runtime/host-port.ts';
import { systemClock } from '../runtime/time.ts';
import { limitConnecting } from './connect-timeout.ts';
import { silenceGrpc } from './grpc-log.ts';
import { fromServiceError } from './status.ts';
import { type ClientTls, SpiffeTlsCredentials } from './tls-credentials.ts';

/** A method of a generated service definition. */
export interface ClientMethod<Req, Res> {
  readonly path: string;
  readonly requestSerialize: (value: Req) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Res;
}

/** How a call is made. Without `timeoutMs` a unary call has 30 s; a stream has no deadline of its own. */
export interface CallOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A connection to one server that is made, and made again, when a call needs it. */
export interface ClientChannel {
  /** For the functions of this file. */
  readonly client: Client;
  /** Takes no more calls; those that run may finish. */
  close(): void;
}

const unaryTimeoutMs = 30_000;
const usualConnectTimeoutMs = 10_000;

const commonOptions: ChannelOptions = {
  'grpc.enable_channelz': 0,
  // A channel made with another certificate must not get this one's connections.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.service_config_disable_resolution': 1,
  // Proxies of the environment are for the web.
  'grpc.enable_http_proxy': 0,
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
};

/** A channel to a Unix socket. */
export function unixChannel(path: string): ClientChannel {
  return channelTo(`unix:${resolvePath(path)}`, credentials.createInsecure(), {
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2_000,
  });
}

/** A channel without TLS, for a Workload API on a local TCP address. */
export function plainTcpChannel(address: string): ClientChannel {
  return channelTo(`dns:${address}`, credentials.createInsecure(), {});
}

/** A channel with TLS 1.3 to `HOST:PORT`; throws `invalid-argument` for another form of address. */
export function tlsChannel(options: {
  readonly address: string;
  readonly tls: ClientTls;
  /** How long TCP may take to connect, 10 s unless given. */
  readonly connectTimeoutMs?: number;
}): ClientChannel {
  const { address, tls, connectTimeoutMs = usualConnectTimeoutMs } = options;
  const at = findHostPort(address);
  if (at === undefined || at.port === 0) {
    throw new AppError('invalid-argument', `server address "${address}": ${hostPortRule}`);
  }
  const unlimit = limitConnecting(at.port, connectTimeoutMs);
  const channel = channelTo(`dns:${address}`, new SpiffeTlsCredentials(at.host, tls), {
    'grpc.initial_reconnect_backoff_ms': 500,
    'grpc.max_reconnect_backoff_ms': 10_000,
    'grpc.dns_min_time_between_resolutions_ms': 5_000,
    // Only while calls run: a Go server takes more frequent pings for an attack.
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 0,
  });
  return {
    client: channel.client,
    close() {
      unlimit();
      channel.close();
    },
  };
}

/** One request, one answer. Throws AppError. */
export function callUnary<Req, Res>(
  channel: ClientChannel,
  method: ClientMethod<Req, Res>,
  request: Req,
  options: CallOptions = {},
): Promise<Res> {
  const { signal, timeoutMs = unaryTimeoutMs } = options;
  return new Promise((done, failed) => {
    if (signal?.aborted) {
      failed(cancelled());
      return;
    }
    const call = channel.client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadataOf(options),
      { deadline: systemClock.now() + timeoutMs },
      (error: ServiceError | null, response?: Res) => {
        signal?.removeEventListener('abort', cancel);
        if (error !== null || response === undefined) failed(fromServiceError(error));
        else done(response);
      },
    );
    const cancel = () => call.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
  });
}

/** One request, many answers. Leaving the loop cancels the call. Throws AppError. */
export async function* callServerStream<Req, Res>(
  channel: ClientChannel,
  method: ClientMethod<Req, Res>,
  request: Req,
  options: CallOptions = {},
): AsyncGenerator<Res, void, undefined> {
  if (options.signal?.aborted) throw cancelled();
  const { client } = channel;
  const { path, requestSerialize, responseDeserialize } = method;
  const call = client.makeServerStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    request,
    metadataOf(options),
    deadlineOf(options),
  );
  const release = cancelWith(call, options.signal);
  try {
    yield* call;
  } catch (error) {
    throw fromServiceError(error);
  } finally {
    release();
    call.cancel();
  }
}

/** A stream in both directions, one message at a time. */
export interface BidiCall<Req, Res> {
  send(request: Req): void;
  /** The next answer, or undefined when the server has ended the stream well. Throws AppError. */
  next(): Promise<Res | undefined>;
  /** Nothing more will be sent or read; the server ends the call in its own time. */
  conclude(): void;
  /** Ends the call, whatever it does. */
  cancel(): void;
}

/** Opens a stream in both directions; the caller concludes or cancels it. */
export function openBidi<Req, Res>(
  channel: ClientChannel,
  method: ClientMethod<Req, Res>,
  options: CallOptions = {},
): BidiCall<Req, Res> {
  if (options.signal?.aborted) throw cancelled();
  const { path, requestSerialize, responseDeserialize } = method;
  const call = channel.client.makeBidiStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    metadataOf(options),
    deadlineOf(options),
  );
  const release = cancelWith(call, options.signal);
  const answers: AsyncIterator<Res> = call[Symbol.asyncIterator]();
  return {
    send: (request) => void call.write(request),
    async next() {
      try {
        const answer = await answers.next();
        return answer.done === true ? undefined : answer.value;
      } catch (error) {
        throw fromServiceError(error);
      }
    },
    conclude() {
      release();
      call.end();
      call.resume();
    },
    cancel() {
      release();
      call.cancel();
    },
  };
}

function channelTo(
  target: string,
  creds: ConstructorParameters<typeof Client>[1],
  options: ChannelOptions,
): ClientChannel {
  silenceGrpc();
  const client = new Client(target, creds, { ...commonOptions, ...options });
  return { client, close: () => client.close() };
}

function metadataOf(options: CallOptions): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value);
  return metadata;
}

function deadlineOf({ timeoutMs }: CallOptions): { readonly deadline?: number } {
  return timeoutMs === undefined ? {} : { deadline: systemClock.now() + timeoutMs };
}

/** Returns what ends the watch on `signal`. */
function cancelWith(
  call: { cancel(): void; on(event: 'error', listener: () => void): unknown },
  signal: AbortSignal | undefined,
): () => void {
  // The status of a cancelled call arrives when nobody iterates any more, as an error event.
  call.on('error', () => undefined);
  const cancel = () => call.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  return () => signal?.removeEventListener('abort', cancel);
}

function cancelled(): AppError {
  return new AppError('cancelled', 'the call was cancelled');
}
