import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import { isSubset, selectorText } from '../spiffe/selector.ts';
import { byAge } from './workload-view.ts';

/**
 * Finds the entries of a workload among thousands: each entry is filed under the rarest of its selectors only, so
 * that a workload meets few that it does not match, even when most entries share `unix:uid:0` or a namespace.
 */
export class EntryMatcher {
  readonly #bySelector = new Map<string, RegistrationEntry[]>();

  constructor(entries: Iterable<RegistrationEntry>) {
    const usable = [...entries].filter(isServed);
    const frequency = new Map<string, number>();
    for (const text of usable.flatMap(selectorTexts)) frequency.set(text, (frequency.get(text) ?? 0) + 1);
    for (const entry of usable) {
      const key = selectorTexts(entry).reduce((rarest, text) =>
        (frequency.get(text) ?? 0) < (frequency.get(rarest) ?? 0) ? text : rarest,
      );
      const filed = this.#bySelector.get(key);
      if (filed === undefined) this.#bySelector.set(key, [entry]);
      else filed.push(entry);
    }
  }

  /** The entries all of whose selectors are among `selectors` (selector texts), oldest first. */
  match(selectors: ReadonlySet<string>): readonly RegistrationEntry[] {
    const found: RegistrationEntry[] = [];
    for (const text of selectors) {
      for (const entry of this.#bySelector.get(text) ?? []) {
        if (isSubset(entry.selectors, selectors)) found.push(entry);
      }
    }
    return found.sort(byAge);
  }
}

/** An entry for an SVID store is for no workload here, and one without selectors would match every caller. */
function isServed(entry: RegistrationEntry): boolean {
  return !entry.storeSvid && entry.selectors.length > 0;
}

function selectorTexts(entry: RegistrationEntry): readonly string[] {
  return entry.selectors.map(selectorText);
}
