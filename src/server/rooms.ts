import type { DataStore } from '../plugin-api/data-store.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import type { Logger } from '../runtime/log.ts';
import type { Clock } from '../runtime/time.ts';
import { SpiffeId, type TrustDomain } from '../spiffe/spiffe-id.ts';
import { Access } from './api/access.ts';
import { NodeAttestation } from './attestation/node-attestation.ts';
import { Authority } from './authority/authority.ts';
import { AuthorityRotation } from './authority/rotation.ts';
import { BundleKeeper } from './bundles/bundle-keeper.ts';
import { FederatedBundles } from './bundles/federated-bundles.ts';
import { authoritySubjectOf, type ServerConfig } from './config.ts';
import { Agents, type EndCalls } from './registration/agents.ts';
import { Entries } from './registration/entries.ts';
import { EntryIndex } from './registration/entry-index.ts';
import { ServerIdentity } from './server-identity.ts';

/** What the composition root has built from plugins. */
export interface ServerParts {
  readonly trustDomain: TrustDomain;
  readonly store: DataStore;
  readonly keyManager: KeyManager;
  readonly attestors: ReadonlyMap<string, ServerNodeAttestor>;
  /** Makes a join token of 256 bits. */
  readonly newJoinToken: () => string;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The rooms of a server, furnished and connected; nothing in them runs yet. */
export interface ServerRooms {
  readonly index: EntryIndex;
  readonly entries: Entries;
  readonly bundles: BundleKeeper;
  readonly federated: FederatedBundles;
  readonly authority: Authority;
  readonly rotation: AuthorityRotation;
  readonly identity: ServerIdentity;
  readonly access: Access;
  readonly attestation: NodeAttestation;
  readonly agents: Agents;
}

/** Reads what the database has and connects the rooms with each other; `endCalls` reaches the listeners. */
export async function openRooms(
  config: ServerConfig,
  parts: ServerParts,
  endCalls: EndCalls,
): Promise<ServerRooms> {
  const { trustDomain, store, attestors, clock, log } = parts;
  const index = new EntryIndex(trustDomain);
  const entries = new Entries({ trustDomain, store: store.entries, index });
  await entries.load();
  const bundles = await BundleKeeper.load({ trustDomain, store: store.bundles, log });
  const federated = await FederatedBundles.load({ trustDomain, store: store.bundles, log });
  const authority = new Authority({ trustDomain, clock, log });
  const rotation = rotationOf(config, parts, { authority, bundles });
  const identity = new ServerIdentity(
    { authority, bundles, clock, log },
    { keyType: 'ec-p256', ttlMs: config.authority.agentTtl },
  );
  const adminIds = config.adminIds.map((id) => SpiffeId.parse(id));
  const access = new Access({ trustDomain, agents: store.agents, index, bundles, adminIds, clock });
  const attestation = new NodeAttestation(
    { trustDomain, attestors, agents: store.agents, authority, entries, log },
    config.authority.agentTtl,
  );
  const agents = new Agents({ store: store.agents, endCalls, log });
  return { index, entries, bundles, federated, authority, rotation, identity, access, attestation, agents };
}

function rotationOf(
  config: ServerConfig,
  parts: ServerParts,
  { authority, bundles }: { authority: Authority; bundles: BundleKeeper },
): AuthorityRotation {
  const { trustDomain, store, keyManager, clock, log } = parts;
  const { caKeyType, caTtl } = config.authority;
  return new AuthorityRotation(
    { trustDomain, journal: store.authorities, keyManager, bundles, authority, clock, log },
    {
      keyType: caKeyType,
      caTtlMs: caTtl,
      subject: authoritySubjectOf(config),
    },
  );
}
