import { Command, CommanderError } from 'commander';
import { AppError, errorText } from '../runtime/error.ts';
import { version } from '../runtime/version.ts';
import { agentCommand } from './agent.ts';
import { authorityCommand } from './authority.ts';
import { bundleCommand } from './bundle.ts';
import { WrongUsage, withConventions, withVerbs } from './command.ts';
import { devCommand } from './dev.ts';
import { entryCommand } from './entry.ts';
import { healthCommand, NotHealthy } from './health.ts';
import { logLevelCommand } from './log-level.ts';
import { proxyCommand } from './proxy.ts';
import { serverCommand } from './run-server.ts';
import { tokenCommand } from './token.ts';
import { workloadCommand } from './workload.ts';
import { x509Command } from './x509.ts';

/** What a command ends with (interface: exit codes). */
export const exitCodes = { done: 0, failed: 1, usage: 2, notFound: 3, notHealthy: 4 } as const;

/** The whole command line. */
export function program(): Command {
  const root = withConventions(new Command('signet'))
    .description('SPIFFE identities for every workload in an Envoy mesh')
    .version(version)
    .option('--debug', 'show stack traces of errors')
    .addHelpText('after', '\nTwo minutes to try it:\n  signet dev');
  return withVerbs(root, [
    serverCommand(),
    agentCommand(),
    tokenCommand(),
    entryCommand(),
    bundleCommand(),
    authorityCommand(),
    x509Command(),
    workloadCommand(),
    proxyCommand(),
    healthCommand(),
    logLevelCommand(),
    devCommand(),
  ]);
}

/** Runs one command line and returns its exit code; errors go to stderr as one line `signet: …`. */
export async function runCommandLine(argv: readonly string[]): Promise<number> {
  const root = program();
  try {
    await root.parseAsync([...argv]);
    return exitCodes.done;
  } catch (error) {
    if (error instanceof CommanderError) return usageExit(error);
    if (error instanceof NotHealthy) return exitCodes.notHealthy;
    process.stderr.write(`signet: ${errorText(error)}\n`);
    if (error instanceof WrongUsage) return exitCodes.usage;
    if (root.opts<{ debug?: boolean }>().debug === true && error instanceof Error) {
      process.stderr.write(`${error.stack}\n`);
    }
    return error instanceof AppError && error.code === 'not-found' ? exitCodes.notFound : exitCodes.failed;
  }
}

/** Commander has printed already; asking for help or the version is no mistake. */
function usageExit(error: CommanderError): number {
  const isHelp = error.code === 'commander.help' || error.code === 'commander.helpDisplayed';
  return isHelp || error.code === 'commander.version' ? exitCodes.done : exitCodes.usage;
}
