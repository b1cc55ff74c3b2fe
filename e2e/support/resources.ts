import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { RunningProcess } from './process.ts';

/** Open descriptors of a process (Linux). */
export function openDescriptors(pid: number): number {
  const folder = `/proc/${pid}/fd`;
  // From Linux 6.2 on its size is their number. Only root may list those of a process that keeps its memory to itself.
  const { size } = statSync(folder);
  return size > 0 ? size : readdirSync(folder).length;
}

/** Memory that a process holds, MiB (Linux). */
export function residentMebibytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kibibytes) / 1024;
}

/** Makes Node write all that is alive on its heap into `dir` at SIGUSR2; to be put into NODE_OPTIONS. */
export function heapSnapshotOptions(dir: string): string {
  return `--heapsnapshot-signal=SIGUSR2 --diagnostic-dir=${dir}`;
}

/**
 * How much is alive on the heap of a process that runs with `heapSnapshotOptions(dir)`, as the size of its snapshot
 * (MiB). Garbage is collected for it, so that what stays is leaked. The process stands still for seconds.
 */
export async function liveHeapMebibytes(process_: RunningProcess, dir: string): Promise<number> {
  const files = () => readdirSync(dir).filter((name) => name.includes(`.${process_.pid}.`));
  const before = new Set(files());
  process.kill(process_.pid, 'SIGUSR2');
  let size = -1;
  return await process_.until(
    'a heap snapshot',
    () => {
      const file = files().find((name) => !before.has(name));
      const now = file === undefined ? -1 : statSync(join(dir, file)).size;
      const isComplete = now > 0 && now === size;
      size = now;
      return isComplete && now / 2 ** 20;
    },
    { timeoutMs: 30_000, intervalMs: 500 },
  );
}
