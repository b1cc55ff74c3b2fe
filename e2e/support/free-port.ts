import { once } from 'node:events';
import { createServer } from 'node:net';

/** Below the range from which Linux takes ports for connections that go out and for port 0. */
const firstPort = 15_000;
const ports = 15_000;

/** A TCP port of 127.0.0.1 that was free a moment ago: for programs that must find each other again after a restart. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = firstPort + Math.floor(Math.random() * ports);
    const server = createServer().listen(port, '127.0.0.1');
    try {
      await once(server, 'listening');
    } catch {
      continue;
    }
    server.close();
    await once(server, 'close');
    return port;
  }
}
