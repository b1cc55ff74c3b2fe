import type { PeerProcess } from '../../plugin-api/workload-attestor.ts';
import type { Caller } from '../../rpc/caller.ts';
import { AppError } from '../../runtime/error.ts';
import type { Observable } from '../../runtime/observable.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { SvidCache, Watch } from '../svid-cache.ts';
import type { AttestedWorkload, WorkloadAttestation } from '../workload/workload-attestation.ts';
import type { WantedKeyType, WorkloadView } from '../workload-view.ts';
import type { StreamBudget, StreamLease } from './stream-budget.ts';

/** Where callers of the workload socket get what they are entitled to. */
export interface WorkloadSources {
  readonly attestation: Pick<WorkloadAttestation, 'attest'>;
  readonly cache: Pick<SvidCache, 'watch'>;
  readonly budget: StreamBudget;
}

/** A caller that is known to be this process, with all it may have. */
export interface AttestedCaller {
  readonly pid: number;
  readonly peer: PeerProcess;
  /** In canonical order. */
  readonly selectors: readonly Selector[];
  /** The same object for all calls of one connection. */
  readonly connection: object;
  readonly view: Observable<WorkloadView>;
  /** Replaces what other kinds of keys this call wants of the identities in its view; see `Watch`. */
  wantKeyTypes(wanted: readonly WantedKeyType[]): void;
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
    return new ProcessCaller(caller, { workload, lease, watch: sources.cache.watch(workload.selectors) });
  } catch (error) {
    lease.close();
    throw error;
  }
}

interface Parts {
  readonly workload: AttestedWorkload;
  readonly lease: StreamLease;
  readonly watch: Watch;
}

type ProcessPeer = Extract<Caller, { readonly kind: 'process' }>;

/** A class, not closures: there may be thousands. */
class ProcessCaller implements AttestedCaller {
  readonly #caller: ProcessPeer;
  readonly #parts: Parts;

  constructor(caller: ProcessPeer, parts: Parts) {
    this.#caller = caller;
    this.#parts = parts;
  }

  get pid(): number {
    return this.#caller.peer.pid;
  }

  get peer(): PeerProcess {
    return this.#caller.peer;
  }

  get selectors(): readonly Selector[] {
    return this.#parts.workload.selectors;
  }

  get connection(): object {
    return this.#caller.connection;
  }

  get view(): Observable<WorkloadView> {
    return this.#parts.watch.view;
  }

  wantKeyTypes(wanted: readonly WantedKeyType[]): void {
    this.#parts.watch.wantKeyTypes(wanted);
  }

  verifyStillSame(): Promise<void> {
    return this.#parts.workload.verifyStillSame();
  }

  holdNames(bytes: number): void {
    this.#parts.lease.holdNames(bytes);
  }

  release(): void {
    this.#parts.watch.release();
    this.#parts.lease.close();
  }
}
