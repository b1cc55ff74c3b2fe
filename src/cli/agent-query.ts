import { type Command, Option } from 'commander';
import type { AgentQuery, AgentSummary } from '../clients/admin/agent-client.ts';
import { systemClock } from '../runtime/time.ts';
import { type MatchBehavior, parseSelector, type Selector, selectorText } from '../spiffe/selector.ts';
import { command, moment, type ServerOptions, several, withServer, withServerOptions } from './command.ts';
import { print, printRecord, printRows, type Row } from './output.ts';

interface QueryOptions extends ServerOptions {
  readonly attestor?: string;
  readonly selector?: readonly Selector[];
  readonly match: MatchBehavior;
  readonly banned?: boolean;
  readonly canReattest?: boolean;
  readonly expiresBefore?: number;
}

const agentColumns = ['id', 'state', 'attestationType', 'expiresAt', 'agentVersion'] as const;

/** `signet agent list`. */
export function listCommand(): Command {
  return withQuery(
    command(
      'list',
      'list the agents that the server knows, or those for which all that is named holds',
      'signet agent list --attestor x509pop --no-banned -o json\nsignet agent list --expires-before 2027-01-31T12:00:00Z',
    ),
  ).action(async (options: QueryOptions) => {
    const agents = await withServer(options, (client, signal) =>
      client.agents.list({ ...queryOf(options), signal }),
    );
    if (options.quiet) for (const agent of agents) print(agent.id.toString());
    else printRows(agents.map(agentRow), agentColumns, options.output);
  });
}

/** `signet agent count`. */
export function countCommand(): Command {
  return withQuery(
    command(
      'count',
      'count the agents that the server knows, or those for which all that is named holds',
      'signet agent count --banned',
    ),
  ).action(async (options: QueryOptions) => {
    const count = await withServer(options, (client, signal) =>
      client.agents.count({ ...queryOf(options), signal }),
    );
    if (options.output === 'table') print(String(count));
    else printRecord({ count }, options.output);
  });
}

/** An agent as the command line prints it. */
export function agentRow(agent: AgentSummary): Row {
  const hasExpired = agent.expiresAt * 1000 <= systemClock.now();
  return {
    id: agent.id.toString(),
    state: agent.banned ? 'banned' : hasExpired ? 'expired' : 'active',
    attestationType: agent.attestationType,
    expiresAt: new Date(agent.expiresAt * 1000).toISOString(),
    serial: agent.serial,
    selectors: agent.selectors.map(selectorText),
    banned: agent.banned,
    canReattest: agent.canReattest,
    agentVersion: agent.agentVersion,
  };
}

function withQuery(target: Command): Command {
  return withServerOptions(target)
    .option('--attestor <type>', 'only agents attested so, such as join_token')
    .option('--selector <type:value>', 'only agents with these selectors; repeat', several(parseSelector))
    .addOption(
      new Option(
        '--match <how>',
        "how an agent's selectors compare with those named: superset = it has all of them and may have more, subset = it has no others",
      )
        .choices(['exact', 'superset', 'subset', 'any'] satisfies MatchBehavior[])
        .default('superset'),
    )
    .option('--banned', 'only banned agents')
    .option('--no-banned', 'only agents that are not banned')
    .option('--can-reattest', 'only agents that can attest again by themselves')
    .option('--no-can-reattest', 'only agents that cannot')
    .option('--expires-before <time>', 'only agents whose certificate ends before, RFC 3339', moment);
}

function queryOf(options: QueryOptions): AgentQuery {
  const { attestor, selector, match, banned, canReattest, expiresBefore } = options;
  return {
    attestationType: attestor,
    selectors: selector && { wanted: selector, match },
    banned,
    canReattest,
    expiresBefore,
  };
}
