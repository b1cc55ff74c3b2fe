import type { AuthorityOverview, AuthoritySummary } from '../clients/admin/authority-client.ts';
import { systemClock } from '../runtime/time.ts';
import type { ServerOptions } from './command.ts';
import { print, printDocument, printRows, type Row, text } from './output.ts';

const columns = ['state', 'role', 'id', 'expiresAt', 'signsSince', 'root', 'inUse', 'remarks'] as const;

/** Prints the CA certificates of a server and what is to come. */
export function showAuthorities(overview: AuthorityOverview, options: ServerOptions): void {
  const { authorities, details } = overview;
  if (options.quiet) {
    for (const { id, state, role } of authorities) if (state === 'active' && role === 'signing') print(id);
    return;
  }
  if (options.output !== 'table') {
    printDocument(documentOf(overview), options.output);
    return;
  }
  printRows(authorities.map(rowOf), columns, 'table');
  if (details === undefined) return;
  print('');
  for (const line of timeline(details, systemClock.now())) print(text(line));
}

function rowOf({ id, role, state, expiresAt, rootId, details }: AuthoritySummary): Row {
  return {
    state,
    role,
    id,
    expiresAt: timeOf(expiresAt),
    signsSince: timeOf(details?.activatedAt ?? 0),
    root: rootId,
    inUse: details === undefined ? '' : usage(details),
    remarks: details === undefined ? '' : remarks(details).join(', '),
  };
}

type Details = NonNullable<AuthoritySummary['details']>;

function usage({ svidsInUse, agentsUsing, mintedInUse, isIncomplete }: Details): string {
  const unknown = isIncomplete ? ' or more' : '';
  if (svidsInUse === 0) return isIncomplete ? 'not known' : '';
  const minted = mintedInUse > 0 ? `, ${mintedInUse} minted` : '';
  return `${svidsInUse}${unknown} SVIDs, ${agentsUsing} agents${minted}`;
}

function remarks({ taintedAt, revokedAt, isInBundle }: Details): readonly string[] {
  return [
    ...(taintedAt > 0 ? [`tainted ${timeOf(taintedAt)}`] : []),
    ...(revokedAt > 0 ? [`revoked ${timeOf(revokedAt)}`] : []),
    ...(isInBundle ? [] : ['root not in the trust bundle']),
  ];
}

function timeline(details: NonNullable<AuthorityOverview['details']>, nowMs: number): readonly string[] {
  const { topology, next, agentsBehind, problem, longestKeptTtl } = details;
  return [
    `topology      ${topology}`,
    `SVIDs up to   ${longestKeptTtl} s always get their whole life`,
    `agents        ${agentsBehind === 0 ? 'all connected ones hold the trust bundle' : `${agentsBehind} connected ones do not hold the trust bundle yet`}`,
    ...(problem === '' ? [] : [`problem       ${problem}`]),
    ...next.map(({ at, authorityId, what }) => {
      const when = at * 1000 < nowMs ? 'now                 ' : timeOf(at);
      return `${when}  ${authorityId.slice(0, 8)}…  ${what}`;
    }),
  ];
}

function documentOf({ authorities, details }: AuthorityOverview) {
  return {
    authorities: authorities.map(({ id, role, state, expiresAt, rootId, details: more }) => ({
      id,
      role,
      state,
      expiresAt: timeOf(expiresAt),
      rootId,
      ...(more === undefined ? {} : detailsDocument(more)),
    })),
    ...(details === undefined
      ? {}
      : {
          ...details,
          next: details.next.map(({ at, authorityId, what }) => ({ at: timeOf(at), authorityId, what })),
        }),
  };
}

function detailsDocument(details: Details) {
  const { notBefore, preparedAt, activatedAt, taintedAt, revokedAt, svidsEndBy, ...others } = details;
  const times = { notBefore, preparedAt, activatedAt, taintedAt, revokedAt, svidsEndBy };
  return { ...others, ...Object.fromEntries(Object.entries(times).map(([name, at]) => [name, timeOf(at)])) };
}

/** Empty for not yet. */
function timeOf(seconds: number): string {
  return seconds === 0 ? '' : new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');
}
