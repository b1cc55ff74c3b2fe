import type { Command } from 'commander';
import {
  type ConnectedProxy,
  ProxiesClient,
  type ProxyQuery,
  type SecretState,
  secretStates,
} from '../clients/proxies-client.ts';
import { AppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { command, noun, parsedBy, withOutput } from './command.ts';
import { NotHealthy } from './health.ts';
import { type OutputFormat, print, printDocument, printRows, text } from './output.ts';
import { printProxy, proxyColumns, proxyDocument, proxyRow, proxyWithSecrets } from './proxy-report.ts';
import { type AgentAdminOptions, withAgentAdmin, withAgentAdminOptions } from './role-socket.ts';

interface ShowOptions extends AgentAdminOptions {
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

type ListOptions = ShowOptions & {
  readonly pid?: number;
  readonly node?: string;
  readonly spiffeId?: SpiffeId;
  readonly gone?: boolean;
} & { readonly [State in SecretState]?: boolean };

/** `signet proxy`: what the agent of this host knows of the proxies that ask it for secrets. */
export function proxyCommand(): Command {
  return noun('proxy', 'the proxies on this host: which secrets they have, refused or wait for', [
    listCommand(),
    showCommand(),
  ]);
}

function listCommand(): Command {
  const list = command(
    'list',
    'list the connected proxies, or those for which all that is named holds; exits with 4 when one of them has ' +
      'a secret that is refused or stalled',
    'signet proxy list\nsignet proxy list --refused -o json\nsignet proxy list --spiffe-id spiffe://example.org/web',
  );
  return withAgentAdminOptions(withOutput(list))
    .option('--pid <pid>', 'only the proxy with this process ID', parsedBy(parsePid))
    .option('--node <id>', 'only proxies that say this is their node ID')
    .option('--spiffe-id <id>', 'only proxies entitled to this identity', parsedBy(SpiffeId.parse))
    .option('--refused', 'only proxies that refused a secret')
    .option('--stalled', 'only proxies that have not answered in time')
    .option('--held', 'only proxies that wait for a secret that is not there')
    .option('--pending', 'only proxies that have yet to acknowledge a secret')
    .option('--acknowledged', 'only proxies that have acknowledged a secret')
    .option('--gone', 'also proxies that left within the last minutes')
    .action(async (options: ListOptions) => {
      const proxies = await find(options, [queryOf(options)]);
      if (options.quiet) for (const { pid } of proxies) print(String(pid));
      else if (options.output !== 'table') printDocument(proxies.map(proxyDocument), options.output);
      else printRows(proxies.map(proxyRow), proxyColumns, 'table');
      requireAllWell(proxies);
    });
}

function showCommand(): Command {
  const show = command(
    'show <pid|node-id>',
    'show all about a proxy, or about all with this node ID: each secret, what became of it, and what to do; exits ' +
      'with 4 when one is refused or stalled',
    'signet proxy show 4711\nsignet proxy show frontend-sidecar -o yaml',
  );
  return withAgentAdminOptions(withOutput(show)).action(async (name: string, options: ShowOptions) => {
    const queries = [...(isPid(name) ? [{ pid: Number(name) }] : []), { nodeId: name }];
    const proxies = await find(
      options,
      queries.map((query) => ({ ...query, includeGone: true, includeSecrets: true })),
    );
    if (proxies.length === 0) {
      throw new AppError(
        'not-found',
        `no proxy with the process ID or node ID "${text(name)}"; see \`signet proxy list\``,
      );
    }
    if (options.quiet) for (const { pid } of proxies) print(String(pid));
    else if (options.output !== 'table') printDocument(proxies.map(proxyWithSecrets), options.output);
    else for (const [i, proxy] of proxies.entries()) printProxy(proxy, i, systemClock.now());
    requireAllWell(proxies);
  });
}

/** What the first query finds that finds something. */
async function find(
  options: AgentAdminOptions,
  queries: readonly ProxyQuery[],
): Promise<readonly ConnectedProxy[]> {
  return withAgentAdmin(options, async (channel, signal) => {
    const client = new ProxiesClient(channel);
    for (const query of queries) {
      const found = await client.list({ ...query, signal });
      if (found.length > 0) return found;
    }
    return [];
  });
}

function queryOf(options: ListOptions): ProxyQuery {
  return {
    pid: options.pid,
    nodeId: options.node,
    spiffeId: options.spiffeId?.toString(),
    states: secretStates.filter((state) => options[state] === true),
    includeGone: options.gone === true,
  };
}

/** Held is no fault: the registration may come later. Who is gone has nothing to answer for. */
function requireAllWell(proxies: readonly ConnectedProxy[]): void {
  const isUnwell = ({ connections, counts }: ConnectedProxy) =>
    connections > 0 && counts.refused + counts.stalled > 0;
  if (proxies.some(isUnwell)) throw new NotHealthy();
}

function isPid(text: string): boolean {
  return /^[1-9]\d{0,9}$/.test(text) && Number(text) < 2 ** 31;
}

function parsePid(text: string): number {
  if (isPid(text)) return Number(text);
  throw new AppError('invalid-argument', 'expected a process ID such as 4711');
}
