import {
  AuthoritiesService,
  Role,
  State,
  type X509Authorities,
  type X509Authority,
} from '../../gen/signet/authority/v1/authority.ts';
import {
  type GetX509AuthorityStateResponse,
  LocalAuthorityService,
  type AuthorityState as WireState,
} from '../../gen/spire/api/server/localauthority/v1/localauthority.ts';
import { type ClientChannel, callUnary } from '../../rpc/grpc-client.ts';
import { wholeNumber } from '../../rpc/messages.ts';
import { isAppError } from '../../runtime/error.ts';
import { type ClientCall, limits, malformed, received } from '../answers.ts';

/** What the state of a CA certificate means: it will sign, it signs, it has signed. */
export type AuthorityStateName = 'prepared' | 'active' | 'old';

/** A CA certificate of the server. Times in Unix seconds, 0 = not yet. */
export interface AuthoritySummary {
  readonly id: string;
  readonly role: 'signing' | 'root';
  readonly state: AuthorityStateName;
  readonly expiresAt: number;
  /** Of its root; empty when it is one. */
  readonly rootId: string;
  /** What only our own servers say. */
  readonly details: AuthorityDetails | undefined;
}

/** What is in use of it, and when what was done. */
export type AuthorityDetails = {
  readonly [field in
    | 'notBefore'
    | 'preparedAt'
    | 'activatedAt'
    | 'taintedAt'
    | 'revokedAt'
    | 'svidsEndBy'
    | 'svidsInUse'
    | 'agentsUsing'
    | 'mintedInUse']: number;
} & {
  readonly keyType: string;
  readonly subject: string;
  readonly isInBundle: boolean;
  readonly isIncomplete: boolean;
};

/** All of them, and what is to come; `details` only from our own servers. */
export interface AuthorityOverview {
  readonly authorities: readonly AuthoritySummary[];
  readonly details:
    | {
        readonly topology: string;
        readonly next: readonly {
          readonly at: number;
          readonly authorityId: string;
          readonly what: string;
        }[];
        readonly agentsBehind: number;
        readonly problem: string;
        readonly longestKeptTtl: number;
      }
    | undefined;
}

/** A key that the server cannot account for. */
export interface StrayKeySummary {
  readonly role: 'signing' | 'root';
  readonly keyId: string;
  readonly why: string;
}

