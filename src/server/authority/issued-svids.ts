import type { AuthorityRecord, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';

/** Who uses an SVID: a later one for the same holder takes its place. */
export interface SvidHolder {
  /** SPIFFE ID of the agent; empty for what an administrator minted, which nobody replaces. */
  readonly agent: string;
  /** Which of the agent's SVIDs; empty = its own. */
  readonly use: string;
}

interface Issued {
  readonly authorityId: string;
  readonly notAfterMs: number;
}

/** SVIDs that may still be in use. */
export interface SvidsInUse {
  /** Of those signed since this process started: not expired, and not replaced for the same holder. */
  readonly svids: number;
  readonly agents: number;
  /** Of these, the ones that an administrator minted. */
  readonly minted: number;
  /** When the last one that was ever signed ends at the latest, Unix ms. */
  readonly endByMs: number;
  /** Whether SVIDs may be in use that are not counted: a process before this one signed them. */
  readonly isIncomplete: boolean;
}

/**
 * Which authority signed what is in use now: kept in memory for what this process has signed. The journal remembers
 * only until when anything can last, written ahead by a tenth of a lifetime, so that few signatures cost a write.
 */
export class IssuedSvids {
  readonly #deps: {
    readonly journal: Pick<AuthorityStore, 'extendSvids'>;
    readonly clock: Clock;
    readonly log: Logger;
  };
  /** Authorities of which all that was ever signed is known. */
  readonly #fromTheFirst = new Set<string>();
  readonly #byAgent = new Map<string, Map<string, Issued>>();
  readonly #endByMs = new Map<string, number>();

  constructor(deps: {
    readonly journal: Pick<AuthorityStore, 'extendSvids'>;
    readonly clock: Clock;
    readonly log: Logger;
  }) {
    this.#deps = deps;
  }

  /** Notes that an authority is about to sign for the first time ever. */
  begin(authorityId: string): void {
    this.#fromTheFirst.add(authorityId);
  }

  /** Notes an SVID that was just signed. */
  note(issued: Issued & { readonly holder: SvidHolder }): void {
    const { authorityId, notAfterMs, holder } = issued;
    let uses = this.#byAgent.get(holder.agent);
    if (uses === undefined) {
      uses = new Map();
      this.#byAgent.set(holder.agent, uses);
    }
    uses.set(holder.use, { authorityId, notAfterMs });
    this.#extend(authorityId, notAfterMs);
  }

  /** What of these authorities may still be in use. */
  inUse(records: readonly AuthorityRecord[], nowMs: number): SvidsInUse {
    const ids = new Set(records.map(({ id }) => id));
    let [svids, agents, minted] = [0, 0, 0];
    for (const [agent, uses] of this.#byAgent) {
      let found = 0;
      for (const { authorityId, notAfterMs } of uses.values()) {
        if (ids.has(authorityId) && notAfterMs > nowMs) found += 1;
      }
      svids += found;
      if (agent === '') minted = found;
      else if (found > 0) agents += 1;
    }
    const endByMs = Math.max(0, ...records.map((record) => this.#endOf(record)));
    const isComplete = ({ id, activatedAtMs }: AuthorityRecord) =>
      activatedAtMs === undefined || this.#fromTheFirst.has(id);
    return { svids, agents, minted, endByMs, isIncomplete: endByMs > nowMs && !records.every(isComplete) };
  }

  /** Forgets what has expired. */
  prune(nowMs: number): void {
    for (const [agent, uses] of this.#byAgent) {
      for (const [use, { notAfterMs }] of uses) if (notAfterMs <= nowMs) uses.delete(use);
      if (uses.size === 0) this.#byAgent.delete(agent);
    }
  }

  #endOf(record: AuthorityRecord): number {
    // A record from before this was kept says nothing.
    const stored = record.svidsEndByMs ?? record.certificate.notAfterMs;
    return Math.min(record.certificate.notAfterMs, Math.max(stored, this.#endByMs.get(record.id) ?? 0));
  }

  #extend(authorityId: string, notAfterMs: number): void {
    if (notAfterMs <= (this.#endByMs.get(authorityId) ?? 0)) return;
    const { journal, clock, log } = this.#deps;
    const endByMs = Math.ceil(notAfterMs + Math.max(0, notAfterMs - clock.now()) / 10);
    this.#endByMs.set(authorityId, endByMs);
    // Nobody waits for it: a database that is away must not keep workloads from their identities.
    journal.extendSvids(authorityId, endByMs).catch((error: unknown) => {
      log.warn({ error, authorityId }, 'cannot note until when SVIDs last');
      this.#endByMs.delete(authorityId);
    });
  }
}
