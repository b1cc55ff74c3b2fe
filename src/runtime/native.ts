import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { AppError } from './error.ts';

/** System calls that Node lacks (`native/signet.c`). Each throws an Error whose `code` names the errno. */
export interface NativeAddon {
  /** SO_PEERCRED of a connected Unix socket: the peer as it was at connect(). */
  peerCredentials(fd: number): { readonly pid: number; readonly uid: number; readonly gid: number };
  /** SO_PEERPIDFD: a new descriptor for the peer's process; -1 when the kernel (before 6.5) lacks it. */
  peerPidfd(fd: number): number;
  /** Whether this kernel has SO_PEERPIDFD. */
  hasPeerPidfd(): boolean;
  /** A new descriptor for the process that has this PID now; `ESRCH` when none has. */
  pidfdOpen(pid: number): number;
  /** False once the process has exited, reaped or not. */
  pidfdAlive(pidfd: number): boolean;
  closeFd(fd: number): void;
  /** flock(LOCK_EX | LOCK_NB); false when another open file holds the lock. */
  lockFile(fd: number): boolean;
  /** From now on this process leaves no core dump, and only root may look into its memory. */
  forbidCoreDumps(): void;
}

let loaded: NativeAddon | undefined;

/** The compiled addon, loaded on first use; throws `failed-precondition` with what to run when it cannot be. */
export function nativeAddon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon {
  if (process.platform !== 'linux') {
    throw new AppError('failed-precondition', `this needs Linux; the system is ${process.platform}`);
  }
  // The same distance from src/runtime and from dist/runtime.
  const path = fileURLToPath(new URL('../../native/signet.node', import.meta.url));
  try {
    return createRequire(import.meta.url)(path) as NativeAddon;
  } catch (cause) {
    throw new AppError('failed-precondition', `the native addon ${path} cannot be loaded; run: make setup`, {
      cause,
    });
  }
}
