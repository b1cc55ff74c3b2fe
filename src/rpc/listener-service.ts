import type { Service } from '../runtime/lifecycle.ts';
import type { GrpcListener } from './grpc-server.ts';

/** How long running calls get at a stop before their connections are closed. */
const graceMs = 500;

/** A listener as a service: opened when its turn comes, closed quietly at the stop. */
export function listenerService(name: string, listen: () => Promise<GrpcListener>): Service {
  return {
    name,
    async run(signal, ready) {
      const listener = await listen();
      ready();
      await new Promise<void>((resolve) => {
        if (signal.aborted) resolve();
        else signal.addEventListener('abort', () => resolve(), { once: true });
      });
      await listener.stop(graceMs);
    },
  };
}
