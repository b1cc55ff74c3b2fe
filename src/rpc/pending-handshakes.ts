import type { Socket } from 'node:net';

interface Deps {
  /** Whether connections from there must wait for others. */
  readonly isSuspect: (address: string) => boolean;
  /** A connection has ended within its handshake, having said something: who only knocks does nothing wrong. */
  readonly onFailed: (address: string) => void;
  /** There was no room for a connection. */
  readonly onDrop: () => void;
}

/**
 * TCP connections whose TLS handshake is not done. When there are `max` (0 = no limit), the oldest makes room for the
 * newcomer: an honest handshake takes milliseconds, so that it is the silent ones who are dropped; a suspect newcomer
 * goes itself. One that has not sent its first byte after `firstByteMs` is dropped too.
 */
export class PendingHandshakes {
  readonly #limits: { readonly max: number; readonly firstByteMs: number };
  readonly #deps: Deps;
  /** By address of both ends, which is the same on the TLS socket that comes of it; the oldest first. */
  readonly #pending = new Map<string, { readonly socket: Socket; readonly timer: NodeJS.Timeout }>();

  constructor(limits: { readonly max: number; readonly firstByteMs: number }, deps: Deps) {
    this.#limits = limits;
    this.#deps = deps;
  }

  get size(): number {
    return this.#pending.size;
  }

  /** Returns whether there is room for it; when not, it is destroyed. */
  add(socket: Socket, address: string): boolean {
    const key = keyOf(socket);
    if (this.#isFull() && this.#deps.isSuspect(address)) {
      this.#deps.onDrop();
      socket.destroy();
      return false;
    }
    this.#makeRoom();
    const timer = setTimeout(() => {
      if (socket.bytesRead === 0) socket.destroy();
    }, this.#limits.firstByteMs);
    this.#pending.set(key, { socket, timer });
    socket.once('close', () => {
      if (this.#pending.get(key)?.socket !== socket) return;
      this.#remove(key);
      if (socket.bytesRead > 0) this.#deps.onFailed(address);
    });
    return true;
  }

  /** The handshake is done; `socket` is the TLS socket. */
  done(socket: Socket): void {
    this.#remove(keyOf(socket));
  }

  #isFull(): boolean {
    return this.#limits.max > 0 && this.#pending.size >= this.#limits.max;
  }

  #makeRoom(): void {
    const [oldest] = this.#pending;
    if (oldest === undefined || !this.#isFull()) return;
    const [key, { socket }] = oldest;
    this.#remove(key);
    this.#deps.onDrop();
    socket.destroy();
  }

  #remove(key: string): void {
    clearTimeout(this.#pending.get(key)?.timer);
    this.#pending.delete(key);
  }
}

function keyOf({ remoteAddress, remotePort, localAddress }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress}`;
}
