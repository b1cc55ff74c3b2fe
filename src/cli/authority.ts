import type { Command } from 'commander';
import type { AdminClient } from '../clients/admin/admin-client.ts';
import type { AuthorityOverview, AuthoritySummary } from '../clients/admin/authority-client.ts';
import { AppError, isAppError } from '../runtime/error.ts';
import { showAuthorities } from './authority-show.ts';
import { command, noun, type ServerOptions, withServer, withServerOptions } from './command.ts';
import { print, printRecord, printRows, remark } from './output.ts';

interface ForceOptions extends ServerOptions {
  readonly force?: boolean;
}

/** `signet authority`: the server's CA certificates and their keys. */
export function authorityCommand(): Command {
  return noun('authority', "the server's certificate authority", [
    noun('x509', 'CA certificates for X.509-SVIDs: what signs, what comes, what was', [
      showCommand(),
      prepareCommand(),
      activateCommand(),
      taintCommand(),
      revokeCommand(),
    ]),
    pruneCommand(),
  ]);
}

function showCommand(): Command {
  return withServerOptions(
    command(
      'show',
      'show what is active, until when, what happens next and when',
      'signet authority x509 show',
    ),
  ).action(async (options: ServerOptions) => {
    showAuthorities(
      await withServer(options, (client, signal) => client.authorities.show({ signal })),
      options,
    );
  });
}

function prepareCommand(): Command {
  return withServerOptions(
    command(
      'prepare',
      'make and publish another CA certificate, in place of one that is prepared already; it signs once it is activated',
      'signet authority x509 prepare\nsignet authority x509 prepare --new-root',
    ),
  )
    .option('--new-root', 'below a new root, where the server has roots of its own (local_root)')
    .action(async (options: ServerOptions & { readonly newRoot?: boolean }) => {
      const newRoot = options.newRoot === true;
      const made = await withServer(options, (client, signal) =>
        client.authorities.prepare({ newRoot, signal }),
      );
      printOne(made, options);
      remark(
        `signet: next: signet authority x509 activate ${made.id}, when all connected agents hold its root; or leave it to the server`,
      );
    });
}

function activateCommand(): Command {
  return withServerOptions(
    command(
      'activate <id>',
      'let a prepared CA certificate sign from now on; open connections stay open',
      'signet authority x509 activate 3f1c…',
    ),
  )
    .option(
      '--force',
      'even if connected agents do not hold its root yet: their workloads would refuse peers',
    )
    .action(async (id: string, options: ForceOptions) => {
      const activated = await withServer(options, async (client, signal) => {
        if (options.force !== true) requireHeld(await client.authorities.show({ signal }));
        return client.authorities.activate(id, { signal });
      });
      printOne(activated, options);
    });
}

function taintCommand(): Command {
  return withServerOptions(
    command(
      'taint <id>',
      'mark an old CA certificate, or an old root, as not to be used any more: agents replace what it has signed',
      'signet authority x509 taint 3f1c…',
    ),
  ).action(async (id: string, options: ServerOptions) => {
    const after = await withServer(options, async (client, signal) => {
      const isUpstream = isUpstreamRoot(id, await client.authorities.show({ signal }));
      await client.authorities.taint(id, { isUpstream, signal });
      return client.authorities.show({ signal });
    });
    printDone('tainted', id, options);
    const inUse = after.authorities.find((one) => one.id === id)?.details?.svidsInUse;
    const count = inUse === undefined ? '' : ` ${inUse}`;
    remark(
      `signet: agents replace${count} SVIDs now; \`signet authority x509 show\` says when none is left: then signet authority x509 revoke ${id}`,
    );
  });
}

function revokeCommand(): Command {
  return withServerOptions(
    command(
      'revoke <id>',
      'take a tainted root out of the trust bundle: nothing that it has signed is trusted any more',
      'signet authority x509 revoke 3f1c…\nsignet authority x509 revoke 3f1c… --force',
    ),
  )
    .option(
      '--force',
      'even if SVIDs of it are in use: their connections break, and agents with such an SVID must attest again',
    )
    .action(async (id: string, options: ForceOptions) => {
      const force = options.force === true;
      await withServer(options, (client, signal) => revoke(id, { client, force, signal }));
      printDone('revoked', id, options);
    });
}

async function revoke(
  id: string,
  {
    client,
    force,
    signal,
  }: { readonly client: AdminClient; readonly force: boolean; readonly signal: AbortSignal },
): Promise<void> {
  const isUpstream = isUpstreamRoot(id, await client.authorities.show({ signal }));
  try {
    await client.authorities.revoke(id, { isUpstream, force, signal });
  } catch (error) {
    if (!isAppError(error, 'unimplemented')) throw error;
    throw new AppError(
      'failed-precondition',
      'this server cannot say whether SVIDs of it are in use; wait until all have been replaced, then use --force',
    );
  }
}

function pruneCommand(): Command {
  return withServerOptions(
    command(
      'prune',
      'list the keys in the key managers that nothing accounts for, such as those that a crash left behind',
      'signet authority prune\nsignet authority prune --yes',
    ),
  )
    .option('--yes', 'destroy them')
    .action(async (options: ServerOptions & { readonly yes?: boolean }) => {
      const dryRun = options.yes !== true;
      const keys = await withServer(options, (client, signal) =>
        client.authorities.pruneKeys({ dryRun, signal }),
      );
      if (options.quiet) for (const { keyId } of keys) print(keyId);
      else
        printRows(
          keys.map((key) => ({ ...key })),
          ['role', 'keyId', 'why'],
          options.output,
        );
      if (options.output !== 'table') return;
      const what = dryRun && keys.length > 0 ? 'found; run it with --yes to destroy them' : 'destroyed';
      remark(`signet: ${keys.length} keys ${keys.length === 0 ? 'found' : what}`);
    });
}

/** An agent that is a little behind catches up in seconds. */
function requireHeld({ details }: AuthorityOverview): void {
  if (details === undefined || details.agentsBehind === 0) return;
  throw new AppError(
    'failed-precondition',
    `${details.agentsBehind} connected agents do not hold the trust bundle yet, and their workloads would refuse peers; try again in a few seconds, or use --force`,
  );
}

/** Throws `failed-precondition` with the root to name instead. */
function isUpstreamRoot(id: string, { authorities }: AuthorityOverview): boolean {
  const named = authorities.find((one) => one.id === id);
  if (named === undefined) return authorities.some(({ rootId }) => rootId === id.toLowerCase());
  if (named.role === 'root') return true;
  if (named.rootId === '') return false;
  throw new AppError(
    'failed-precondition',
    `"${id}" stands below root "${named.rootId}", and only roots can be taken out of a trust bundle; name the root, once nothing active is below it (signet authority x509 prepare --new-root)`,
  );
}

function printOne({ id, role, state, expiresAt, rootId }: AuthoritySummary, options: ServerOptions): void {
  if (options.quiet) print(id);
  else printRecord({ id, role, state, expiresAt: timeOf(expiresAt), rootId }, options.output);
}

function printDone(done: string, id: string, options: ServerOptions): void {
  if (options.output !== 'table') printRecord({ id, state: done }, options.output);
  else print(options.quiet ? id : `${done} ${id}`);
}

function timeOf(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}
