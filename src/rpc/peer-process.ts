import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { AppError } from '../runtime/error.ts';
import { type NativeAddon, nativeAddon } from '../runtime/native.ts';

/*
 * The race this file exists for: the kernel names the peer of a Unix socket by PID as of connect(). By the time we
 * look at /proc/PID that process may have exited and the number may be another's, who would get the first one's
 * identity. A pidfd names the process itself. So: read the facts in /proc/PID first, then ask the pidfd; if it is
 * still alive, the number had not been given away and the facts are the caller's.
 *
 * Since Linux 6.5 the socket itself hands out that pidfd. Before, it can only be opened by number, a moment late:
 * the start time read before and after makes sure that it is one process for all that time.
 */

/** How the process was pinned down; `pidfd_open` leaves the moment between connect and accept unproven. */
export type PeerIdentification = 'SO_PEERPIDFD' | 'pidfd_open';

/** What this kernel offers to identify callers. */
export function availableIdentification(): PeerIdentification {
  return nativeAddon().hasPeerPidfd() ? 'SO_PEERPIDFD' : 'pidfd_open';
}

/**
 * The process at the other end of a Unix socket, with uid and gid as of connect(): a PeerProcess of the plugin API.
 * Owns a descriptor: close it.
 */
export class TrackedPeer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly instance: string;
  readonly identifiedBy: PeerIdentification;
  readonly #addon: NativeAddon;
  #pidfd: number | undefined;

  constructor(
    addon: NativeAddon,
    ids: { readonly pid: number; readonly uid: number; readonly gid: number },
    found: { readonly pidfd: number; readonly identifiedBy: PeerIdentification },
  ) {
    this.#addon = addon;
    this.pid = ids.pid;
    this.uid = ids.uid;
    this.gid = ids.gid;
    this.instance = instanceOf(ids.pid);
    this.#pidfd = found.pidfd;
    this.identifiedBy = found.identifiedBy;
  }

  /** False once the process has exited, and after `close()`. */
  isAlive(): boolean {
    return this.#pidfd !== undefined && this.#addon.pidfdAlive(this.#pidfd);
  }

  /** Gives the descriptor back; a second call does nothing. */
  close(): void {
    const pidfd = this.#pidfd;
    // Once only: the number may be another file's by the second call.
    this.#pidfd = undefined;
    if (pidfd !== undefined) this.#addon.closeFd(pidfd);
  }
}

/**
 * Takes the peer of a Unix socket right after accept. Throws `permission-denied` for a peer that cannot be named or
 * is gone, `failed-precondition` when a race-free pidfd is required and the kernel has none.
 */
export function takePeer(socket: Socket, options: { readonly requirePeerPidfd?: boolean } = {}): TrackedPeer {
  return identify(socket, (addon, fd, pid) => {
    const pidfd = addon.peerPidfd(fd);
    if (pidfd >= 0) return { pidfd, identifiedBy: 'SO_PEERPIDFD' };
    if (options.requirePeerPidfd !== true) return openByNumber(addon, fd, pid);
    throw new AppError(
      'failed-precondition',
      'the kernel has no SO_PEERPIDFD (Linux before 6.5), and it is required',
    );
  });
}

/** Takes the peer as `takePeer` does on kernels without SO_PEERPIDFD. */
export function takePeerByNumber(socket: Socket): TrackedPeer {
  return identify(socket, openByNumber);
}

/** Gets hold of a pidfd of the peer of socket `fd`, which is process `pid`. */
type Pin = (
  addon: NativeAddon,
  fd: number,
  pid: number,
) => { readonly pidfd: number; readonly identifiedBy: PeerIdentification };

function identify(socket: Socket, pin: Pin): TrackedPeer {
  const addon = nativeAddon();
  const fd = descriptorOf(socket);
  try {
    const ids = addon.peerCredentials(fd);
    if (ids.pid <= 0) {
      throw refused(
        `the kernel gives pid ${ids.pid}: the caller is in another pid namespace; run the agent with pid: host`,
      );
    }
    // Its start time is read here: it is the caller's only if the caller still lives afterwards.
    const peer = new TrackedPeer(addon, ids, pin(addon, fd, ids.pid));
    if (peer.isAlive()) return peer;
    peer.close();
    throw refused(`process ${ids.pid} has exited`);
  } catch (cause) {
    throw cause instanceof AppError ? cause : refused('the calling process cannot be identified', cause);
  }
}

function openByNumber(addon: NativeAddon, _fd: number, pid: number): ReturnType<Pin> {
  const before = startTimeOf(pid);
  const pidfd = addon.pidfdOpen(pid);
  try {
    if (startTimeOf(pid) === before) return { pidfd, identifiedBy: 'pidfd_open' };
    throw refused(`process ${pid} was replaced by another with the same number`);
  } catch (error) {
    addon.closeFd(pidfd);
    throw error;
  }
}

/** Where /proc hides other users' processes (hidepid), each connection counts as a process of its own. */
function instanceOf(pid: number): string {
  try {
    return `started ${startTimeOf(pid)}`;
  } catch {
    return `connection ${randomUUID()}`;
  }
}

/** Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)). */
function startTimeOf(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The name of the program, in parentheses, may contain anything: count from the last one.
  const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  if (startTime === undefined) throw refused(`/proc/${pid}/stat cannot be understood`);
  return startTime;
}

/** Node has no public API for it; anything but a real descriptor refuses the caller. */
function descriptorOf(socket: Socket): number {
  const { fd } = (socket as Socket & { readonly _handle?: { readonly fd?: unknown } | null })._handle ?? {};
  if (typeof fd === 'number' && Number.isInteger(fd) && fd >= 0) return fd;
  throw refused('the connection has no file descriptor');
}

function refused(message: string, cause?: unknown): AppError {
  return new AppError('permission-denied', message, { cause });
}
