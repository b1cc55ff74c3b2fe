import { readdirSync, readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

/** What the numbers were measured on. */
export function machine(): string {
  const model = cpus()[0]?.model ?? 'unknown CPU';
  const memory = Math.round(totalmem() / 2 ** 30);
  return `Node ${process.version}, Linux ${release()}, ${cpus().length} × ${model}, ${memory} GiB`;
}

/** The value below which the share `p` (0 to 1) of the values lies; NaN for none. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? Number.NaN;
}

/** CPU time that the threads of a process have used so far, in seconds (/proc/PID/task/TID/schedstat, nanoseconds). */
export function cpuSeconds(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const used = threads.map((id) =>
    Number(readFileSync(`/proc/${pid}/task/${id}/schedstat`, 'utf8').split(' ')[0]),
  );
  return used.reduce((sum, ns) => sum + ns, 0) / 1e9;
}

/** The processes that a process has started and that still run (proc(5), /proc/PID/task/TID/children). */
export function childrenOf(pid: number): readonly number[] {
  const texts = readdirSync(`/proc/${pid}/task`).map((id) =>
    readFileSync(`/proc/${pid}/task/${id}/children`, 'utf8'),
  );
  return texts.flatMap((text) =>
    text
      .split(' ')
      .filter((child) => child !== '')
      .map(Number),
  );
}

/** CPU time that the whole machine has used so far, in seconds (proc(5), the first line of /proc/stat). */
export function busySeconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0] = readFileSync('/proc/stat', 'utf8')
    .slice(4, 200)
    .trim()
    .split(/\s+/)
    .map(Number);
  return (user + nice + system + irq + softIrq) / 100;
}

/** Resident memory of a process, in MiB. */
export function rssMiB(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? Number.NaN) / 1024;
}

/** Figures by name, one of each run; printed as their median. */
export class Figures {
  readonly #rows = new Map<string, { unit: string; goal: string; values: number[] }>();

  add(name: string, value: number, { unit = 'ms', goal = '' }: { unit?: string; goal?: string } = {}): void {
    const row = this.#rows.get(name) ?? { unit, goal, values: [] };
    row.values.push(value);
    this.#rows.set(name, row);
  }

  print(): void {
    for (const [name, { unit, goal, values }] of this.#rows) {
      const all = values.length === 1 ? '' : `(${values.map(shown).join(', ')})`;
      const median = `${shown(percentile(values, 0.5))} ${unit}`;
      console.log(`${name.padEnd(58)} ${median.padStart(13)}  ${goal.padEnd(10)} ${all}`);
    }
  }
}

/** Three digits that matter. */
function shown(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : value >= 1 ? 2 : 3);
}
