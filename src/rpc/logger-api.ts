import { LoggerService as AgentLoggerService } from '../gen/spire/api/agent/logger/v1/logger.ts';
import {
  LoggerService as ServerLoggerService,
  type SetLogLevelRequest,
} from '../gen/spire/api/server/logger/v1/logger.ts';
import { LogLevel as WireLevel, type Logger as WireLogger } from '../gen/spire/api/types/logger.ts';
import { AppError } from '../runtime/error.ts';
import { type Logger, type LogLevel, logLevels } from '../runtime/log.ts';
import { type GrpcService, serviceOf, unary } from './handlers.ts';

/** Our levels as `spire.api.types.LogLevel`. */
export const wireLogLevels = {
  trace: WireLevel.TRACE,
  debug: WireLevel.DEBUG,
  info: WireLevel.INFO,
  warn: WireLevel.WARN,
  error: WireLevel.ERROR,
} as const satisfies Record<LogLevel, WireLevel>;

/** Ours end at error: what SPIRE would still say at its two levels above is an error here. */
const fromWire: ReadonlyMap<number, LogLevel> = new Map<number, LogLevel>([
  ...logLevels.map((level) => [wireLogLevels[level], level] as const),
  [WireLevel.FATAL, 'error'],
  [WireLevel.PANIC, 'error'],
]);

/**
 * `spire.api.{server,agent}.logger.v1.Logger`: shows and sets the level of `log` while it runs; a reset sets what it
 * was when this was called.
 */
export function loggerApi(role: 'server' | 'agent', log: Logger): GrpcService {
  const launchLevel = log.level;
  const now = (): WireLogger => ({ currentLevel: wireLevel(log.level), launchLevel: wireLevel(launchLevel) });
  const set = (level: string): WireLogger => {
    // Before it counts: a quieter level would hide it.
    log.warn({ from: log.level, to: level }, 'the log level is changed');
    log.level = level;
    return now();
  };
  const handlers = {
    getLogger: unary(async () => now()),
    setLogLevel: unary(async ({ newLevel }: SetLogLevelRequest) => set(levelOf(newLevel))),
    resetLogLevel: unary(async () => set(launchLevel)),
  };
  return role === 'server'
    ? serviceOf(ServerLoggerService, handlers)
    : serviceOf(AgentLoggerService, handlers);
}

function wireLevel(level: string): WireLevel {
  const known = logLevels.find((candidate) => candidate === level);
  return known === undefined ? WireLevel.UNSPECIFIED : wireLogLevels[known];
}

function levelOf(wire: WireLevel): LogLevel {
  if (wire === WireLevel.UNSPECIFIED) {
    throw new AppError('invalid-argument', 'newLevel value cannot be LogLevel_UNSPECIFIED');
  }
  const level = fromWire.get(wire);
  if (level === undefined) throw new AppError('invalid-argument', `unknown log level ${wire}`);
  return level;
}
