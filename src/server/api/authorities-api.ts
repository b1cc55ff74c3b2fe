import {
  AuthoritiesService,
  type PrepareX509AuthorityRequest,
  type PruneKeysRequest,
  type RevokeX509AuthorityRequest,
  type Role,
  Role as Roles,
  type State,
  State as States,
  type X509Authorities,
  type X509Authority,
} from '../../gen/signet/authority/v1/authority.ts';
import type { AuthorityRole, AuthorityState, AuthorityStore } from '../../plugin-api/data-store.ts';
import { type CallContext, serviceOf, unary } from '../../rpc/handlers.ts';
import type { Clock } from '../../runtime/time.ts';
import { describeKey, keyTypeOfSpki } from '../../x509/signature.ts';
import { type ReportedAuthority, reportAuthorities } from '../authority/authority-report.ts';
import type { AuthorityRooms } from '../authority/open-authority.ts';
import { pruneKeys } from '../authority/stray-keys.ts';
import type { BundleKeeper } from '../bundles/bundle-keeper.ts';

interface Deps extends AuthorityRooms {
  readonly journal: AuthorityStore;
  readonly bundles: BundleKeeper;
  readonly clock: Clock;
}

/** `signet.authority.v1.Authorities`: what SPIRE's service has no words for. */
export function authoritiesApi(deps: Deps) {
  const { administration } = deps;
  return serviceOf(AuthoritiesService, {
    getX509Authorities: unary(() => x509Authorities(deps)),
    prepareX509Authority: unary(async ({ newRoot }: PrepareX509AuthorityRequest, { signal }: CallContext) => {
      const { id, upstreamKeyId, certificate } = await administration.prepare({ newRoot, signal });
      const expiresAt = seconds(certificate.notAfterMs);
      return { authorityId: id, upstreamAuthoritySubjectKeyId: upstreamKeyId, expiresAt };
    }),
    revokeX509Authority: unary(async ({ authorityId, force }: RevokeX509AuthorityRequest) => {
      if (await administration.isLocal(authorityId)) await administration.revoke(authorityId, { force });
      else await administration.revokeUpstream(authorityId, { force });
      return {};
    }),
    pruneKeys: unary(async ({ dryRun }: PruneKeysRequest) => {
      const found = await deps.rotation.inTurn(() => pruneKeys(deps, { dryRun }));
      return { keys: found.map(({ role, keyId, why }) => ({ role: roles[role], keyId, why })) };
    }),
  });
}

async function x509Authorities(deps: Deps): Promise<X509Authorities> {
  const { rotation, root, topology, clock } = deps;
  const times = { signing: rotation.times, root: root?.rotation.times };
  const { authorities, next, agentsBehind } = await reportAuthorities({ ...deps, times }, clock.now());
  return {
    topology,
    authorities: authorities.map(toWire),
    next: next.map(({ atMs, authorityId, what }) => ({ at: seconds(atMs), authorityId, what })),
    agentsBehind,
    problem: root?.rotation.lastFailure ?? rotation.lastFailure ?? '',
    longestKeptTtl: seconds(rotation.longestKeptTtlMs),
  };
}

function toWire({ record, isInBundle, inUse }: ReportedAuthority): X509Authority {
  const { certificate } = record;
  return {
    authorityId: record.id,
    role: roles[record.role],
    state: states[record.state],
    keyType: keyTypeOfSpki(certificate.spki) ?? describeKey(certificate.spki),
    subject: certificate.subjectText,
    notBefore: seconds(certificate.notBeforeMs),
    expiresAt: seconds(certificate.notAfterMs),
    preparedAt: seconds(record.preparedAtMs),
    activatedAt: seconds(record.activatedAtMs),
    taintedAt: seconds(record.taintedAtMs),
    revokedAt: seconds(record.revokedAtMs),
    upstreamAuthoritySubjectKeyId: record.upstreamKeyId,
    inBundle: isInBundle,
    svidsInUse: inUse.svids,
    agentsUsing: inUse.agents,
    mintedInUse: inUse.minted,
    svidsEndBy: seconds(inUse.endByMs),
    svidsIncomplete: inUse.isIncomplete,
  };
}

const roles = { signing: Roles.SIGNING, root: Roles.ROOT } as const satisfies Record<AuthorityRole, Role>;
const states = {
  prepared: States.PREPARED,
  active: States.ACTIVE,
  old: States.OLD,
} as const satisfies Record<AuthorityState, State>;

function seconds(ms: number | undefined): bigint {
  return BigInt(Math.floor((ms ?? 0) / 1000));
}
