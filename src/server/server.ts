import type { DataStore } from '../plugin-api/data-store.ts';
import type { GrpcListener } from '../rpc/grpc-server.ts';
import { AppError } from '../runtime/error.ts';
import { runServices, type Service } from '../runtime/lifecycle.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import type { ServerConfig } from './config.ts';
import { adminListener, tlsListener } from './listeners.ts';
import { openRooms, type ServerParts, type ServerRooms } from './rooms.ts';
import { serverApis } from './server-apis.ts';

/** Expired tokens are kept this long, so that their late use is told from an unknown token. */
const tokenMemorySeconds = 86_400;
const pruneEveryMs = 300_000;

/** Where a running server can be reached. */
export interface ServerAddresses {
  readonly listen: string;
  readonly adminSocket: string;
}

/** Runs a server until `signal` aborts; `onReady` is called once it serves. Throws what made it stop. */
export async function runServer(
  config: ServerConfig,
  parts: ServerParts,
  options: { readonly signal: AbortSignal; readonly onReady: (addresses: ServerAddresses) => void },
): Promise<void> {
  const { store, clock, log } = parts;
  await requireSameTrustDomain(parts);
  // Agents come by this listener only; a removal has to reach the calls that run on it.
  const listeners: GrpcListener[] = [];
  const rooms = await openRooms(config, parts, (match, error) => {
    for (const listener of listeners) listener.endCalls(match, error);
  });
  const addresses = { listen: '', adminSocket: config.adminSocket };
  const listening = { config, rooms, services: serverApis(config, parts, rooms), clock, log };
  await runServices(
    [
      // The root first: signing certificates need one.
      ...(rooms.root === undefined ? [] : [rooms.root.rotation]),
      rooms.rotation,
      rooms.identity,
      adminListener(listening),
      tlsListener(listening, (listener) => {
        addresses.listen = listener.address;
        listeners.push(listener);
      }),
      pruning(store, rooms, { clock, log }),
    ],
    { signal: options.signal, log, onReady: () => options.onReady(addresses) },
  );
}

/** A database belongs to one trust domain for ever: what it signed carries the name. */
async function requireSameTrustDomain({ store, trustDomain }: ServerParts): Promise<void> {
  const foreign = (await store.authorities.list())
    .flatMap(({ certificate }) => certificate.uris)
    .find((uri) => uri !== trustDomain.id);
  if (foreign === undefined) return;
  throw new AppError(
    'failed-precondition',
    `trustDomain is "${trustDomain}", but the data directory is that of "${foreign}"; set it back, or choose an empty dataDir`,
  );
}

function pruning(
  store: DataStore,
  { entries, issued }: Pick<ServerRooms, 'entries' | 'issued'>,
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
): Service {
  return {
    name: 'pruning',
    async run(signal, ready) {
      ready();
      while (!signal.aborted) {
        await clock.sleep(pruneEveryMs, signal);
        if (signal.aborted) break;
        const now = Math.floor(clock.now() / 1000);
        issued.prune(clock.now());
        await store.tokens
          .prune(now - tokenMemorySeconds)
          .catch((error: unknown) => log.warn({ error }, 'expired join tokens could not be pruned'));
        try {
          for (const { id, spiffeId } of await entries.prune(now)) {
            log.info({ entryId: id, spiffeId: spiffeId.toString() }, 'entry has expired and was deleted');
          }
        } catch (error) {
          log.warn({ error }, 'expired entries could not be pruned');
        }
      }
    },
  };
}
