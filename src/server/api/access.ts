import type { AgentRecord, AgentStore } from '../../plugin-api/data-store.ts';
import type { Caller } from '../../rpc/caller.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import { isReservedPath, type SpiffeId, type TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { BundleKeeper } from '../bundles/bundle-keeper.ts';
import type { EntryIndex } from '../registration/entry-index.ts';
import { accessTable, type CallerKind } from './access-table.ts';

type SvidCaller = Caller & { kind: 'svid' };

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly agents: Pick<AgentStore, 'find' | 'promoteSerial'>;
  readonly index: EntryIndex;
  readonly bundles: BundleKeeper;
  readonly adminIds: readonly SpiffeId[];
  readonly clock: Clock;
}

/** Decides from the table, the caller and what the registry knows of it whether a call may go on. */
export class Access {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** Returns when the caller may call the method; throws `permission-denied` with the reason when not. */
  async authorize(caller: Caller, method: string): Promise<void> {
    const allowed: readonly CallerKind[] = Object.hasOwn(accessTable, method)
      ? accessTable[method as keyof typeof accessTable]
      : [];
    if (allowed.includes('any')) return;
    if (caller.kind === 'local' && allowed.includes('local')) return;
    if (caller.kind === 'svid') {
      if (allowed.includes('admin') && this.#isAdmin(caller)) {
        // `adminIds` may name an agent: a ban and a renewal hold for it as for others.
        if (isReservedPath(caller.id.path)) await this.requireAgent(caller);
        return;
      }
      if (allowed.includes('downstream') && this.#isDownstream(caller)) return;
      if (allowed.includes('agent')) {
        await this.requireAgent(caller);
        return;
      }
    }
    throw new AppError('permission-denied', `authorization denied for method ${method}`);
  }

  /** The record of the calling agent; throws `permission-denied` with SPIRE's reason when it is not in good standing. */
  async requireAgent(caller: Caller): Promise<AgentRecord> {
    if (caller.kind !== 'svid') throw new AppError('permission-denied', 'caller is not an agent');
    const nowMs = this.#deps.clock.now();
    if (caller.certificate.notAfterMs <= nowMs) throw denied('agent SVID is expired', 'AGENT_EXPIRED');
    const record = await this.#deps.agents.find(caller.id);
    if (record === undefined) throw denied('agent is not attested', 'AGENT_NOT_ATTESTED');
    if (record.banned) throw denied('agent is banned', 'AGENT_BANNED');
    const current = await this.#current(record, caller.certificate);
    this.#deps.bundles.noteAgent(caller.id, nowMs);
    return current;
  }

  /** A renewed certificate becomes the agent's current one when it is first seen; the one before stops counting. */
  async #current(record: AgentRecord, certificate: Certificate): Promise<AgentRecord> {
    const serial = certificate.serialDecimal;
    if (serial === record.serial) return record;
    if (record.newSerial !== '' && serial === record.newSerial) {
      const promoted = await this.#deps.agents.promoteSerial(record.id, serial);
      // It may have renewed, or have attested, again meanwhile.
      if (promoted.serial === serial) return promoted;
    }
    throw denied('agent SVID is not active', 'AGENT_NOT_ACTIVE');
  }

  #isAdmin(caller: SvidCaller): boolean {
    if (!this.#isOwnAndValid(caller)) return false;
    if (this.#deps.adminIds.some((admin) => admin.equals(caller.id))) return true;
    return this.#deps.index.isAdmin(caller.id, this.#deps.clock.now() / 1000);
  }

  #isDownstream(caller: SvidCaller): boolean {
    return (
      this.#isOwnAndValid(caller) && this.#deps.index.isDownstream(caller.id, this.#deps.clock.now() / 1000)
    );
  }

  /** The handshake has checked the time, but a connection may outlive its certificate. */
  #isOwnAndValid({ id, certificate }: SvidCaller): boolean {
    return certificate.notAfterMs > this.#deps.clock.now() && id.isMemberOf(this.#deps.trustDomain);
  }
}

function denied(message: string, reason: string): AppError {
  return new AppError('permission-denied', message, { reason });
}
