import type { AgentRecord, AgentStore } from '../../plugin-api/data-store.ts';
import type { Caller } from '../../rpc/caller.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';

/** Ends the running calls, streams included, of callers that match. */
export type EndCalls = (match: (caller: Caller) => boolean, error: AppError) => void;

interface Deps {
  readonly store: AgentStore;
  readonly endCalls: EndCalls;
  readonly log: Logger;
}

/**
 * What administrators do to agents. A removal is stored first, so that no new call is let in, and then ends the calls
 * that were let in before it: nothing that they were asking for leaves the server any more.
 */
export class Agents {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** Throws `not-found`. */
  async get(id: SpiffeId): Promise<AgentRecord> {
    const agent = await this.#deps.store.find(id);
    if (agent === undefined) throw new AppError('not-found', 'agent not found');
    return agent;
  }

  /** The agent loses its access, and cannot attest until its record is deleted. Throws `not-found`. */
  async ban(id: SpiffeId): Promise<void> {
    await this.#deps.store.ban(id);
    this.#endCallsOf(id, 'agent is banned', 'AGENT_BANNED');
    this.#deps.log.info({ agentId: id.toString() }, 'agent banned');
  }

  /** The agent loses its access; it may attest again if its attestor allows that. Throws `not-found`. */
  async delete(id: SpiffeId): Promise<void> {
    const deleted = await this.#deps.store.delete(id);
    if (deleted === undefined) throw new AppError('not-found', 'agent not found');
    this.#endCallsOf(id, 'agent is not attested', 'AGENT_NOT_ATTESTED');
    this.#deps.log.info({ agentId: id.toString(), wasBanned: deleted.banned }, 'agent deleted');
  }

  #endCallsOf(id: SpiffeId, text: string, reason: 'AGENT_BANNED' | 'AGENT_NOT_ATTESTED'): void {
    this.#deps.endCalls(
      (caller) => caller.kind === 'svid' && caller.id.equals(id),
      new AppError('permission-denied', text, { reason }),
    );
  }
}
