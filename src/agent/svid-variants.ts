import type { Clock } from '../runtime/time.ts';
import type { RegistrationEntry } from '../spiffe/registration-entry.ts';
import type { KeyType } from '../x509/signature.ts';
import type { SvidState } from './rotation-policy.ts';
import { chosenIdentities, type HeldSvid, type Identity, type WantedKeyType } from './workload-view.ts';

/**
 * How long a wish that came to nothing outlives its caller. A call that does not wait finds the SVID at its next try,
 * and a caller who connects over and over again does not make the agent ask its server as often.
 */
const lingerMs = 60_000;

/** An entry's SVID with a kind of key that somebody wants, or wanted a moment ago. */
interface Wanted {
  readonly entryId: string;
  readonly keyType: KeyType;
  /** By how many callers. */
  wishes: number;
  /** When the last of them went; of no meaning while there are any. */
  endedAtMs: number;
}

const none: ReadonlyMap<KeyType, HeldSvid> = new Map();

/**
 * SVIDs with other kinds of keys than the usual one. They are signed and renewed while somebody who is entitled to the
 * entry wants them. Afterwards they stay until they would be renewed, so that a reconnect finds them. All costs grow
 * with what is wanted, never with the number of entries.
 */
export class SvidVariants {
  readonly #clock: Clock;
  readonly #usual: KeyType;
  /** By entry id. The inner maps are never changed, only replaced. */
  readonly #held = new Map<string, ReadonlyMap<KeyType, HeldSvid>>();
  /** By key type and entry id. */
  readonly #wanted = new Map<string, Wanted>();

  /** Of the `usual` kind there are no variants: every entry has such an SVID anyway. */
  constructor(deps: { readonly clock: Clock; readonly usual: KeyType }) {
    this.#clock = deps.clock;
    this.#usual = deps.usual;
  }

  /** By key type; the same object while nothing has changed. */
  of(entryId: string): ReadonlyMap<KeyType, HeldSvid> {
    return this.#held.get(entryId) ?? none;
  }

  put(held: HeldSvid): void {
    this.#held.set(held.entry.id, new Map([...this.of(held.entry.id), [held.keyType, held]]));
  }

  /** Drops those that may not be held any more. */
  retain(mayHold: (held: HeldSvid) => boolean): void {
    this.#drop((held) => !mayHold(held));
  }

  /** Drops what has expired, and what is due for renewal but wanted by nobody; returns both. */
  expire(nowMs: number): readonly HeldSvid[] {
    for (const [key, { wishes, endedAtMs }] of this.#wanted) {
      if (wishes === 0 && endedAtMs + lingerMs <= nowMs) this.#wanted.delete(key);
    }
    const isWanted = (held: HeldSvid) =>
      this.#wanted.has(keyOf({ entryId: held.entry.id, keyType: held.keyType }));
    return this.#drop((h) => h.svid.notAfterMs <= nowMs || (h.renewAtMs <= nowMs && !isWanted(h)));
  }

  /** What is known of each one that is wanted, whether it is there or not. */
  states(
    entries: ReadonlyMap<string, RegistrationEntry>,
    usersOf: (entryId: string) => number,
  ): readonly SvidState[] {
    const states: SvidState[] = [];
    for (const { entryId, keyType } of this.#wanted.values()) {
      const entry = entries.get(entryId);
      const held = this.of(entryId).get(keyType);
      const users = usersOf(entryId);
      if (entry !== undefined) states.push({ entry, held, isWatched: true, users, keyType, isVariant: true });
    }
    return states;
  }

  /** The wishes of a caller who has none yet. */
  newWishes(): Wishes {
    let wanted: readonly WantedKeyType[] = [];
    let found: ReadonlySet<Wanted> = new Set();
    const resolve = (identities: readonly Identity[]) => {
      const next = this.#resolve(wanted, identities);
      const isNew = [...next].some((one) => this.#isMissing(one) && !this.#wanted.has(keyOf(one)));
      for (const one of next) if (!found.has(one)) this.#begin(one);
      for (const one of found) if (!next.has(one)) this.#end(one);
      found = next;
      return isNew;
    };
    return {
      replace: (next, identities) => {
        wanted = next;
        return resolve(identities);
      },
      resolve,
    };
  }

  #resolve(wanted: readonly WantedKeyType[], identities: readonly Identity[]): ReadonlySet<Wanted> {
    const found = new Map<string, Wanted>();
    for (const choice of wanted) {
      if (choice.keyType === this.#usual) continue;
      for (const { entry } of chosenIdentities(identities, choice)) {
        const one = { entryId: entry.id, keyType: choice.keyType, wishes: 0, endedAtMs: 0 };
        const key = keyOf(one);
        found.set(key, this.#wanted.get(key) ?? found.get(key) ?? one);
      }
    }
    return new Set(found.values());
  }

  #begin(wanted: Wanted): void {
    wanted.wishes += 1;
    this.#wanted.set(keyOf(wanted), wanted);
  }

  #end(wanted: Wanted): void {
    wanted.wishes -= 1;
    wanted.endedAtMs = this.#clock.now();
    if (wanted.wishes === 0 && !this.#isMissing(wanted)) this.#wanted.delete(keyOf(wanted));
  }

  #isMissing({ entryId, keyType }: Wanted): boolean {
    return !this.of(entryId).has(keyType);
  }

  #drop(isUseless: (held: HeldSvid) => boolean): readonly HeldSvid[] {
    const dropped: HeldSvid[] = [];
    for (const [entryId, variants] of this.#held) {
      const useless = [...variants.values()].filter(isUseless);
      if (useless.length === 0) continue;
      dropped.push(...useless);
      const kept = [...variants].filter(([, held]) => !useless.includes(held));
      if (kept.length === 0) this.#held.delete(entryId);
      else this.#held.set(entryId, new Map(kept));
    }
    return dropped;
  }
}

/** What one caller wants. Its wishes cover only the identities that it is entitled to when they are resolved. */
export interface Wishes {
  /** Returns whether somebody now waits for an SVID that nobody has waited for. */
  replace(wanted: readonly WantedKeyType[], identities: readonly Identity[]): boolean;
  /** To be called when the identities have changed. */
  resolve(identities: readonly Identity[]): boolean;
}

function keyOf({ entryId, keyType }: Pick<Wanted, 'entryId' | 'keyType'>): string {
  return `${keyType} ${entryId}`;
}
