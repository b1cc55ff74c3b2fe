import type { AuthorityRecord, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { KeyManager, ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError, errorText } from '../../runtime/error.ts';
import type { Service } from '../../runtime/lifecycle.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { Certificate } from '../../x509/certificate.ts';
import type { KeyType } from '../../x509/signature.ts';
import type { Authority } from './authority.ts';
import { isForgotten, nextStep, timelineOf, usableAuthorities } from './authority-states.ts';
import type { AuthoritySubject } from './template.ts';

/** Two key slots are enough: an old authority signs nothing, so its slot takes the next key. */
const keySlots = ['x509-ca-a', 'x509-ca-b'] as const;

/** What rotation needs of whoever keeps our trust bundle. */
export interface KeptBundle {
  readonly own: { readonly value: Bundle };
  /** Takes over what the journal's transaction has stored. */
  adopt(bundle: Bundle): void;
  /** Puts a root that the journal has into the bundle, should it be missing there. */
  ensure(root: Certificate): Promise<void>;
  /** Drops roots that expired before this moment, Unix ms. */
  prune(nowMs: number): Promise<void>;
  /** How many connected agents do not hold the current bundle yet. */
  agentsBehind(nowMs: number): number;
}

/** An agent has called within this time, or it is not connected. */
const longestSettleMs = 60_000;

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly journal: AuthorityStore;
  readonly keyManager: KeyManager;
  readonly bundles: KeptBundle;
  readonly authority: Authority;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Settings {
  readonly keyType: KeyType;
  readonly caTtlMs: number;
  readonly subject: AuthoritySubject;
}

/**
 * Replaces the root before it expires. prepared: a new key and root, written to journal and bundle in one
 * transaction; active: once all connected agents hold that bundle, it signs; old: its root stays in the bundle
 * until it has expired, and so until nothing it signed is valid. Each step is durable before it takes effect.
 */
export class AuthorityRotation implements Service {
  readonly name = 'authority rotation';
  readonly #deps: Deps;
  readonly #settings: Settings;
  #lastFailure: string | undefined;
  #startedAtMs: number | undefined;

  constructor(deps: Deps, settings: Settings) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /** Why the last step failed, until one succeeds. */
  get lastFailure(): string | undefined {
    return this.#lastFailure;
  }

  /** Takes over the journal's active authority, or makes the first one; then looks for a due step now and then. */
  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    await this.step();
    ready();
    // Short-lived test roots need a finer tick than the 10 s that do for a day.
    const tickMs = Math.min(10_000, this.#settings.caTtlMs / 60);
    while (!signal.aborted) {
      await this.#deps.clock.sleep(tickMs, signal);
      if (signal.aborted) break;
      await this.step().then(
        () => {
          this.#lastFailure = undefined;
        },
        (error: unknown) => {
          this.#lastFailure = errorText(error);
          this.#deps.log.error({ error }, 'authority rotation failed; it is tried again');
        },
      );
    }
  }

  /** Does the one step that is due now, if any. */
  async step(): Promise<void> {
    const { journal, clock, bundles, log } = this.#deps;
    const journalled = await journal.list();
    const keys = await this.#keysOf(journalled);
    const records = await this.#withoutLostKeys(journalled, keys);
    const nowMs = clock.now();
    this.#startedAtMs ??= nowMs;
    const usable = usableAuthorities(records, keys, nowMs);
    for (const record of [usable.active, usable.prepared]) {
      if (record !== undefined) await bundles.ensure(record.certificate);
    }
    // Whatever is due: until it is done the active one signs, also right after a restart.
    this.#resume(usable.active, keys);
    const next = nextStep(usable, nowMs);
    switch (next.kind) {
      case 'prepare':
        await this.#prepare(records, keys);
        break;
      case 'prepare-and-activate': {
        const { record, key } = await this.#prepare(records, keys);
        await this.#activate(record, new Map([[record.id, key]]), 'there was no usable one');
        break;
      }
      case 'activate': {
        const behind = bundles.agentsBehind(nowMs);
        if (behind > 0)
          log.info({ agentsBehind: behind }, 'prepared root waits until connected agents hold it');
        else if (this.#isSettled(next.prepared, nowMs))
          await this.#activate(next.prepared, keys, 'it is due');
        break;
      }
      case 'activate-by-force':
        await this.#activate(next.prepared, keys, 'it is overdue');
        break;
      case 'reactivate':
        await this.#activate(next.old, keys, 'the active one is not valid now: the clock was changed');
        break;
      case 'none':
        break;
    }
    await bundles.prune(nowMs);
    await this.#forgetExpired(records, nowMs);
  }

  /** The keys at hand for the journal's records, matched by public key and never by name. */
  async #keysOf(records: readonly AuthorityRecord[]): Promise<ReadonlyMap<string, ManagedKey>> {
    const keys = await this.#deps.keyManager.listKeys();
    const found = new Map<string, ManagedKey>();
    for (const record of records) {
      const key = keys.find((k) => Buffer.compare(k.publicKey, record.publicKey) === 0);
      if (key !== undefined) found.set(record.id, key);
    }
    return found;
  }

  /** A prepared authority whose key is gone (memory key manager, lost disk) will never sign: make room for another. */
  async #withoutLostKeys(
    records: readonly AuthorityRecord[],
    keys: ReadonlyMap<string, ManagedKey>,
  ): Promise<readonly AuthorityRecord[]> {
    const lost = records.filter((r) => r.state === 'prepared' && !keys.has(r.id));
    if (lost.length === 0) return records;
    this.#deps.log.warn(
      { authorityIds: lost.map((r) => r.id) },
      'prepared roots have no key any more; forgotten',
    );
    await this.#deps.journal.forget(lost.map((r) => r.id));
    return records.filter((r) => !lost.includes(r));
  }

  /**
   * Whether all connected agents have had the time to call since the root was published and since this process
   * started: a server that has just started knows of none, and none is not the same as all.
   */
  #isSettled(prepared: AuthorityRecord, nowMs: number): boolean {
    const settleMs = Math.min(longestSettleMs, this.#settings.caTtlMs / 24);
    return nowMs >= Math.max(prepared.preparedAtMs, this.#startedAtMs ?? nowMs) + settleMs;
  }

  /** After a restart: the journal's active authority signs again. */
  #resume(active: AuthorityRecord | undefined, keys: ReadonlyMap<string, ManagedKey>): void {
    const signer = active === undefined ? undefined : keys.get(active.id);
    if (active === undefined || signer === undefined) return;
    if (this.#deps.authority.active.value?.certificate.fingerprint === active.certificate.fingerprint) return;
    this.#deps.authority.activate({ certificate: active.certificate, signer });
    this.#deps.log.info(
      { authorityId: active.id, keyId: signer.id },
      'signing certificate taken over from the journal',
    );
  }

  async #prepare(
    records: readonly AuthorityRecord[],
    keys: ReadonlyMap<string, ManagedKey>,
  ): Promise<{ readonly record: AuthorityRecord; readonly key: ManagedKey }> {
    const { keyManager, authority, journal, bundles, clock, trustDomain, log } = this.#deps;
    const active = records.find((r) => r.state === 'active');
    // Where the active key really is; the journal only says where it was made.
    const busy = active === undefined ? undefined : (keys.get(active.id)?.id ?? active.keyId);
    const keyId = keySlots.find((slot) => slot !== busy) ?? keySlots[0];
    const key = await keyManager.generateKey(keyId, this.#settings.keyType);
    const certificate = await authority.signRoot(key, this.#settings.subject, this.#settings.caTtlMs);
    const record: AuthorityRecord = {
      id: certificate.subjectKeyId ?? certificate.fingerprint,
      keyId,
      publicKey: key.publicKey,
      certificate,
      state: 'prepared',
      preparedAtMs: clock.now(),
      activatedAtMs: undefined,
    };
    const bundle = await journal.prepare(record, trustDomain, (current) =>
      (current ?? bundles.own.value).withAuthority(certificate),
    );
    bundles.adopt(bundle);
    log.info(
      { authorityId: record.id, keyId, bundleSequence: bundle.sequence },
      'new root prepared and published',
    );
    return { record, key };
  }

  async #activate(
    record: AuthorityRecord,
    keys: ReadonlyMap<string, ManagedKey>,
    why: string,
  ): Promise<void> {
    const { journal, authority, clock, log } = this.#deps;
    const signer = keys.get(record.id);
    if (signer === undefined) throw new AppError('internal', `authority "${record.id}" has no key`);
    await journal.activate(record.id, clock.now());
    authority.activate({ certificate: record.certificate, signer });
    log.info(
      { authorityId: record.id, nextPreparedAt: new Date(timelineOf(record.certificate).prepareAtMs), why },
      'new root signs from now on',
    );
  }

  async #forgetExpired(records: readonly AuthorityRecord[], nowMs: number): Promise<void> {
    const gone = records
      .filter(({ state, certificate }) => state !== 'active' && isForgotten(certificate, nowMs))
      .map((r) => r.id);
    if (gone.length > 0) await this.#deps.journal.forget(gone);
  }
}
