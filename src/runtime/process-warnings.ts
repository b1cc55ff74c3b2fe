import type { Logger } from './log.ts';
import { LogLimiter } from './log-limiter.ts';
import type { Clock } from './time.ts';

/**
 * From now on writes Node's own warnings (such as TimeoutNegativeWarning, which peers can provoke) into `log`, a
 * bounded number of them, instead of as text to stderr. Returns what ends that.
 */
export function logProcessWarnings(deps: { readonly log: Logger; readonly clock: Clock }): () => void {
  const limiter = new LogLimiter(deps);
  const former = process.listeners('warning');
  const write = (warning: Error) => {
    limiter.write('warn', { warning: warning.name, error: warning }, 'Node warns', warning.name);
  };
  process.removeAllListeners('warning');
  process.on('warning', write);
  return () => {
    process.off('warning', write);
    for (const listener of former) process.on('warning', listener);
  };
}
