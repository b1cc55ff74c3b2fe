import { z } from 'zod';
import { createLogger, type Logger, logLevels } from './log.ts';

/** The section `log` of a role's configuration. */
export const logSettings = z
  .strictObject({
    level: z.enum(logLevels).default('info').describe('How much is logged.'),
    format: z
      .enum(['json', 'pretty'])
      .optional()
      .describe('`json`: one object a line; `pretty`: for people. Default: pretty on a terminal, else json.'),
  })
  .prefault({});

/** A logger on stderr as the settings say. */
export function loggerOf(settings: z.output<typeof logSettings>): Logger {
  const format = settings.format ?? (process.stderr.isTTY === true ? 'pretty' : 'json');
  return createLogger({ level: settings.level, format });
}
