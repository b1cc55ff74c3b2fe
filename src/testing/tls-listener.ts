import { once } from 'node:events';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { onTestFinished } from 'vitest';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import type { Caller } from '../rpc/caller.ts';
import type { FailureBudget } from '../rpc/failure-budget.ts';
import { type ClientChannel, callUnary, tlsChannel } from '../rpc/grpc-client.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import type { Authorize } from '../rpc/handlers.ts';
import type { ClientTls } from '../rpc/tls-credentials.ts';
import type { TlsIdentity } from '../rpc/tls-listener.ts';
import { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';
import { Bundle } from '../spiffe/bundle.ts';
import { type SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { verifyX509Svid } from '../spiffe/x509-svid.ts';
import type { Certificate } from '../x509/certificate.ts';
import { TestIdentity } from './certificates.ts';
import { memoryLogger, sampleServices } from './grpc-listener.ts';

// OpenSSL looks at the system's clock.
export const hourMs = 3_600_000;
export const validity = { notBeforeMs: Date.now() - hourMs, notAfterMs: Date.now() + hourMs };
export const check = HealthService.check;
export const serving = { status: 1 };
export const serverId = 'spiffe://example.org/spire/server';
export const agentId = 'spiffe://example.org/spire/agent/x';

/** Of `example.org`, whose server listens. */
export const root = await TestIdentity.root('example.org', validity);
export const foreignRoot = await TestIdentity.root('foreign.org', validity);
export const server = await root.issue(serverId, validity);

function bundleOf(name: string, authority: TestIdentity): Bundle {
  return new Bundle({
    trustDomain: TrustDomain.parse(name),
    x509Authorities: [{ certificate: authority.certificate, tainted: false }],
    sequence: 1,
    refreshHintSeconds: 0,
  });
}

/** Verifies as server and agent do: in the bundle of the certificate's own trust domain. */
export function verify(chain: readonly Certificate[]): SpiffeId {
  const bundles = [bundleOf('example.org', root), bundleOf('foreign.org', foreignRoot)];
  const find = (domain: TrustDomain) => bundles.find((bundle) => bundle.trustDomain.equals(domain));
  return verifyX509Svid({ chain, bundles: find, nowMs: Date.now() }).id;
}

/** What `identity` presents, on either side. */
export function tlsOf(identity: TestIdentity, intermediates: readonly TestIdentity[] = []): TlsIdentity {
  const chain = [identity, ...intermediates].map(({ certificate }) => certificate.toPem());
  return {
    certificateChainPem: chain.join(''),
    privateKeyPem: identity.privateKeyPem,
    // Both in one pool, as OpenSSL must have them.
    clientCaPem: root.certificate.toPem() + foreignRoot.certificate.toPem(),
  };
}

/** A listener of `example.org` until the test ends; `callers` are those of `check`. */
export async function startTls(
  options: {
    readonly handshakeTimeoutMs?: number;
    readonly postQuantum?: PostQuantum;
    readonly maxHandshakes?: number;
    readonly maxAnonymousConnections?: number;
    readonly maxConnectionsPerIdentity?: number;
    readonly maxConnectionAgeMs?: number;
    readonly failures?: FailureBudget;
    readonly clock?: Clock;
    readonly authorize?: Authorize;
    /** Besides keeping the caller. */
    readonly check?: (signal: AbortSignal) => Promise<void>;
  } = {},
) {
  const callers: Caller[] = [];
  const { log, lines } = memoryLogger();
  const identity = new Observable<TlsIdentity | undefined>(tlsOf(server));
  const {
    maxHandshakes,
    maxAnonymousConnections,
    maxConnectionsPerIdentity,
    maxConnectionAgeMs,
    check: checked,
    ...rest
  } = options;
  const listener = await GrpcListener.tls({
    host: '127.0.0.1',
    port: 0,
    identity,
    verifyClient: verify,
    services: sampleServices({
      async check(_, { caller, signal }) {
        callers.push(caller);
        await checked?.(signal);
      },
      async *watch(_, { signal }) {
        yield;
        await once(signal, 'abort');
      },
    }),
    authorize: () => undefined,
    limits: {
      ...(maxConnectionAgeMs === undefined ? {} : { maxConnectionAgeMs }),
      ...(maxHandshakes === undefined ? {} : { maxHandshakes }),
      ...(maxAnonymousConnections === undefined ? {} : { maxAnonymousConnections }),
      ...(maxConnectionsPerIdentity === undefined ? {} : { maxConnectionsPerIdentity }),
    },
    log,
    ...rest,
  });
  onTestFinished(() => listener.stop(0));
  return { listener, identity, callers, lines };
}

/** A channel that expects this server ID. */
export function tlsChannelTo(
  address: string,
  client?: Partial<ClientTls>,
  expected = serverId,
): ClientChannel {
  const verifyServer = (chain: readonly Certificate[]) => {
    const id = verify(chain);
    if (id.toString() !== expected) throw new Error(`the server is "${id}"`);
  };
  const channel = tlsChannel({ address, tls: { verifyServer, ...client } });
  onTestFinished(() => channel.close());
  return channel;
}

/** Calls `check`. */
export const call = (channel: ClientChannel) =>
  callUnary(channel, check, { service: '' }, { timeoutMs: 5_000 });

/** A TLS connection without gRPC on it. */
export function rawTls(address: string, options: ConnectionOptions): TLSSocket {
  const socket = connect({ host: '127.0.0.1', port: portOf(address), rejectUnauthorized: false, ...options });
  socket.on('error', () => undefined);
  onTestFinished(() => void socket.destroy());
  return socket;
}

/** With HTTP/2, as who `identity` is. */
export function h2(identity?: TlsIdentity): ConnectionOptions {
  if (identity === undefined) return { ALPNProtocols: ['h2'] };
  return { ALPNProtocols: ['h2'], cert: identity.certificateChainPem, key: identity.privateKeyPem };
}

export function portOf(address: string): number {
  return Number(address.split(':').at(-1));
}
