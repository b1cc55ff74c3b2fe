import {
  type GetX509AuthorityStateResponse,
  LocalAuthorityService,
  type AuthorityState as WireState,
} from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import type { AuthorityRecord, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import { serviceOf, unary } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';

/** `spire.api.server.localauthority.v1.LocalAuthority`: which root signs, which comes and which was before. */
export function localAuthorityApi({ journal }: { readonly journal: Pick<AuthorityStore, 'list'> }) {
  return serviceOf(LocalAuthorityService, {
    getX509AuthorityState: unary(async (): Promise<GetX509AuthorityStateResponse> => {
      const records = await journal.list();
      const active = latest(records, 'active');
      if (active === undefined) throw new AppError('unavailable', 'server is initializing');
      return { active, prepared: latest(records, 'prepared'), old: latest(records, 'old') };
    }),
  });
}

/** Of several old ones the last that was active. */
function latest(records: readonly AuthorityRecord[], state: AuthorityState): WireState | undefined {
  const [record] = records
    .filter((candidate) => candidate.state === state)
    .sort((a, b) => b.certificate.notAfterMs - a.certificate.notAfterMs);
  if (record === undefined) return undefined;
  return {
    authorityId: record.id,
    expiresAt: BigInt(Math.floor(record.certificate.notAfterMs / 1000)),
    upstreamAuthoritySubjectKeyId: '',
  };
}
