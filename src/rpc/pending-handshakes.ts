import type { Socket } from 'node:net';

/**
 * TCP connections whose TLS handshake is not done. When there are `max`, the oldest makes room for the newcomer: an
 * honest handshake takes milliseconds, so that it is the silent ones who are dropped. One that has not sent its
 * first byte after `firstByteMs` is dropped too.
 */
export class PendingHandshakes {
  readonly #limits: { readonly max: number; readonly firstByteMs: number };
  readonly #onDrop: () => void;
  /** By address of both ends, which is the same on the TLS socket that comes of it; the oldest first. */
  readonly #pending = new Map<string, { readonly socket: Socket; readonly timer: NodeJS.Timeout }>();

  /** `onDrop` is called for each connection that had to make room. */
  constructor(limits: { readonly max: number; readonly firstByteMs: number }, onDrop: () => void) {
    this.#limits = limits;
    this.#onDrop = onDrop;
  }

  get size(): number {
    return this.#pending.size;
  }

  add(socket: Socket): void {
    const key = keyOf(socket);
    this.#makeRoom();
    const timer = setTimeout(() => {
      if (socket.bytesRead === 0) socket.destroy();
    }, this.#limits.firstByteMs);
    this.#pending.set(key, { socket, timer });
    socket.once('close', () => {
      if (this.#pending.get(key)?.socket === socket) this.#remove(key);
    });
  }

  /** The handshake is done; `socket` is the TLS socket. */
  done(socket: Socket): void {
    this.#remove(keyOf(socket));
  }

  #makeRoom(): void {
    const [oldest] = this.#pending;
    if (oldest === undefined || this.#pending.size < this.#limits.max) return;
    const [key, { socket }] = oldest;
    this.#remove(key);
    this.#onDrop();
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
