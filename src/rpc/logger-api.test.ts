import { describe, expect, it } from 'vitest';
import { LoggerService as AgentLoggerService } from '../gen/spire/api/agent/logger/v1/logger.ts';
import { LoggerService as ServerLoggerService } from '../gen/spire/api/server/logger/v1/logger.ts';
import { LogLevel } from '../gen/spire/api/types/logger.ts';
import { createLogger } from '../runtime/log.ts';
import { channelTo, startListener } from '../testing/grpc-listener.ts';
import { callUnary } from './grpc-client.ts';
import { loggerApi } from './logger-api.ts';

const { ERROR, WARN, INFO, DEBUG, TRACE, FATAL, PANIC, UNSPECIFIED } = LogLevel;

async function start(role: 'server' | 'agent' = 'server') {
  const lines: string[] = [];
  const log = createLogger({ level: 'info', format: 'json', write: (line) => void lines.push(line) });
  const channel = channelTo(await startListener({ services: [loggerApi(role, log)] }));
  const service = role === 'server' ? ServerLoggerService : AgentLoggerService;
  return {
    log,
    lines,
    get: () => callUnary(channel, service.getLogger, {}),
    set: (newLevel: LogLevel) => callUnary(channel, service.setLogLevel, { newLevel }),
    reset: () => callUnary(channel, service.resetLogLevel, {}),
  };
}

describe.each(['server', 'agent'] as const)('the log level of a running %s', (role) => {
  it('can be seen, set and reset, and counts at once, for the loggers made before as well', async () => {
    const { log, lines, get, set, reset } = await start(role);
    const child = log.child({ part: 'x' });
    expect(await get()).toEqual({ currentLevel: INFO, launchLevel: INFO });
    child.debug('unseen');
    expect(await set(DEBUG)).toEqual({ currentLevel: DEBUG, launchLevel: INFO });
    child.debug('seen');
    expect(await reset()).toEqual({ currentLevel: INFO, launchLevel: INFO });
    child.debug('unseen again');
    const said = lines.map((line) => JSON.parse(line)).filter(({ part }) => part === 'x');
    expect(said).toMatchObject([{ message: 'seen' }]);
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ from: 'info', to: 'debug' });
  });
});

describe('a log level', () => {
  it.each([
    { wire: TRACE, level: 'trace', shown: TRACE },
    { wire: WARN, level: 'warn', shown: WARN },
    { wire: ERROR, level: 'error', shown: ERROR },
    { wire: FATAL, level: 'error', shown: ERROR },
    { wire: PANIC, level: 'error', shown: ERROR },
  ])('$wire of SPIRE is our $level', async ({ wire, level, shown }) => {
    const { log, set } = await start();
    expect(await set(wire)).toEqual({ currentLevel: shown, launchLevel: INFO });
    expect(log.level).toBe(level);
  });

  it.each([
    { wire: UNSPECIFIED, message: 'newLevel value cannot be LogLevel_UNSPECIFIED' },
    { wire: 99 as LogLevel, message: 'unknown log level 99' },
  ])('that does not exist is refused: $wire', async ({ wire, message }) => {
    const { log, set } = await start();
    await expect(set(wire)).rejects.toMatchObject({ code: 'invalid-argument', message });
    expect(log.level).toBe('info');
  });
});
