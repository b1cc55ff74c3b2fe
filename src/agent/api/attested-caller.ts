import type { Caller } from '../../rpc/caller.ts';
import { AppError } from '../../runtime/error.ts';
import type { Observable } from '../../runtime/observable.ts';
import type { SvidCache } from '../svid-cache.ts';
import type { WorkloadAttestation } from '../workload/workload-attestation.ts';
import type { WorkloadView } from '../workload-view.ts';
import type { StreamBudget } from './stream-budget.ts';

/** Where callers of the workload socket get what they are entitled to. */
export interface WorkloadSources {
  readonly attestation: Pick<WorkloadAttestation, 'attest'>;
  readonly cache: Pick<SvidCache, 'watch'>;
  readonly budget: StreamBudget;
}

/** A caller that is known to be this process, with all it may have. */
export interface AttestedCaller {
  readonly pid: number;
  /** The same object for all calls of one connection. */
  readonly connection: object;
  readonly view: Observable<WorkloadView>;
  /** To be awaited before each private key; throws `permission-denied` when it is not the same program any more. */
  verifyStillSame(): Promise<void>;
  /** Says how many bytes of secret names the call holds; throws `resource-exhausted` beyond the user's budget. */
  holdNames(bytes: number): void;
  /** Lets go of the view and of its share of the user's budget; may be called more than once. */
  release(): void;
}

/**
 * Throws what attestation throws, `permission-denied` for a caller that is no process on this machine, and
 * `resource-exhausted` for one whose user has too many calls open.
 */
export async function attestCaller(sources: WorkloadSources, caller: Caller): Promise<AttestedCaller> {
  if (caller.kind !== 'process') {
    throw new AppError(
      'permission-denied',
      'identities are for processes that connect to the workload socket',
    );
  }
  // Before attestation, which takes a while: calls that wait for it count too.
  const lease = sources.budget.open(caller.peer.uid);
  try {
    const workload = await sources.attestation.attest(caller);
    const { view, release } = sources.cache.watch(workload.selectors);
    return {
      pid: caller.peer.pid,
      connection: caller.connection,
      view,
      verifyStillSame: () => workload.verifyStillSame(),
      holdNames: (bytes) => lease.holdNames(bytes),
      release: () => {
        release();
        lease.close();
      },
    };
  } catch (error) {
    lease.close();
    throw error;
  }
}
