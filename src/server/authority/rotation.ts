import type { AuthorityRecord, AuthorityRole, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError, errorText } from '../../runtime/error.ts';
import type { Service } from '../../runtime/lifecycle.ts';
import type { Logger } from '../../runtime/log.ts';
import { SerialQueue } from '../../runtime/serial-queue.ts';
import type { Clock } from '../../runtime/time.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { KeyType } from '../../x509/signature.ts';
import type { RotationTimes } from '../rotation-times.ts';
import type { SigningSlot } from './authority.ts';
import {
  isForgotten,
  nextStep,
  type RotationStep,
  timelineOf,
  usableAuthorities,
} from './authority-states.ts';
import { type Certifier, slotOf } from './certifier.ts';
import type { StepObserver } from './journal-steps.ts';
import type { KeptBundle } from './kept-bundle.ts';
import type { KeySlots } from './key-slots.ts';
import { Preparation, type PreparationRequest } from './preparation.ts';

/** An agent has called within this time, or it is not connected. */
const longestSettleMs = 60_000;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly journal: AuthorityStore;
  readonly keys: KeySlots;
  readonly bundles: KeptBundle;
  readonly certifier: Certifier;
  /** Where the active one signs. */
  readonly target: {
    readonly active: { readonly value: SigningSlot | undefined };
    activate(slot: SigningSlot, options?: { readonly isFirst: boolean }): void;
  };
  readonly onStep: StepObserver;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Settings {
  readonly role: AuthorityRole;
  readonly keyType: KeyType;
  readonly ttlMs: number;
  readonly times: RotationTimes;
}

/**
 * Replaces a CA certificate before it expires. prepared: a new key and certificate, written to journal and bundle in
 * one transaction; active: once all connected agents hold that bundle, it signs; old: its root stays in the bundle
 * until it has expired, and so until nothing it signed is valid. Each step is durable before it takes effect.
 */
export class AuthorityRotation implements Service {
  readonly name: string;
  readonly #deps: Deps;
  readonly #settings: Settings;
  readonly #preparation: Preparation;
  readonly #turns = new SerialQueue();
  #lastFailure: string | undefined;
  #startedAtMs: number | undefined;

  constructor(deps: Deps, settings: Settings) {
    this.name = settings.role === 'root' ? 'root rotation' : 'authority rotation';
    this.#deps = deps;
    this.#settings = settings;
    this.#preparation = new Preparation(deps, settings);
  }

  /** Why the last step failed, until one succeeds. */
  get lastFailure(): string | undefined {
    return this.#lastFailure;
  }

  /** When what happens to a certificate of this role. */
  get times(): RotationTimes {
    return this.#settings.times;
  }

  /** What lives at most so long always gets its whole life: the successor takes over before. */
  get longestKeptTtlMs(): number {
    const { ttlMs, times } = this.#settings;
    return ttlMs - timelineOf({ notBeforeMs: 0, notAfterMs: ttlMs }, times).forceAtMs;
  }

  /** Takes over the journal's active authority, or makes the first one; then looks for a due step now and then. */
  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    await this.step(signal);
    ready();
    // Short-lived test roots need a finer tick than the 10 s that do for a day.
    const tickMs = Math.min(10_000, this.#settings.ttlMs / 60);
    while (!signal.aborted) {
      await this.#deps.clock.sleep(tickMs, signal);
      if (signal.aborted) break;
      await this.step(signal).then(
        () => {
          this.#lastFailure = undefined;
        },
        (error: unknown) => this.#fail(error),
      );
    }
  }

