import {
  type ActivateX509AuthorityRequest,
  type GetX509AuthorityStateResponse,
  LocalAuthorityService,
  type RevokeX509AuthorityRequest,
  type RevokeX509UpstreamAuthorityRequest,
  type TaintX509AuthorityRequest,
  type TaintX509UpstreamAuthorityRequest,
  type AuthorityState as WireState,
} from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import type { AuthorityRecord, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import { type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import type { AuthorityAdministration } from '../authority/administration.ts';

interface Deps {
  readonly journal: Pick<AuthorityStore, 'list'>;
  readonly administration: AuthorityAdministration;
}

/**
 * `spire.api.server.localauthority.v1.LocalAuthority` for X.509: which authority signs, which comes and which was
 * before, and what administrators do with them. Revoking is unconditional here, as in SPIRE;
 * `signet.authority.v1.Authorities` looks first whether anything is in use.
 */
export function localAuthorityApi({ journal, administration }: Deps) {
  return serviceOf(LocalAuthorityService, {
    getX509AuthorityState: unary(() => x509State(journal)),
    prepareX509Authority: unary(async (_request: object, { signal }: CallContext) => ({
      preparedAuthority: toWire(await administration.prepare({ newRoot: false, signal })),
    })),
    activateX509Authority: unary(async ({ authorityId }: ActivateX509AuthorityRequest) => ({
      activatedAuthority: toWire(await administration.activate(authorityId)),
    })),
    taintX509Authority: unary(async ({ authorityId }: TaintX509AuthorityRequest) => ({
      taintedAuthority: toWire(await administration.taint(authorityId)),
    })),
    taintX509UpstreamAuthority: unary(async ({ subjectKeyId }: TaintX509UpstreamAuthorityRequest) => {
      await administration.taintUpstream(subjectKeyId);
      return { upstreamAuthoritySubjectKeyId: subjectKeyId.toLowerCase() };
    }),
    revokeX509Authority: unary(async ({ authorityId }: RevokeX509AuthorityRequest) => {
      await administration.revoke(authorityId, { force: true });
      return { revokedAuthority: { authorityId, expiresAt: 0n, upstreamAuthoritySubjectKeyId: '' } };
    }),
    revokeX509UpstreamAuthority: unary(async ({ subjectKeyId }: RevokeX509UpstreamAuthorityRequest) => {
      await administration.revokeUpstream(subjectKeyId, { force: true });
      return { upstreamAuthoritySubjectKeyId: subjectKeyId.toLowerCase() };
    }),
  });
}

async function x509State(journal: Deps['journal']): Promise<GetX509AuthorityStateResponse> {
  const records = (await journal.list()).filter(({ role }) => role === 'signing');
  const active = latest(records, 'active');
  if (active === undefined) throw new AppError('unavailable', 'server is initializing');
  return { active, prepared: latest(records, 'prepared'), old: latest(records, 'old') };
}

/** Of several old ones the last that was active. */
function latest(records: readonly AuthorityRecord[], state: AuthorityState): WireState | undefined {
  const [record] = records
    .filter((candidate) => candidate.state === state)
    .sort((a, b) => b.certificate.notAfterMs - a.certificate.notAfterMs);
  return record === undefined ? undefined : toWire(record);
}

function toWire({ id, certificate, upstreamKeyId }: AuthorityRecord): WireState {
  return {
    authorityId: id,
    expiresAt: BigInt(Math.floor(certificate.notAfterMs / 1000)),
    upstreamAuthoritySubjectKeyId: upstreamKeyId,
  };
}
