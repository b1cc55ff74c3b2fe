import { Entry, type EntryMask } from '../../gen/spire/api/types/entry.ts';
import { entryFromWire, entryToWire } from '../../rpc/messages.ts';
import type { NewEntry, RegistrationEntry } from '../../spiffe/registration-entry.ts';

/** The entry with only the fields that the mask names, and always its id; no mask = all fields. */
export function maskEntry(entry: Entry, mask: EntryMask | undefined): Entry {
  return mask === undefined
    ? entry
    : { ...Entry.decode(new Uint8Array(0)), id: entry.id, ...pick(entry, mask) };
}

/** `current` with the fields of `change` that the mask names; no mask = all fields. */
export function mergeEntry(current: RegistrationEntry, change: Entry, mask: EntryMask | undefined): NewEntry {
  const wanted = mask === undefined ? change : { ...entryToWire(current), ...pick(change, mask) };
  return entryFromWire({ ...wanted, id: current.id });
}

function pick(entry: Entry, mask: EntryMask): Partial<Entry> {
  const named = Object.entries(mask).filter(([, isWanted]) => isWanted === true);
  return Object.fromEntries(named.map(([field]) => [field, entry[field as keyof Entry]]));
}
