import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';

const stderrFd = 2;
/** What waits for a slow reader; more is dropped. */
const maxWaitingBytes = 1024 * 1024;
const retryMs = 50;
const exitPatienceMs = 300;

/**
 * Writes lines to a descriptor that does not block, at once as long as somebody reads there: the last lines before a
 * crash are the ones that matter. When nobody does, lines wait, up to 1 MiB, and further ones are lost and counted:
 * a log must never stop the service. At the exit of the process what waits gets a third of a second.
 */
export class LineWriter {
  readonly #fd: number;
  readonly #maxWaitingBytes: number;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #lost = 0;
  #timer: NodeJS.Timeout | undefined;
  #onRecovered: (lost: number) => void = () => undefined;

  constructor(fd: number, maxBytes = maxWaitingBytes) {
    this.#fd = fd;
    this.#maxWaitingBytes = maxBytes;
    process.on('exit', () => this.#flushAtExit());
  }

  /** `report` is called when lines get through again after `lost` ones did not; it writes that as a line. */
  set onRecovered(report: (lost: number) => void) {
    this.#onRecovered = report;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#waitingBytes + bytes.length > this.#maxWaitingBytes) {
      this.#lost += 1;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    // In order: behind those that wait, which have their timer.
    if (this.#timer === undefined) this.#drain();
  }

  #drain(): void {
    this.#writeWaiting();
    if (this.#waiting.length > 0) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#drain();
      }, retryMs).unref();
      return;
    }
    const lost = this.#lost;
    this.#lost = 0;
    if (lost > 0) this.#onRecovered(lost);
  }

  /** Until all is written or the descriptor takes no more. */
  #writeWaiting(): void {
    let written = 0;
    for (const line of this.#waiting) {
      const count = this.#writeSome(line);
      this.#waitingBytes -= count;
      if (count < line.length) {
        // The rest of a line that has begun goes first.
        this.#waiting[written] = line.subarray(count);
        break;
      }
      written += 1;
    }
    this.#waiting.splice(0, written);
  }

  /** Returns how many bytes are dealt with: what can never be written, such as on a full disk, is. */
  #writeSome(bytes: Buffer): number {
    try {
      return writeSync(this.#fd, bytes);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'EAGAIN' ? 0 : bytes.length;
    }
  }

  #flushAtExit(): void {
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let waitedMs = 0; ; waitedMs += 10) {
      this.#writeWaiting();
      if (this.#waiting.length === 0 || waitedMs >= exitPatienceMs) return;
      Atomics.wait(pause, 0, 0, 10);
    }
  }
}

let writer: LineWriter | undefined;

/** The one writer of this process to stderr. */
export function stderrWriter(): LineWriter {
  writer ??= new LineWriter(nonBlockingStderr());
  return writer;
}

/** A file never blocks for long. A pipe, a socket or a terminal blocks whoever writes as long as nobody reads. */
function nonBlockingStderr(): number {
  const stat = fstatSync(stderrFd);
  if (!stat.isFIFO() && !stat.isSocket() && !isatty(stderrFd)) return stderrFd;
  try {
    // Opened anew: the flag then counts for us only and not for others who share the pipe or terminal.
    return openSync('/proc/self/fd/2', constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    // A socket, or a pipe that belongs to another user. Node makes these non-blocking when it first looks at them.
    void process.stderr;
    return stderrFd;
  }
}
