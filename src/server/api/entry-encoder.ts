import { EntryRevision } from '../../gen/spire/api/server/entry/v1/entry.ts';
import { Entry, type EntryMask } from '../../gen/spire/api/types/entry.ts';
import { entryToWire } from '../../rpc/messages.ts';
import type { RegistrationEntry } from '../../spiffe/registration-entry.ts';
import { type Encoded, keptEncoded } from './encoded-message.ts';
import { maskEntry } from './entry-mask.ts';

/** Callers choose masks freely, agents too: of more than these the least recently used is forgotten. */
const keptMasks = 4;

/**
 * Registration entries as they go over the wire. Every agent asks for its entries every few seconds and they
 * seldom change, so each is encoded once per mask, and that is kept for as long as this state of the entry is.
 */
export class EntryEncoder {
  readonly #byMask = new Map<string, WeakMap<RegistrationEntry, Encoded>>();
  readonly #revisions = new WeakMap<RegistrationEntry, Encoded>();

  /** `spire.api.types.Entry` of each, with only what the mask names; no mask = all. */
  entries(entries: readonly RegistrationEntry[], mask: EntryMask | undefined): readonly Encoded[] {
    const known = this.#knownFor(mask);
    return entries.map((entry) =>
      encodedOnce(known, entry, () => Entry.encode(maskEntry(entryToWire(entry), mask)).finish()),
    );
  }

  /** `EntryRevision` of each. */
  revisions(entries: readonly RegistrationEntry[]): readonly Encoded[] {
    return entries.map((entry) =>
      encodedOnce(this.#revisions, entry, () => {
        const { id, revision, createdAt } = entry;
        const wire = { id, revisionNumber: BigInt(revision), createdAt: BigInt(createdAt) };
        return EntryRevision.encode(wire).finish();
      }),
    );
  }

  #knownFor(mask: EntryMask | undefined): WeakMap<RegistrationEntry, Encoded> {
    const key = mask === undefined ? '*' : namesOf(mask);
    const known = this.#byMask.get(key) ?? new WeakMap<RegistrationEntry, Encoded>();
    this.#byMask.delete(key);
    this.#byMask.set(key, known);
    const [oldest] = this.#byMask.keys();
    if (this.#byMask.size > keptMasks && oldest !== undefined) this.#byMask.delete(oldest);
    return known;
  }
}

function encodedOnce(
  known: WeakMap<RegistrationEntry, Encoded>,
  entry: RegistrationEntry,
  encode: () => Uint8Array,
): Encoded {
  const before = known.get(entry);
  if (before !== undefined) return before;
  const encoded = keptEncoded(encode());
  known.set(entry, encoded);
  return encoded;
}

function namesOf(mask: EntryMask): string {
  return Object.entries(mask)
    .filter(([, isWanted]) => isWanted === true)
    .map(([field]) => field)
    .join();
}
