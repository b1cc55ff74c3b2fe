import type { Command } from 'commander';
import { HealthService } from '../gen/signet/health/v1/health.ts';
import { LoggerService as AgentLoggerService } from '../gen/spire/api/agent/logger/v1/logger.ts';
import { LoggerService as ServerLoggerService } from '../gen/spire/api/server/logger/v1/logger.ts';
import type { Logger, LogLevel as WireLevel } from '../gen/spire/api/types/logger.ts';
import { type ClientChannel, callUnary } from '../rpc/grpc-client.ts';
import { wireLogLevels } from '../rpc/logger-api.ts';
import { AppError } from '../runtime/error.ts';
import { logLevels } from '../runtime/log.ts';
import { command, noun, parsedBy, withOutput } from './command.ts';
import { type OutputFormat, print, printDocument } from './output.ts';
import { type RoleOptions, withRole, withRoleOptions } from './role-socket.ts';

interface LogLevelOptions extends RoleOptions {
  readonly output: OutputFormat;
  readonly quiet?: boolean;
}

/** What is done to the level, by the method of either role. */
type Change = { readonly method: 'getLogger' | 'resetLogLevel' } | { readonly newLevel: WireLevel };

/** `signet log-level`: how much the running server or agent logs. */
export function logLevelCommand(): Command {
  const verb = (call: string, summary: string, example: string) =>
    withRoleOptions(withOutput(command(call, summary, example)));
  const set = verb('set', 'log more or less from now on', 'signet log-level set debug --role agent')
    .argument('<level>', logLevels.join(', '), parsedBy(levelNamed))
    .action((newLevel: WireLevel, options: LogLevelOptions) => change({ newLevel }, options));
  return noun('log-level', 'show or change how much the running server or agent logs', [
    verb('get', 'show the level now and at the start', 'signet log-level get').action(
      (options: LogLevelOptions) => change({ method: 'getLogger' }, options),
    ),
    set,
    verb('reset', 'back to the level of the configuration', 'signet log-level reset').action(
      (options: LogLevelOptions) => change({ method: 'resetLogLevel' }, options),
    ),
  ]);
}

async function change(wanted: Change, options: LogLevelOptions): Promise<void> {
  const { role, currentLevel, launchLevel } = await withRole(options, async (channel, signal) => {
    const call = { signal, timeoutMs: 10_000 };
    const role = (await callUnary(channel, HealthService.getHealth, {}, call)).role;
    return { role, ...(await callLogger(channel, role, wanted, call)) };
  });
  const [level, atLaunch] = [nameOf(currentLevel), nameOf(launchLevel)];
  if (options.quiet) print(level);
  else if (options.output !== 'table') printDocument({ role, level, launchLevel: atLaunch }, options.output);
  else print(`${role}: ${level}${level === atLaunch ? '' : ` (at the start: ${atLaunch})`}`);
}

function callLogger(
  channel: ClientChannel,
  role: string,
  wanted: Change,
  call: { readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<Logger> {
  const service = role === 'server' ? ServerLoggerService : AgentLoggerService;
  if ('newLevel' in wanted) return callUnary(channel, service.setLogLevel, wanted, call);
  return callUnary(channel, service[wanted.method], {}, call);
}

function levelNamed(text: string): WireLevel {
  const level = logLevels.find((known) => known === text);
  if (level !== undefined) return wireLogLevels[level];
  throw new AppError('invalid-argument', `expected one of ${logLevels.join(', ')}`);
}

function nameOf(wire: WireLevel): string {
  return logLevels.find((level) => wireLogLevels[level] === wire) ?? 'unknown';
}
