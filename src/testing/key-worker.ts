import { readdirSync, readFileSync } from 'node:fs';

/** The processes of this test that run a PKCS#11 module. */
export function keyWorkers(): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const parent = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
        return Number(parent) === process.pid && commandLineOf(pid).includes('pkcs11-worker');
      } catch {
        return false;
      }
    });
}

/** Arguments of a process, one after the other. */
export function commandLineOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
}
