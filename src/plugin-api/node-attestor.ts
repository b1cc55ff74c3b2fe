import type { Selector } from '../spiffe/selector.ts';
import type { JoinTokenStore } from './data-store.ts';
import type { PluginContext } from './plugin.ts';

/** What a server half learnt about the node that is being attested. */
export interface NodeAttestation {
  /** The agent's path below the trust domain, such as `/spire/agent/join_token/<id>`. */
  readonly agentPath: string;
  readonly selectors: readonly Selector[];
  /** Whether the agent may attest again the same way once its SVID is gone. */
  readonly canReattest: boolean;
}

/** Sends a challenge to the agent and resolves with its answer. */
export type Ask = (challenge: Uint8Array) => Promise<Uint8Array>;

/** The agent's half of an attestation protocol. */
export interface AgentNodeAttestor {
  payload(): Promise<Uint8Array>;
  answer(challenge: Uint8Array): Promise<Uint8Array>;
}

/** The server's half of an attestation protocol. */
export interface ServerNodeAttestor {
  /**
   * Proves who the node is, or throws an AppError. `publicKey` is the SPKI (DER) of the key the agent asks a
   * certificate for; the CSR's own signature is checked by the caller afterwards.
   */
  verify(
    payload: Uint8Array,
    context: { readonly ask: Ask; readonly publicKey: Uint8Array; readonly signal: AbortSignal },
  ): Promise<NodeAttestation>;
}

/** What a server half gets: the usual context and the one store that a node attestor needs. */
export interface ServerNodeAttestorContext extends PluginContext {
  readonly tokens: JoinTokenStore;
}