/** `LocalAuthority` of SPIRE for X.509, and `signet.authority.v1.Authorities`, for administrators. */
export class AuthorityClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /** From SPIRE's servers only the states and the ends. */
  async show(call: ClientCall): Promise<AuthorityOverview> {
    try {
      const { getX509Authorities } = AuthoritiesService;
      const wire = await callUnary(this.#channel, getX509Authorities, {}, limits(call));
      return received(overviewFromWire, wire);
    } catch (error) {
      if (!isAppError(error, 'unimplemented')) throw error;
      const { getX509AuthorityState } = LocalAuthorityService;
      const wire = await callUnary(this.#channel, getX509AuthorityState, {}, limits(call));
      return received(overviewFromState, wire);
    }
  }

  /** With `newRoot`, below a new root: `unimplemented` on SPIRE's servers. */
  async prepare({ newRoot, ...call }: ClientCall & { readonly newRoot: boolean }): Promise<AuthoritySummary> {
    if (newRoot) {
      const { prepareX509Authority } = AuthoritiesService;
      return received(
        (wire) => fromState(wire, 'prepared'),
        await callUnary(this.#channel, prepareX509Authority, { newRoot }, limits(call)),
      );
    }
    const { prepareX509Authority } = LocalAuthorityService;
    const { preparedAuthority } = await callUnary(this.#channel, prepareX509Authority, {}, limits(call));
    return received((wire) => fromState(wire, 'prepared'), required(preparedAuthority));
  }

  async activate(authorityId: string, call: ClientCall): Promise<AuthoritySummary> {
    const { activateX509Authority } = LocalAuthorityService;
    const request = { authorityId };
    const { activatedAuthority } = await callUnary(
      this.#channel,
      activateX509Authority,
      request,
      limits(call),
    );
    return received((wire) => fromState(wire, 'active'), required(activatedAuthority));
  }

  /** `isUpstream`: the ID is that of a root above signing certificates. */
  async taint(
    authorityId: string,
    { isUpstream, ...call }: ClientCall & { readonly isUpstream: boolean },
  ): Promise<void> {
    const { taintX509Authority, taintX509UpstreamAuthority } = LocalAuthorityService;
    const request = { subjectKeyId: authorityId };
    if (isUpstream) await callUnary(this.#channel, taintX509UpstreamAuthority, request, limits(call));
    else await callUnary(this.#channel, taintX509Authority, { authorityId }, limits(call));
  }

  /** Without `force` only what cannot be in use: `unimplemented` on SPIRE's servers. */
  async revoke(
    authorityId: string,
    { isUpstream, force, ...call }: ClientCall & { readonly isUpstream: boolean; readonly force: boolean },
  ): Promise<void> {
    if (!force) {
      const request = { authorityId, force };
      await callUnary(this.#channel, AuthoritiesService.revokeX509Authority, request, limits(call));
      return;
    }
    const { revokeX509Authority, revokeX509UpstreamAuthority } = LocalAuthorityService;
    const request = { subjectKeyId: authorityId };
    if (isUpstream) await callUnary(this.#channel, revokeX509UpstreamAuthority, request, limits(call));
    else await callUnary(this.#channel, revokeX509Authority, { authorityId }, limits(call));
  }

  /** The keys that nothing accounts for; destroyed unless `dryRun`. */
  async pruneKeys({
    dryRun,
    ...call
  }: ClientCall & { readonly dryRun: boolean }): Promise<readonly StrayKeySummary[]> {
    const request = { dryRun };
    const { keys } = await callUnary(this.#channel, AuthoritiesService.pruneKeys, request, limits(call));
    return keys.map(({ role, keyId, why }) => ({ role: roleOf(role), keyId, why }));
  }
}

function overviewFromWire(wire: X509Authorities): AuthorityOverview {
  const { topology, agentsBehind, problem } = wire;
  return {
    authorities: wire.authorities.map(summaryOf),
    details: {
      topology,
      next: wire.next.map(({ at, ...event }) => ({ ...event, at: wholeNumber(at, 'at') })),
      agentsBehind,
      problem,
      longestKeptTtl: wholeNumber(wire.longestKeptTtl, 'longest_kept_ttl'),
    },
  };
}

function summaryOf(wire: X509Authority): AuthoritySummary {
  const { keyType, subject, svidsInUse, agentsUsing, mintedInUse } = wire;
  return {
    id: wire.authorityId,
    role: roleOf(wire.role),
    state: stateOf(wire.state),
    expiresAt: wholeNumber(wire.expiresAt, 'expires_at'),
    rootId: wire.upstreamAuthoritySubjectKeyId,
    details: {
      keyType,
      subject,
      svidsInUse,
      agentsUsing,
      mintedInUse,
      notBefore: wholeNumber(wire.notBefore, 'not_before'),
      preparedAt: wholeNumber(wire.preparedAt, 'prepared_at'),
      activatedAt: wholeNumber(wire.activatedAt, 'activated_at'),
      taintedAt: wholeNumber(wire.taintedAt, 'tainted_at'),
      revokedAt: wholeNumber(wire.revokedAt, 'revoked_at'),
      svidsEndBy: wholeNumber(wire.svidsEndBy, 'svids_end_by'),
      isInBundle: wire.inBundle,
      isIncomplete: wire.svidsIncomplete,
    },
  };
}

function overviewFromState(wire: GetX509AuthorityStateResponse): AuthorityOverview {
  const states = (['active', 'prepared', 'old'] as const).flatMap((state) => {
    const found = wire[state];
    return found === undefined ? [] : [fromState(found, state)];
  });
  return { authorities: states, details: undefined };
}

function fromState(wire: WireState, state: AuthorityStateName): AuthoritySummary {
  return {
    id: wire.authorityId,
    role: 'signing',
    state,
    expiresAt: wholeNumber(wire.expiresAt, 'expires_at'),
    rootId: wire.upstreamAuthoritySubjectKeyId,
    details: undefined,
  };
}

function roleOf(role: Role): 'signing' | 'root' {
  return role === Role.ROOT ? 'root' : 'signing';
}

function stateOf(state: State): AuthorityStateName {
  if (state === State.PREPARED) return 'prepared';
  return state === State.ACTIVE ? 'active' : 'old';
}

function required(wire: WireState | undefined): WireState {
  if (wire === undefined) throw malformed('the server sent no authority');
  return wire;
}
