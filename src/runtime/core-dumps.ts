import { nativeAddon } from './native.ts';

/**
 * From now on this process leaves no core dump, and other processes of its user cannot read its memory; for processes
 * that hold private keys. Does nothing on systems other than Linux.
 */
export function forbidCoreDumps(): void {
  if (process.platform === 'linux') nativeAddon().forbidCoreDumps();
}
