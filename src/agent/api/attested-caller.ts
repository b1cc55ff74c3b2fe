import type { Caller } from '../../rpc/caller.ts';
import { AppError } from '../../runtime/error.ts';
import type { Observable } from '../../runtime/observable.ts';
import type { SvidCache } from '../svid-cache.ts';
import type { WorkloadAttestation } from '../workload/workload-attestation.ts';
import type { WorkloadView } from '../workload-view.ts';

/** Where callers of the workload socket get what they are entitled to. */
export interface WorkloadSources {
  readonly attestation: Pick<WorkloadAttestation, 'attest'>;
  readonly cache: Pick<SvidCache, 'watch'>;
}

/** A caller that is known to be this process, with all it may have. */
export interface AttestedCaller {
  readonly pid: number;
  /** The same object for all calls of one connection. */
  readonly connection: object;
  readonly view: Observable<WorkloadView>;
  /** To be awaited before each private key; throws `permission-denied` when it is not the same program any more. */
  verifyStillSame(): Promise<void>;
  /** Lets go of the view; may be called more than once. */
  release(): void;
}

/** Throws what attestation throws, and `permission-denied` for a caller that is no process on this machine. */
export async function attestCaller(sources: WorkloadSources, caller: Caller): Promise<AttestedCaller> {
  if (caller.kind !== 'process') {
    throw new AppError(
      'permission-denied',
      'identities are for processes that connect to the workload socket',
    );
  }
  const workload = await sources.attestation.attest(caller);
  const { view, release } = sources.cache.watch(workload.selectors);
  return {
    pid: caller.peer.pid,
    connection: caller.connection,
    view,
    verifyStillSame: () => workload.verifyStillSame(),
    release,
  };
}
