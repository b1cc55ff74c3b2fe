import { TrustDomainService } from '../gen/spire/api/server/trustdomain/v1/trustdomain.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import { grpcHealthApi } from '../rpc/grpc-health-api.ts';
import { type GrpcService, serviceOf } from '../rpc/handlers.ts';
import { healthApi } from '../rpc/health-api.ts';
import { KeyExchange } from '../rpc/key-exchange.ts';
import { loggerApi } from '../rpc/logger-api.ts';
import { withReflection } from '../rpc/reflection-api.ts';
import { type Certificate, parsePemCertificates } from '../x509/certificate.ts';
import { agentApi } from './api/agent-api.ts';
import { authoritiesApi } from './api/authorities-api.ts';
import { bundleApi } from './api/bundle-api.ts';
import { debugApi } from './api/debug-api.ts';
import { entryApi } from './api/entry-api.ts';
import { localAuthorityApi } from './api/local-authority-api.ts';
import { svidApi } from './api/svid-api.ts';
import { AttestationSlots } from './attestation/attestation-slots.ts';
import type { ServerConfig } from './config.ts';
import type { ServerParts, ServerRooms } from './rooms.ts';
import { serverChecks } from './server-health.ts';

/** The services of both listeners; who may call what is in `api/access-table.ts`. */
export function serverApis(
  config: ServerConfig,
  parts: ServerParts,
  rooms: ServerRooms,
): readonly GrpcService[] {
  const { trustDomain, store, newJoinToken, clock, log } = parts;
  const { index, entries, bundles, federated, authority, rotation, access, attestation, agents } = rooms;
  const { tokens } = store;
  const startedAtMs = clock.now();
  const keyManagers = keyManagersOf(parts);
  const listener = `${config.listen}, TLS 1.3, ${new KeyExchange(config.tls.postQuantum)}`;
  const found = { authority, rotation, root: rooms.root, store, keyManagers, listener };
  const checks = async () => serverChecks({ ...found, entries: index.size });
  const services = [
    agentApi({
      trustDomain,
      attestation,
      slots: new AttestationSlots(config.limits.attestation.concurrent),
      tokens,
      agents,
      store: store.agents,
      newToken: newJoinToken,
      clock,
    }),
    entryApi({ trustDomain, entries, index, access, clock }),
    svidApi({ trustDomain, authority, index, access, clock, defaultTtlMs: config.authority.x509SvidTtl }),
    bundleApi({ trustDomain, bundles, federated, entries, access, clock }),
    serviceOf(TrustDomainService, {}),
    localAuthorityApi({ journal: store.authorities, administration: rooms.administration }),
    authoritiesApi({ ...rooms, journal: store.authorities, clock }),
    debugApi({
      ownChain: () => ownChain(rooms),
      counts: async () => ({
        agents: await store.agents.count(),
        entries: index.size,
        federatedBundles: federated.byName.value.size,
      }),
      startedAtMs,
      clock,
    }),
    loggerApi('server', log),
    healthApi({ role: 'server', trustDomain: trustDomain.name, startedAtMs, checks }),
  ];
  return withReflection([...services, grpcHealthApi({ services, checks, clock })]);
}

/** Those that the authority uses, by the names of their health checks. */
function keyManagersOf({ keyManager, upstream }: ServerParts): ReadonlyMap<string, KeyManager> {
  const own = ['key manager', keyManager] as const;
  return new Map(
    upstream?.kind === 'local-root' ? [own, ['key manager of the root', upstream.keyManager]] : [own],
  );
}

/** The server's certificate, and the root that signed it. */
function ownChain({ identity, bundles }: ServerRooms): readonly Certificate[] {
  const chain = parsePemCertificates(identity.tls.value?.certificateChainPem ?? '');
  const last = chain.at(-1);
  const root = bundles.own.value
    .certificates()
    .find(({ subject }) => last !== undefined && subject.equals(last.issuer));
  return root === undefined ? chain : [...chain, root];
}
