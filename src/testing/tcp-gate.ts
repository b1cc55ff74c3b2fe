import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

/** A hop before a TCP server that can be closed and opened again, like a network that fails; for one test. */
export class TcpGate {
  readonly #target: { readonly host: string; readonly port: number };
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  private constructor(target: { readonly host: string; readonly port: number }) {
    this.#target = target;
  }

  /** An open gate before the server at `HOST:PORT`. */
  static async before(address: string): Promise<TcpGate> {
    const colon = address.lastIndexOf(':');
    const gate = new TcpGate({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)) });
    await gate.open();
    onTestFinished(() => gate.close());
    return gate;
  }

  /** Stays the same over closing and opening. */
  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  async open(): Promise<void> {
    const server = createServer((socket) => this.#forward(socket));
    this.#server = server;
    server.listen(this.#port, '127.0.0.1');
    await once(server, 'listening');
    this.#port = (server.address() as AddressInfo).port;
  }

  /** Cuts all connections; new ones are refused. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    for (const socket of this.#sockets) socket.destroy();
    if (server !== undefined) await new Promise((closed) => server.close(closed));
  }

  #forward(socket: Socket): void {
    const onward = connect(this.#target);
    for (const [side, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      this.#sockets.add(side);
      side.setNoDelay();
      side.on('error', () => undefined);
      side.on('close', () => {
        this.#sockets.delete(side);
        other.destroy();
      });
      side.pipe(other);
    }
  }
}