  /** Does the one step that is due now, if any. */
  step(signal: AbortSignal): Promise<void> {
    return this.inTurn(() => this.#step(signal));
  }

  /** Does `work` between two steps: what it reads of the journal stays so. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(work);
  }

  /** Prepares another one now, in place of one that is prepared already; throws `unavailable` before there is any. */
  prepareNow(root: 'active' | 'next', signal: AbortSignal): Promise<AuthorityRecord> {
    return this.inTurn(async () => {
      const records = await this.#records();
      const usable = records.find(({ state }) => state === 'active');
      if (usable === undefined) throw new AppError('unavailable', 'server is initializing');
      const keys = await this.#deps.keys.keysOf(records);
      return (await this.#preparation.prepare({ records, keys, usable, root, signal })).record;
    });
  }

  /** Lets a prepared one sign now, whether or not agents hold its root. Throws `failed-precondition`. */
  activateNow(id: string): Promise<AuthorityRecord> {
    return this.inTurn(async () => {
      const records = await this.#records();
      await this.#ensureRoots(records, this.#deps.clock.now());
      const record = records.find((one) => one.id === id);
      if (record?.state !== 'prepared') {
        throw new AppError('failed-precondition', `authority "${id}" is not prepared`);
      }
      await this.#activate(record, await this.#deps.keys.keysOf(records), 'an administrator says so');
      return { ...record, state: 'active', activatedAtMs: this.#deps.clock.now() };
    });
  }

  async #step(signal: AbortSignal): Promise<void> {
    const { keys: slots, clock } = this.#deps;
    const journalled = await this.#records();
    const keys = await slots.keysOf(journalled);
    const records = await this.#withoutLostKeys(journalled, keys);
    const nowMs = clock.now();
    this.#startedAtMs ??= nowMs;
    await this.#ensureRoots(records, nowMs);
    const trusted = records.filter((record) => this.#isTrusted(record));
    const usable = usableAuthorities(trusted, keys, nowMs);
    // Whatever is due: until it is done the active one signs, also right after a restart.
    this.#resume(usable.active, keys);
    const next = nextStep(usable, nowMs, this.#settings.times);
    await this.#advance(next, { records, keys, usable: usable.active, root: 'active', signal });
    await slots.sweep(records);
    await this.#deps.bundles.prune(nowMs);
    await this.#forgetExpired(records, nowMs);
    await this.#publishUpstreamRoots(nowMs);
  }

  async #advance(next: RotationStep, state: PreparationRequest): Promise<void> {
    const { keys } = state;
    switch (next.kind) {
      case 'prepare':
        await this.#preparation.prepare(state);
        break;
      case 'prepare-and-activate': {
        const { record, key } = await this.#preparation.prepare(state);
        await this.#activate(record, new Map([[record.id, key]]), 'there was no usable one');
        break;
      }
      case 'activate':
        if (this.#isHeld(next.prepared)) await this.#activate(next.prepared, keys, 'it is due');
        break;
      case 'activate-by-force':
        await this.#activate(next.prepared, keys, 'it is overdue');
        break;
      case 'reactivate':
        await this.#activate(next.old, keys, 'the active one is not valid now: the clock was changed');
        break;
      case 'none':
        break;
    }
  }

  async #records(): Promise<readonly AuthorityRecord[]> {
    return (await this.#deps.journal.list()).filter(({ role }) => role === this.#settings.role);
  }

  /** A prepared authority whose key is gone (memory key manager, lost disk) will never sign: make room for another. */
  async #withoutLostKeys(
    records: readonly AuthorityRecord[],
    keys: ReadonlyMap<string, ManagedKey>,
  ): Promise<readonly AuthorityRecord[]> {
    const { journal, clock, log } = this.#deps;
    const lost = records.filter((r) => r.state === 'prepared' && !keys.has(r.id));
    if (lost.length === 0) return records;
    const authorityIds = lost.map((r) => r.id);
    log.warn({ authorityIds }, 'prepared authorities have no key any more; forgotten');
    await journal.forget(authorityIds, clock.now());
    return records.filter((r) => !lost.includes(r));
  }

  /** A transaction may have stored a root and its answer been lost. */
  async #ensureRoots(records: readonly AuthorityRecord[], nowMs: number): Promise<void> {
    const { bundles } = this.#deps;
    for (const record of records) {
      const isCurrent = record.state !== 'old' && record.certificate.notAfterMs > nowMs;
      if (isCurrent && record.revokedAtMs === undefined && !bundles.holds(rootIdOf(record))) {
        await bundles.reload();
        if (record.upstreamKeyId === '') await bundles.ensure(record.certificate);
      }
    }
  }

  /** Nothing may be signed below a root that peers do not have, or should stop to trust. */
  #isTrusted(record: AuthorityRecord): boolean {
    const isMarked = record.taintedAtMs !== undefined || record.revokedAtMs !== undefined;
    return !isMarked && this.#deps.bundles.holds(rootIdOf(record), { untainted: true });
  }

  /**
   * Whether all connected agents hold the prepared root, and have had the time to call since it was published and
   * since this process started: a server that has just started knows of none, and none is not the same as all.
   */
  #isHeld(prepared: AuthorityRecord): boolean {
    const { bundles, clock, log } = this.#deps;
    const nowMs = clock.now();
    const agentsBehind = bundles.agentsBehind(nowMs);
    if (agentsBehind > 0) {
      log.info({ agentsBehind }, 'prepared root waits until connected agents hold it');
      return false;
    }
    const settleMs = Math.min(longestSettleMs, this.#settings.ttlMs / 24);
    return nowMs >= Math.max(prepared.preparedAtMs, this.#startedAtMs ?? nowMs) + settleMs;
  }

  /** After a restart: the journal's active authority signs again. */
  #resume(active: AuthorityRecord | undefined, keys: ReadonlyMap<string, ManagedKey>): void {
    const { target, log } = this.#deps;
    const signer = active === undefined ? undefined : keys.get(active.id);
    if (active === undefined || signer === undefined) return;
    if (target.active.value?.certificate.fingerprint === active.certificate.fingerprint) return;
    target.activate(slotOf(active, signer));
    log.info({ authorityId: active.id, keyId: signer.id }, 'signing certificate taken over from the journal');
  }

  async #activate(
    record: AuthorityRecord,
    keys: ReadonlyMap<string, ManagedKey>,
    why: string,
  ): Promise<void> {
    const { journal, target, certifier, onStep, clock, log } = this.#deps;
    const { role, times } = this.#settings;
    const signer = keys.get(record.id);
    if (signer === undefined) {
      throw new AppError(
        'failed-precondition',
        `the key of authority "${record.id}" is gone; prepare another`,
      );
    }
    if (!this.#isTrusted(record)) {
      throw new AppError(
        'failed-precondition',
        `the root of authority "${record.id}" is not in the trust bundle`,
      );
    }
    await certifier.activateRoot(record.upstreamKeyId);
    await journal.activate(record.id, clock.now());
    onStep('activated', role);
    target.activate(slotOf(record, signer), { isFirst: record.activatedAtMs === undefined });
    onStep('signing', role);
    const nextPreparedAt = new Date(timelineOf(record.certificate, times).prepareAtMs);
    log.info({ authorityId: record.id, role, nextPreparedAt, why }, 'new authority signs from now on');
  }

