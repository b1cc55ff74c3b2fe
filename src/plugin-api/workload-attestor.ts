import type { Selector } from '../spiffe/selector.ts';

/** The process at the other end of a Unix socket, as the kernel named it when the connection was accepted. */
export interface PeerProcess {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /**
   * Tells it from earlier and later processes with its number: when it started or, where /proc does not show that,
   * something that no other connection has.
   */
  readonly instance: string;
  /** False once the process has exited: whatever was read from /proc/PID afterwards may be another's. */
  isAlive(): boolean;
}

/** Turns a process into selectors. */
export interface WorkloadAttestor {
  /** Everything this attestor can prove of the process, without duplicates; throws to refuse the caller. */
  attest(peer: PeerProcess, options: { readonly signal: AbortSignal }): Promise<readonly Selector[]>;
  /**
   * A short text that changes when exec() has replaced the program, which neither pidfd nor start time shows.
   * Compared with its earlier value before each private key is sent.
   */
  programFingerprint?(peer: PeerProcess): Promise<string>;
}
