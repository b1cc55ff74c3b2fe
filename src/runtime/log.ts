import { type Logger as PinoLogger, pino } from 'pino';
import { logFields } from './log-fields.ts';
import { prettyLine } from './log-pretty.ts';
import { stderrWriter } from './stderr.ts';

/** From most to least talkative. */
export const logLevels = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

/** One log line: a fixed message, with what varies in fields. */
export interface LogMethod {
  (fields: object, message: string): void;
  (message: string): void;
}

/** Where a component writes its log lines. */
export interface Logger {
  readonly trace: LogMethod;
  readonly debug: LogMethod;
  readonly info: LogMethod;
  readonly warn: LogMethod;
  readonly error: LogMethod;
  /** A logger that adds `fields` to each line and shares the level of this one. */
  child(fields: object): Logger;
  /** Settable while running; it counts for all children too. Unknown names are ignored. */
  level: string;
}

/**
 * Makes a logger; without `write` it goes to stderr, since stdout belongs to a command's result.
 * Secrets are redacted by field name and errors are printed as text and code: see `logFields`.
 */
export function createLogger(options: {
  readonly level: LogLevel;
  readonly format: 'json' | 'pretty';
  readonly write?: (line: string) => void;
}): Logger {
  const stderr = options.write === undefined ? stderrWriter() : undefined;
  const write = options.write ?? ((line: string) => stderr?.write(line));
  const colors = options.write === undefined && process.stderr.isTTY === true && !process.env['NO_COLOR'];
  const sink = options.format === 'json' ? write : (line: string) => write(prettyLine(line, colors));
  const lines = pino(
    {
      level: 'trace',
      base: null,
      messageKey: 'message',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: sink },
  );
  const log = new LevelledLogger(lines, { level: options.level });
  if (stderr !== undefined) {
    stderr.onRecovered = (lost) => log.warn({ lost }, 'log lines were lost: nobody read them in time');
  }
  return log;
}

/** Says nothing; for tests and libraries. */
export const silentLogger: Logger = createSilentLogger();

/** The level is kept here and not in pino, whose children would keep the level they were born with. */
class LevelledLogger implements Logger {
  readonly #lines: PinoLogger;
  readonly #shared: { level: LogLevel };
  readonly trace = this.#method('trace');
  readonly debug = this.#method('debug');
  readonly info = this.#method('info');
  readonly warn = this.#method('warn');
  readonly error = this.#method('error');

  constructor(lines: PinoLogger, shared: { level: LogLevel }) {
    this.#lines = lines;
    this.#shared = shared;
  }

  get level(): string {
    return this.#shared.level;
  }

  set level(name: string) {
    this.#shared.level = logLevels.find((level) => level === name) ?? this.#shared.level;
  }

  child(fields: object): Logger {
    return new LevelledLogger(this.#lines.child(logFields(fields, this.#showsStacks())), this.#shared);
  }

  #method(level: LogLevel): LogMethod {
    return (first: object | string, message?: string) => {
      if (logLevels.indexOf(level) < logLevels.indexOf(this.#shared.level)) return;
      const fields = typeof first === 'string' ? {} : logFields(first, this.#showsStacks());
      this.#lines[level](fields, typeof first === 'string' ? first : message);
    };
  }

  #showsStacks(): boolean {
    return this.#shared.level === 'debug' || this.#shared.level === 'trace';
  }
}

function createSilentLogger(): Logger {
  const nothing = () => undefined;
  const methods = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
  return { ...methods, level: 'silent', child: () => silentLogger };
}
