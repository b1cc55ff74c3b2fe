import { type Command, Option } from 'commander';
import type { EntryQuery } from '../clients/admin/entry-client.ts';
import type { MatchBehavior, Selector } from '../spiffe/selector.ts';
import { parseSelector } from '../spiffe/selector.ts';
import { SpiffeId, TrustDomain } from '../spiffe/spiffe-id.ts';
import { command, parsedBy, type ServerOptions, several, withServer, withServerOptions } from './command.ts';
import { entryColumns, entryRow } from './entry-document.ts';
import { print, printRecord, printRows } from './output.ts';

interface QueryOptions extends ServerOptions {
  readonly spiffeId?: SpiffeId;
  readonly parent?: SpiffeId;
  readonly selector?: readonly Selector[];
  readonly match: MatchBehavior;
  readonly federatesWith?: readonly TrustDomain[];
  readonly matchFederation: MatchBehavior;
  readonly hint?: string;
  readonly downstream?: boolean;
}

/** `signet entry list`. */
export function listCommand(): Command {
  return withQuery(
    command(
      'list',
      'list entries, or those for which all that is named holds',
      'signet entry list --parent AGENT-ID -o json\nsignet entry list --selector unix:uid:1001 --match superset',
    ),
  ).action(async (options: QueryOptions) => {
    const entries = await withServer(options, (client, signal) =>
      client.entries.list({ ...queryOf(options), signal }),
    );
    if (options.quiet) for (const entry of entries) print(entry.id);
    else printRows(entries.map(entryRow), entryColumns, options.output);
  });
}

/** `signet entry count`. */
export function countCommand(): Command {
  return withQuery(
    command(
      'count',
      'count entries, or those for which all that is named holds',
      'signet entry count --federates-with other.org',
    ),
  ).action(async (options: QueryOptions) => {
    const count = await withServer(options, (client, signal) =>
      client.entries.count({ ...queryOf(options), signal }),
    );
    if (options.output === 'table') print(String(count));
    else printRecord({ count }, options.output);
  });
}

function withQuery(target: Command): Command {
  return withServerOptions(target)
    .option('--spiffe-id <id>', 'only entries with this SPIFFE ID', parsedBy(SpiffeId.parse))
    .option('--parent <id>', 'only entries below this parent', parsedBy(SpiffeId.parse))
    .option('--selector <type:value>', 'only entries with these selectors; repeat', several(parseSelector))
    .addOption(matchOption('--match', "how an entry's selectors compare with those named"))
    .option(
      '--federates-with <trust-domain>',
      'only entries that federate with these; repeat',
      several(TrustDomain.parseNameOrId),
    )
    .addOption(matchOption('--match-federation', "how an entry's trust domains compare with those named"))
    .option('--hint <text>', 'only entries with this hint')
    .option('--downstream', 'only entries of downstream servers')
    .option('--no-downstream', 'only entries of others');
}

function matchOption(name: string, what: string): Option {
  const meaning = 'superset = it has all of them and may have more, subset = it has no others';
  return new Option(`${name} <how>`, `${what}: ${meaning}`)
    .choices(['exact', 'superset', 'subset', 'any'] satisfies MatchBehavior[])
    .default('superset');
}

function queryOf(options: QueryOptions): EntryQuery {
  const { selector, federatesWith, match, matchFederation } = options;
  return {
    spiffeId: options.spiffeId,
    parentId: options.parent,
    selectors: selector && { wanted: selector, match },
    federatesWith: federatesWith && { wanted: federatesWith, match: matchFederation },
    hint: options.hint,
    downstream: options.downstream,
  };
}
