import { existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { type HealthReport, HealthService, State } from '../gen/signet/health/v1/health.ts';
import { callUnary, unixChannel } from '../rpc/grpc-client.ts';
import {
  command,
  defaultAgentAdminSocket,
  defaultServerSocket,
  interruption,
  requireSocket,
  WrongUsage,
  withOutput,
} from './command.ts';
import { type OutputFormat, print, printDocument, printRows } from './output.ts';

interface HealthOptions {
  readonly role?: 'server' | 'agent';
  readonly socket?: string;
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

/** Thrown after the report was printed: it only sets the exit code. */
export class NotHealthy extends Error {}

const stateTexts = {
  [State.STATE_UNSPECIFIED]: 'unknown',
  [State.OK]: 'ok',
  [State.DEGRADED]: 'degraded',
  [State.NOT_READY]: 'not ready',
  [State.UNRECOGNIZED]: 'unknown',
} as const;

/** `signet health`: how the server or agent on this host is; exits with 4 when it is not well. */
export function healthCommand(): Command {
  return withOutput(
    command('health', 'show how the server or agent on this host is', 'signet health --role agent'),
  )
    .addOption(new Option('--role <role>', 'needed only when both run here').choices(['server', 'agent']))
    .option('--socket <path>', "the role's admin socket")
    .action(async (options: HealthOptions) => {
      const socket = options.socket ?? findSocket(options.role);
      requireSocket(
        socket,
        'server or agent',
        '--socket PATH',
        'signet server run --config server.yaml, signet agent run --config agent.yaml',
      );
      const channel = unixChannel(socket);
      try {
        const report = await callUnary(
          channel,
          HealthService.getHealth,
          {},
          { signal: interruption(), timeoutMs: 10_000 },
        );
        show(report, options);
        if (report.state !== State.OK) throw new NotHealthy();
      } finally {
        channel.close();
      }
    });
}

function show(report: HealthReport, options: HealthOptions): void {
  const { role, version, trustDomain } = report;
  const state = stateTexts[report.state];
  const checks = report.checks.map((check) => ({
    check: check.name,
    state: stateTexts[check.state],
    message: check.message,
    nextStep: check.nextStep,
  }));
  if (options.quiet) {
    print(state);
  } else if (options.output !== 'table') {
    printDocument({ role, version, trustDomain, state, checks }, options.output);
  } else {
    print(`${role} ${version} of ${trustDomain}: ${state}`);
    printRows(checks, ['check', 'state', 'message', 'nextStep'], 'table');
  }
}

function findSocket(role: 'server' | 'agent' | undefined): string {
  const sockets = {
    server: process.env['SIGNET_SERVER_SOCKET'] ?? defaultServerSocket,
    agent: process.env['SIGNET_AGENT_ADMIN_SOCKET'] ?? defaultAgentAdminSocket,
  };
  if (role !== undefined) return sockets[role];
  const found = Object.values(sockets).filter((path) => existsSync(path));
  if (found.length > 1) {
    throw new WrongUsage('a server and an agent run here: add --role server or --role agent');
  }
  return found[0] ?? sockets.agent;
}
