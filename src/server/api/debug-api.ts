import {
  DebugService,
  type GetInfoResponse,
  type GetInfoResponse_Cert,
} from '../../gen/spire/api/server/debug/v1/debug.ts';
import { serviceOf, unary } from '../../rpc/handlers.ts';
import { spiffeIdToWire } from '../../rpc/messages.ts';
import type { Clock } from '../../runtime/time.ts';
import { SpiffeId } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';

interface Deps {
  /** The server's own certificate with all above it, the root included. */
  readonly ownChain: () => readonly Certificate[];
  readonly counts: () => Promise<{
    readonly agents: number;
    readonly entries: number;
    readonly federatedBundles: number;
  }>;
  readonly startedAtMs: number;
  readonly clock: Clock;
}

/** `spire.api.server.debug.v1.Debug`: what the server is and has, counted now. */
export function debugApi({ ownChain, counts, startedAtMs, clock }: Deps) {
  return serviceOf(DebugService, {
    getInfo: unary(async (): Promise<GetInfoResponse> => {
      const { agents, entries, federatedBundles } = await counts();
      return {
        svidChain: ownChain().map(certificateToWire),
        uptime: Math.floor((clock.now() - startedAtMs) / 1000),
        agentsCount: agents,
        entriesCount: entries,
        federatedBundlesCount: federatedBundles,
      };
    }),
  });
}

function certificateToWire({ uris, notAfterMs, subjectText }: Certificate): GetInfoResponse_Cert {
  return {
    id: uris[0] === undefined ? undefined : spiffeIdToWire(SpiffeId.parse(uris[0])),
    expiresAt: BigInt(Math.floor(notAfterMs / 1000)),
    subject: subjectText,
  };
}
