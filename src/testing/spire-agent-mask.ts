import { EntryMask } from '../gen/spire/api/types/entry.ts';

/** What an agent of SPIRE 1.15 asks to have of an entry; `additional_attributes` is new with it. */
export const spireAgentMask: EntryMask = {
  ...EntryMask.decode(new Uint8Array(0)),
  spiffeId: true,
  selectors: true,
  federatesWith: true,
  admin: true,
  downstream: true,
  revisionNumber: true,
  storeSvid: true,
  hint: true,
  createdAt: true,
  additionalAttributes: true,
};
