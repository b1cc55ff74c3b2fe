import type { Command } from 'commander';
import { type HealthReport, HealthService, State } from '../gen/signet/health/v1/health.ts';
import { callUnary } from '../rpc/grpc-client.ts';
import { command, withOutput } from './command.ts';
import { type OutputFormat, print, printDocument, printRows } from './output.ts';
import { type RoleOptions, withRole, withRoleOptions } from './role-socket.ts';

interface HealthOptions extends RoleOptions {
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
  const health = command(
    'health',
    'show how the server or agent on this host is',
    'signet health --role agent',
  );
  return withRoleOptions(withOutput(health)).action(async (options: HealthOptions) => {
    const report = await withRole(options, (channel, signal) =>
      callUnary(channel, HealthService.getHealth, {}, { signal, timeoutMs: 10_000 }),
    );
    show(report, options);
    if (report.state !== State.OK) throw new NotHealthy();
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
