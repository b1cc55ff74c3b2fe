import type { DataStore } from '../plugin-api/data-store.ts';
import type { HealthCheck } from '../rpc/health-api.ts';
import type { Authority } from './authority/authority.ts';
import { timelineOf } from './authority/authority-states.ts';
import type { AuthorityRotation } from './authority/rotation.ts';

/** How the server is, found out now: its authority and its data store. */
export async function serverChecks(parts: {
  authority: Authority;
  rotation: AuthorityRotation;
  store: DataStore;
  entries: number;
}): Promise<readonly HealthCheck[]> {
  const slot = parts.authority.active.value;
  const found: HealthCheck[] = [];
  if (slot === undefined) {
    found.push({
      name: 'authority',
      state: 'not-ready',
      message: 'there is no active signing certificate yet',
    });
  } else {
    const { prepareAtMs, expiresAtMs } = timelineOf(slot.certificate);
    found.push({
      name: 'authority',
      state: parts.rotation.lastFailure === undefined ? 'ok' : 'degraded',
      message:
        parts.rotation.lastFailure ??
        `root expires ${new Date(expiresAtMs).toISOString()}, successor due ${new Date(prepareAtMs).toISOString()}`,
    });
  }
  const agents = await parts.store.agents.count().catch(() => undefined);
  found.push(
    agents === undefined
      ? {
          name: 'data store',
          state: 'not-ready',
          message: 'the database cannot be read',
          nextStep: 'see the server log',
        }
      : { name: 'data store', state: 'ok', message: `${agents} agents, ${parts.entries} entries` },
  );
  return found;
}
