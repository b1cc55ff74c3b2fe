import type { DataStore } from '../plugin-api/data-store.ts';
import type { ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import { SpiffeId } from '../spiffe/spiffe-id.ts';
import { Access } from './api/access.ts';
import { NodeAttestation } from './attestation/node-attestation.ts';
import { type AuthorityParts, type AuthorityRooms, openAuthority } from './authority/open-authority.ts';
import { BundleKeeper } from './bundles/bundle-keeper.ts';
import { FederatedBundles } from './bundles/federated-bundles.ts';
import type { ServerConfig } from './config.ts';
import { Agents, type EndCalls } from './registration/agents.ts';
import { Entries } from './registration/entries.ts';
import { EntryIndex } from './registration/entry-index.ts';
import { ServerIdentity } from './server-identity.ts';

/** What the composition root has built from plugins. */
export interface ServerParts extends AuthorityParts {
  readonly store: DataStore;
  readonly attestors: ReadonlyMap<string, ServerNodeAttestor>;
  /** Makes a join token of 256 bits. */
  readonly newJoinToken: () => string;
}

/** The rooms of a server, furnished and connected; nothing in them runs yet. */
export interface ServerRooms extends AuthorityRooms {
  readonly index: EntryIndex;
  readonly entries: Entries;
  readonly bundles: BundleKeeper;
  readonly federated: FederatedBundles;
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
  const authorityRooms = openAuthority(config, parts, bundles);
  const { authority } = authorityRooms;
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
  return { ...authorityRooms, index, entries, bundles, federated, identity, access, attestation, agents };
}
