import { type Command, Option } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import type { AgentSummary } from '../clients/admin/agent-client.ts';
import { type AppError, isAppError } from '../runtime/error.ts';
import { systemClock } from '../runtime/time.ts';
import { agentRow } from './agent-query.ts';
import {
  command,
  type ServerOptions,
  seconds,
  throwRefusals,
  withServer,
  withServerOptions,
} from './command.ts';
import { print, printRows, remark } from './output.ts';
import { Progress } from './progress.ts';

interface PurgeOptions extends ServerOptions {
  readonly expiredFor: number;
  readonly all?: boolean;
  readonly dryRun?: boolean;
}

/** `signet agent purge`: deletes agents that have been gone for long. */
export function purgeCommand(): Command {
  return withServerOptions(
    command(
      'purge',
      'delete agents whose certificate expired long ago; banned ones stay',
      'signet agent purge --expired-for 7d --dry-run\nsignet agent purge --expired-for 7d',
    ),
  )
    .addOption(
      new Option('--expired-for <duration>', 'how long the certificate must have expired')
        .argParser(seconds)
        .default(86_400, '24h'),
    )
    .option(
      '--all',
      'also agents that cannot attest again, such as those of join tokens; while one of an attestor that trusts ' +
        'the first to come is known, nobody else can take its place',
    )
    .option('--dry-run', 'only show which agents would be deleted')
    .action(async (options: PurgeOptions) =>
      withServer(options, (client, signal) => purge(options, client, signal)),
    );
}

async function purge(options: PurgeOptions, client: AdminClient, signal: AbortSignal): Promise<void> {
  const before = Math.floor(systemClock.now() / 1000) - options.expiredFor;
  const canReattest = options.all === true ? undefined : true;
  // A record is all that keeps a banned agent out.
  const found = await client.agents.list({ banned: false, canReattest, expiresBefore: before, signal });
  if (options.dryRun === true) {
    show(found, options);
    remark(`signet: ${found.length} agents would be deleted; run it without --dry-run to do so`);
    return;
  }
  const { deleted, refusals } = await deleteAll(found, { client, before, signal });
  show(deleted, options);
  if (options.output === 'table') remark(`signet: ${deleted.length} agents deleted`);
  throwRefusals(refusals);
}

async function deleteAll(
  found: readonly AgentSummary[],
  { client, before, signal }: { client: AdminClient; before: number; signal: AbortSignal },
): Promise<{ readonly deleted: readonly AgentSummary[]; readonly refusals: readonly AppError[] }> {
  const progress = new Progress({
    what: 'agents',
    total: found.length,
    clock: systemClock,
    stream: process.stderr,
  });
  const deleted: AgentSummary[] = [];
  const refusals: AppError[] = [];
  for (const [index, { id }] of found.entries()) {
    progress.update(index);
    try {
      // It may have come back, or been banned, since the list was made.
      const now = await client.agents.get(id, { signal });
      if (now.banned || now.expiresAt >= before) continue;
      await client.agents.delete(id, { signal });
      deleted.push(now);
    } catch (error) {
      if (isAppError(error, 'not-found')) continue;
      if (!isAppError(error) || signal.aborted) throw error;
      refusals.push(error);
    }
  }
  progress.clear();
  return { deleted, refusals };
}

function show(agents: readonly AgentSummary[], options: ServerOptions): void {
  if (options.quiet) for (const { id } of agents) print(id.toString());
  else printRows(agents.map(agentRow), ['id', 'attestationType', 'expiresAt'], options.output);
}
