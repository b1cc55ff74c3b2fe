import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { onTestFinished } from 'vitest';
import { SvidCache } from '../agent/svid-cache.ts';
import { WorkloadAttestation } from '../agent/workload/workload-attestation.ts';
import { GrpcListener } from '../rpc/grpc-server.ts';
import type { GrpcService } from '../rpc/handlers.ts';
import { type Logger, silentLogger } from '../runtime/log.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { FakeClock } from './fake-clock.ts';
import { tempDir } from './temp-dir.ts';

/** What the services of a workload socket are made from. */
export interface WorkloadSocketDeps {
  readonly attestation: WorkloadAttestation;
  readonly cache: SvidCache;
  readonly clock: FakeClock;
  readonly log: Logger;
}

/**
 * A real workload socket in front of an empty cache, for this test. The caller is this very process; what attestation
 * finds out about it is what `facts` says at that time.
 */
export async function startWorkloadSocket(options: {
  readonly services: (deps: WorkloadSocketDeps) => readonly GrpcService[];
  readonly peerOf?: 'process' | 'local';
  readonly log?: Logger;
  /** Else a new one; the same again is an agent that was restarted. */
  readonly path?: string;
}) {
  const log = options.log ?? silentLogger;
  const clock = new FakeClock();
  const cache = new SvidCache({ clock, keyType: 'ec-p256' });
  const facts = {
    selectors: ['unix:uid:1000'],
    program: '/bin/workload',
    /** Thrown by attestation when set. */
    refusal: undefined as Error | undefined,
    attestations: 0,
  };
  const attestor = {
    attest: async () => {
      facts.attestations += 1;
      if (facts.refusal !== undefined) throw facts.refusal;
      return facts.selectors.map(parseSelector);
    },
    programFingerprint: async () => facts.program,
  };
  const attestation = new WorkloadAttestation({
    attestors: new Map([['test', attestor]]),
    log: silentLogger,
  });
  const { path = join(tempDir(), 'api.sock') } = options;
  const listener = await GrpcListener.unix({
    path,
    mode: 0o666,
    peerOf: options.peerOf ?? 'process',
    services: options.services({ attestation, cache, clock, log }),
    authorize: () => undefined,
    log,
  });
  onTestFinished(() => listener.stop(0));
  return { clock, cache, facts, target: `unix:${path}`, listener };
}

/** A client of a class that ts-proto has generated, on a connection of its own, closed when the test ends. */
export function connectTo<Client extends { close(): void }>(
  ClientClass: new (
    address: string,
    channel: ReturnType<typeof credentials.createInsecure>,
    options: { readonly 'grpc.use_local_subchannel_pool': 1 },
  ) => Client,
  target: string,
): Client {
  const client = new ClientClass(target, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
  onTestFinished(() => client.close());
  return client;
}