  async #forgetExpired(records: readonly AuthorityRecord[], nowMs: number): Promise<void> {
    const gone = records
      .filter(({ state, certificate }) => state !== 'active' && isForgotten(certificate, nowMs))
      .map((r) => r.id);
    if (gone.length === 0) return;
    await this.#deps.journal.forget(gone, nowMs);
    this.#deps.onStep('forgotten', this.#settings.role);
  }

  /** A root that is about to sign must be everywhere before; one that was revoked stays away. */
  async #publishUpstreamRoots(nowMs: number): Promise<void> {
    const { certifier, bundles, journal } = this.#deps;
    const missing = (await certifier.roots()).filter(
      (root) => !bundles.holds({ fingerprint: root.fingerprint }) && !isForgotten(root, nowMs),
    );
    if (missing.length === 0) return;
    const revoked = (await journal.list()).filter(({ revokedAtMs }) => revokedAtMs !== undefined);
    const isRevoked = ({ fingerprint }: { readonly fingerprint: string }) =>
      revoked.some(({ certificate }) => certificate.fingerprint === fingerprint);
    for (const root of missing) if (!isRevoked(root)) await bundles.ensure(root);
  }

  #fail(error: unknown): void {
    this.#lastFailure = errorText(error);
    this.#deps.log.error(
      { error, role: this.#settings.role },
      'authority rotation failed; it is tried again',
    );
  }
}

function rootIdOf({ upstreamKeyId, certificate }: AuthorityRecord) {
  return upstreamKeyId === '' ? { fingerprint: certificate.fingerprint } : { subjectKeyId: upstreamKeyId };
}
