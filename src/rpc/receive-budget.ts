import type { Socket } from 'node:net';
import type { Clock } from '../runtime/time.ts';

const lookEveryMs = 200;

/**
 * Bounds how many bytes connections that nobody vouches for may send in their short life, each and together; the
 * one that has sent most is dropped. A limit on messages is not enough: grpc-js keeps a request that is not complete
 * as a list of the frames it came in, and a frame of one byte costs it about 150.
 */
export class ReceiveBudget {
  readonly #limits: { readonly each: number; readonly together: number };
  readonly #deps: { readonly clock: Clock; readonly signal: AbortSignal; readonly onDrop: () => void };
  readonly #sockets = new Set<Socket>();
  #isWatching = false;

  /** `onDrop` is called for each connection that was dropped; `signal` ends the watch. */
  constructor(
    limits: { readonly each: number; readonly together: number },
    deps: { readonly clock: Clock; readonly signal: AbortSignal; readonly onDrop: () => void },
  ) {
    this.#limits = limits;
    this.#deps = deps;
  }

  /** Counts the connection until it closes. */
  add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    if (!this.#isWatching) void this.#watch();
  }

  async #watch(): Promise<void> {
    const { clock, signal } = this.#deps;
    this.#isWatching = true;
    while (this.#sockets.size > 0 && !signal.aborted) {
      await clock.sleep(lookEveryMs, signal);
      this.#enforce();
    }
    this.#isWatching = false;
  }

  #enforce(): void {
    const sent = [...this.#sockets].map((socket) => ({ socket, bytes: socket.bytesRead }));
    let together = sent.reduce((sum, { bytes }) => sum + bytes, 0);
    const isWithin = (bytes: number) => bytes <= this.#limits.each && together <= this.#limits.together;
    for (const { socket, bytes } of sent.sort((a, b) => b.bytes - a.bytes)) {
      if (isWithin(bytes)) return;
      together -= bytes;
      this.#sockets.delete(socket);
      this.#deps.onDrop();
      socket.destroy();
    }
  }
}
