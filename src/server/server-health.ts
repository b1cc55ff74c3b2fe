import type { DataStore } from '../plugin-api/data-store.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { HealthCheck } from '../rpc/health-api.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { Authority } from './authority/authority.ts';
import { timelineOf } from './authority/authority-states.ts';
import type { LocalRoot } from './authority/local-root.ts';
import type { AuthorityRotation } from './authority/rotation.ts';

/** How the server is, found out now: its authority, its keys and its data store. */
export async function serverChecks(parts: {
  authority: Authority;
  rotation: AuthorityRotation;
  /** Undefined without a root of our own above the signing certificates. */
  root: LocalRoot | undefined;
  store: DataStore;
  /** By the name of their check. */
  keyManagers: ReadonlyMap<string, KeyManager>;
  entries: number;
  /** Where agents come in, and how; for people. */
  listener: string;
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
    const what = slot.chain.length === 0 ? 'root' : 'signing certificate';
    found.push(rotationCheck('authority', parts.rotation, { what, certificate: slot.certificate }));
  }
  const root = parts.root?.certificate;
  if (parts.root !== undefined && root !== undefined) {
    found.push(rotationCheck('root', parts.root.rotation, { what: 'root', certificate: root }));
  }
  for (const [name, keyManager] of parts.keyManagers) {
    const status = keyManager.status?.();
    if (status === undefined) continue;
    found.push({ name, state: status.state, message: status.message, nextStep: status.nextStep });
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
    { name: 'listener', state: 'ok', message: parts.listener },
  );
  return found;
}

function rotationCheck(
  name: string,
  { times, lastFailure }: AuthorityRotation,
  { what, certificate }: { readonly what: string; readonly certificate: Certificate },
): HealthCheck {
  const { prepareAtMs, expiresAtMs } = timelineOf(certificate, times);
  const expires = new Date(expiresAtMs).toISOString();
  const message = `${what} expires ${expires}, successor due ${new Date(prepareAtMs).toISOString()}`;
  if (lastFailure === undefined) return { name, state: 'ok', message };
  return { name, state: 'degraded', message: `${lastFailure}; ${message}`, nextStep: 'see the server log' };
}
