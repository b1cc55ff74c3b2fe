import type { AuthorityRecord, AuthorityRole, KeyJournal } from '../../plugin-api/data-store.ts';
import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { KeyType } from '../../x509/signature.ts';
import type { StepObserver } from './journal-steps.ts';

/** Names of keys: prefix and letter. Two are in use; others stand in for those that somebody else's keys have. */
const prefixes = { signing: 'x509-ca-', root: 'x509-root-' } as const satisfies Record<AuthorityRole, string>;
const letters = 'abcdefghijklmnopqrstuvwxyz';

interface Deps {
  readonly keyManager: KeyManager;
  readonly journal: KeyJournal;
  readonly clock: Clock;
  readonly onStep: StepObserver;
}

/** Something in a key manager that nothing accounts for. */
export interface Stray {
  readonly role: AuthorityRole;
  readonly keyId: string;
  /** For people. */
  readonly why: string;
  destroy(): Promise<void>;
}

/**
 * The keys of one role. They are known by their public keys and never by their names. A key is destroyed only when
 * the journal lists it as retired, and one is made only after the journal has its name: so none can be lost that
 * something needs, such as after the restoration of an old database, and none is left behind by a crash.
 */
export class KeySlots {
  readonly #role: AuthorityRole;
  readonly #deps: Deps;
  /** Made by this process and not in the journal: certifying it failed, and is tried again. */
  #spare: { readonly keyId: string; readonly key: ManagedKey } | undefined;

  constructor(role: AuthorityRole, deps: Deps) {
    this.#role = role;
    this.#deps = deps;
  }

  /** The keys at hand for these records, by record id. */
  async keysOf(records: readonly AuthorityRecord[]): Promise<ReadonlyMap<string, ManagedKey>> {
    const keys = await this.#deps.keyManager.listKeys();
    const found = new Map<string, ManagedKey>();
    for (const record of records) {
      const key = keys.find((one) => isSame(one.publicKey, record.publicKey));
      if (key !== undefined) found.set(record.id, key);
    }
    return found;
  }

  /**
   * A new key in the first slot that neither `busy` nor a key of somebody else occupies. What lies in that slot, the
   * key of an old one of `records`, is retired and destroyed.
   */
  async newKey(
    { busy, records }: { readonly busy: readonly string[]; readonly records: readonly AuthorityRecord[] },
    type: KeyType,
  ): Promise<{ readonly keyId: string; readonly key: ManagedKey }> {
    const { keyManager, journal, onStep } = this.#deps;
    if (this.#spare !== undefined && !busy.includes(this.#spare.keyId) && this.#spare.key.type === type) {
      return this.#spare;
    }
    await this.sweep(records);
    const keyId = await this.#freeSlot(busy, records);
    const leftOver = await keyManager.findKey(keyId);
    if (leftOver !== undefined) await this.#retire(leftOver);
    await this.#destroyRetired();
    await journal.claim({ role: this.#role, keyId });
    onStep('key-claimed', this.#role);
    const key = await keyManager.generateKey(keyId, type);
    onStep('key-generated', this.#role);
    this.#spare = { keyId, key };
    return this.#spare;
  }

  /** To be called when the journal has the key: the next one is another. */
  take(): void {
    this.#spare = undefined;
  }

  /** Destroys what was being made when a process ended, what signed for a revoked authority, and what is retired. */
  async sweep(records: readonly AuthorityRecord[]): Promise<void> {
    const { journal, keyManager } = this.#deps;
    const claims = (await journal.claims()).filter(({ role }) => role === this.#role);
    for (const claim of claims) {
      const key = await keyManager.findKey(claim.keyId);
      if (this.#spare?.keyId === claim.keyId) continue;
      if (key === undefined || isOf(records, key)) await journal.unclaim(claim);
      else await this.#retire(key);
    }
    const revoked = records.filter(
      ({ role, state, revokedAtMs }) => role === this.#role && state === 'old' && revokedAtMs !== undefined,
    );
    if (revoked.length > 0) for (const key of (await this.keysOf(revoked)).values()) await this.#retire(key);
    await this.#destroyRetired();
  }

  async #destroyRetired(): Promise<void> {
    const { journal, keyManager, onStep } = this.#deps;
    const due = (await journal.retired()).filter(({ role }) => role === this.#role);
    if (due.length === 0) return;
    const keys = await keyManager.listKeys();
    for (const { publicKey } of due) {
      for (const key of keys.filter((one) => isSame(one.publicKey, publicKey))) {
        await keyManager.deleteKey(key.id);
        onStep('key-destroyed', this.#role);
      }
      await journal.noteDestroyed({ role: this.#role, publicKey });
    }
  }

  /** What lies in the key manager and signs nothing for us: left behind by a crash, or put there by others. */
  async strays(records: readonly AuthorityRecord[]): Promise<readonly Stray[]> {
    const { keyManager, journal } = this.#deps;
    const role = this.#role;
    const known = [...records, ...(await journal.retired())];
    // One of these may be on its way into the journal.
    const claimed = new Set((await journal.claims()).map(({ keyId }) => keyId));
    const isUnknown = (key: ManagedKey) =>
      key.id.startsWith(prefixes[role]) && !claimed.has(key.id) && !isOf(known, key);
    const unknown = (await keyManager.listKeys()).filter(isUnknown).map((key) => ({
      role,
      keyId: key.id,
      why: 'not in the journal',
      destroy: async () => {
        await this.#retire(key);
        await this.#destroyRetired();
      },
    }));
    const others = ((await keyManager.listStrays?.()) ?? [])
      // Two key managers may share a token.
      .filter(({ keyId }) => !isOfOther(keyId, role))
      .map(({ handle, keyId, why }) => ({
        role,
        keyId,
        why,
        destroy: async () => keyManager.deleteStray?.(handle),
      }));
    return [...unknown, ...others];
  }

  async #retire({ id, publicKey }: ManagedKey): Promise<void> {
    const { journal, clock, onStep } = this.#deps;
    await journal.retire({ role: this.#role, keyId: id, publicKey, retiredAtMs: clock.now() });
    onStep('key-retired', this.#role);
  }

  /** Keys that the journal does not know keep their slots: it may be the journal that has forgotten. */
  async #freeSlot(busy: readonly string[], records: readonly AuthorityRecord[]): Promise<string> {
    for (const letter of letters) {
      const keyId = `${prefixes[this.#role]}${letter}`;
      if (busy.includes(keyId)) continue;
      const key = await this.#deps.keyManager.findKey(keyId);
      if (key === undefined || isOf(records, key)) return keyId;
    }
    throw new AppError(
      'failed-precondition',
      `no name is left for a new key: ${letters.length} keys are in the way that the journal does not know; see: signet authority prune`,
    );
  }
}

function isOf(known: readonly { readonly publicKey: Uint8Array }[], key: ManagedKey): boolean {
  return known.some(({ publicKey }) => isSame(publicKey, key.publicKey));
}

function isOfOther(keyId: string, role: AuthorityRole): boolean {
  return keyId.startsWith(prefixes[role === 'root' ? 'signing' : 'root']);
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
