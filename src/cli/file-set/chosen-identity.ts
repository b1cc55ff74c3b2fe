import type { WorkloadX509Svid, WorkloadX509Update } from '../../clients/workload-client.ts';
import type { SpiffeId } from '../../spiffe/spiffe-id.ts';

/** Which of several identities is meant; nothing set means the first, which is the default one. */
export interface IdentityChoice {
  readonly spiffeId?: SpiffeId | undefined;
  readonly hint?: string | undefined;
}

/** The first identity that is as chosen; undefined when there is none. */
export function chosenIdentity(
  update: WorkloadX509Update,
  { spiffeId, hint }: IdentityChoice,
): WorkloadX509Svid | undefined {
  return update.svids.find(
    (identity) =>
      (spiffeId === undefined || identity.svid.id.equals(spiffeId)) &&
      (hint === undefined || identity.hint === hint),
  );
}
