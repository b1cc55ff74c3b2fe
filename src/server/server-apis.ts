import type { GrpcService } from '../rpc/handlers.ts';
import { healthApi } from '../rpc/health-api.ts';
import { agentApi } from './api/agent-api.ts';
import { bundleApi } from './api/bundle-api.ts';
import { entryApi } from './api/entry-api.ts';
import { svidApi } from './api/svid-api.ts';
import type { ServerConfig } from './config.ts';
import type { ServerParts, ServerRooms } from './rooms.ts';
import { serverChecks } from './server-health.ts';

/** The services of both listeners; who may call what is in `api/access.ts`. */
export function serverApis(
  config: ServerConfig,
  { trustDomain, store, newJoinToken, clock }: ServerParts,
  rooms: ServerRooms,
): readonly GrpcService[] {
  const { index, entries, bundles, authority, rotation, access, attestation } = rooms;
  const { agents, tokens } = store;
  const startedAtMs = clock.now();
  return [
    agentApi({ trustDomain, attestation, tokens, agents, newToken: newJoinToken, clock }),
    entryApi({ entries, index, access, clock }),
    svidApi({ trustDomain, authority, index, access, clock, defaultTtlMs: config.authority.x509SvidTtl }),
    bundleApi({ bundles, access, clock }),
    healthApi({
      role: 'server',
      trustDomain: trustDomain.name,
      startedAtMs,
      checks: async () => serverChecks({ authority, rotation, store, entries: index.size }),
    }),
  ];
}
