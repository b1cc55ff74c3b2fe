import type { Command } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import type { AgentSummary } from '../clients/admin/agent-client.ts';
import { type AppError, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { EntryIndex } from '../server/registration/entry-index.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { purgeCommand } from './agent-purge.ts';
import { agentRow, countCommand, listCommand } from './agent-query.ts';
import {
  command,
  noun,
  refusalOf,
  type ServerOptions,
  several,
  throwRefusals,
  withServer,
  withServerOptions,
} from './command.ts';
import { print, printRecord, printRows, remark } from './output.ts';
import { checkCommand, runCommand } from './run-agent.ts';
import { heldCertificates } from './running-envoy.ts';

/** `signet agent`: the agent role, and the agents that a server knows. */
export function agentCommand(): Command {
  return noun('agent', 'the agent: run it here; or manage the agents that a server knows', [
    runCommand(),
    checkCommand(),
    listCommand(),
    showCommand(),
    countCommand(),
    banCommand(),
    evictCommand(),
    purgeCommand(),
  ]);
}

function showCommand(): Command {
  const show = withServerOptions(
    command(
      'show <id>',
      'show one agent',
      'signet agent show spiffe://example.org/spire/agent/x509pop/0b5a…',
    ),
  );
  return withIds(show).action(async ([id]: readonly SpiffeId[], options: ServerOptions) => {
    if (id === undefined) return;
    const agent = await withServer(options, (client, signal) =>
      client.agents.get(id, { signal }).catch((error: unknown) => {
        throw isAppError(error) ? refusalOf(`agent "${id}"`, error, 'signet agent list') : error;
      }),
    );
    if (options.quiet) print(agent.id.toString());
    else printRecord(agentRow(agent), options.output);
  });
}

function banCommand(): Command {
  const ban = withServerOptions(
    command(
      'ban <id...>',
      "take agents' access away, for good: they cannot attest again until they are evicted; a running Envoy keeps the certificate it has until that expires",
      'signet agent ban spiffe://example.org/spire/agent/x509pop/0b5a…',
    ),
  );
  return withIds(ban).action((ids: readonly SpiffeId[], options: ServerOptions) =>
    removeAgents(ids, options, {
      done: 'banned',
      remove: (client, id, signal) => client.agents.ban(id, { signal }),
      means: () => 'it stays out until `signet agent evict`',
    }),
  );
}

function evictCommand(): Command {
  const evict = withServerOptions(
    command(
      'evict <id...>',
      'delete agents: they lose their access, and attest again if they can; lifts a ban; a running Envoy keeps the certificate it has until that expires',
      'signet agent evict spiffe://example.org/spire/agent/join_token/5f1c…',
    ),
  );
  return withIds(evict).action((ids: readonly SpiffeId[], options: ServerOptions) =>
    removeAgents(ids, options, {
      done: 'evicted',
      remove: (client, id, signal) => client.agents.delete(id, { signal }),
      means: ({ canReattest }) =>
        canReattest
          ? 'it attests again by itself; `signet agent ban` keeps it out'
          : 'it comes back with a new token or proof only (`signet token create`)',
    }),
  );
}

/** Commander gives a single argument as itself, several as a list; here they are a list of IDs. */
function withIds(target: Command): Command {
  const [argument] = target.registeredArguments;
  const parse = several(SpiffeId.parse);
  argument?.argParser((text: string, before: unknown) =>
    parse(text, before as readonly SpiffeId[] | undefined),
  );
  return target;
}

interface Removal {
  readonly done: 'banned' | 'evicted';
  readonly remove: (client: AdminClient, id: SpiffeId, signal: AbortSignal) => Promise<void>;
  /** What it means for this agent. */
  readonly means: (agent: AgentSummary) => string;
}

/** Removes one after the other; what was refused is said at the end, after what was done. */
async function removeAgents(
  ids: readonly SpiffeId[],
  options: ServerOptions,
  removal: Removal,
): Promise<void> {
  await withServer(options, async (client, signal) => {
    const entries = await client.entries.list({ signal });
    const removed: AgentSummary[] = [];
    const refusals: AppError[] = [];
    for (const id of new Map(ids.map((id) => [id.toString(), id])).values()) {
      try {
        const agent = await client.agents.get(id, { signal });
        await removal.remove(client, id, signal);
        removed.push(agent);
      } catch (error) {
        if (!isAppError(error)) throw error;
        refusals.push(refusalOf(`agent "${id}"`, error, 'signet agent list'));
      }
    }
    report(removed, options, removal);
    for (const agent of removed) sayWhatItMeans(agent, entries, removal);
    throwRefusals(refusals);
  });
}

function report(removed: readonly AgentSummary[], options: ServerOptions, { done }: Removal): void {
  const ids = removed.map(({ id }) => id.toString());
  if (options.output !== 'table') {
    const rows = ids.map((id) => ({ id }));
    printRows(rows, ['id'], options.output);
  } else for (const id of ids) print(options.quiet ? id : `${done} ${id}`);
}

function sayWhatItMeans(
  agent: AgentSummary,
  entries: readonly RegistrationEntry[],
  { means }: Removal,
): void {
  const nowMs = systemClock.now();
  const index = new EntryIndex(agent.id.trustDomain);
  for (const entry of entries) index.put(entry);
  const served = index.authorizedFor(agent, nowMs / 1000);
  const held =
    served.length === 0
      ? 'no entry is registered for it'
      : `${served.length} entries are registered for it: ${heldCertificates(served, nowMs)}`;
  remark(`signet: ${agent.id}: ${means(agent)}; ${held}`);
}
