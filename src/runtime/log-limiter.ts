import { type Logger, type LogLevel, logLevels } from './log.ts';
import type { Clock } from './time.ts';

const windowMs = 10_000;
const defaultLines = 20;

interface Window {
  readonly startedAt: number;
  lines: number;
  suppressed: number;
}

/**
 * Logs what others can provoke at will, a few lines of many: anybody could fill the disk with it. Each kind of event
 * gets `lines` lines (20) in 10 s; the first line after more than that says how many were `suppressed`. Lines below
 * level info are not counted: they are only there when somebody has asked for them.
 */
export class LogLimiter {
  readonly #deps: { readonly clock: Clock; readonly log: Logger };
  readonly #lines: number;
  readonly #windows = new Map<string, Window>();

  constructor(deps: { readonly clock: Clock; readonly log: Logger }, lines = defaultLines) {
    this.#deps = deps;
    this.#lines = lines;
  }

  /** `kind` is what is counted, by default `message`; of a small fixed set, never what a caller has sent. */
  write(level: LogLevel, fields: object, message: string, kind = message): void {
    const { clock, log } = this.#deps;
    if (logLevels.indexOf(level) < logLevels.indexOf('info')) {
      log[level](fields, message);
      return;
    }
    const now = clock.monotonic();
    const before = this.#windows.get(kind);
    const isOver = before === undefined || now - before.startedAt >= windowMs;
    const window = isOver ? { startedAt: now, lines: 0, suppressed: before?.suppressed ?? 0 } : before;
    this.#windows.set(kind, window);
    if (window.lines >= this.#lines) {
      window.suppressed += 1;
      return;
    }
    window.lines += 1;
    const { suppressed } = window;
    window.suppressed = 0;
    log[level](suppressed === 0 ? fields : { ...fields, suppressed }, message);
  }
}
