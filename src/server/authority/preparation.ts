import type { AuthorityRecord, AuthorityRole, AuthorityStore } from '../../plugin-api/data-store.ts';
import type { ManagedKey } from '../../plugin-api/key-manager.ts';
import { AppError } from '../../runtime/error.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Clock } from '../../runtime/time.ts';
import type { TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { KeyType } from '../../x509/signature.ts';
import { type Certified, type Certifier, slotOf } from './certifier.ts';
import { checkAsPeer } from './chain-check.ts';
import type { StepObserver } from './journal-steps.ts';
import type { KeptBundle } from './kept-bundle.ts';
import type { KeySlots } from './key-slots.ts';

interface Deps {
  readonly trustDomain: TrustDomain;
  readonly journal: AuthorityStore;
  readonly keys: KeySlots;
  readonly bundles: KeptBundle;
  readonly certifier: Certifier;
  readonly onStep: StepObserver;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What is known when another authority is to be prepared. */
export interface PreparationRequest {
  /** Of this role. */
  readonly records: readonly AuthorityRecord[];
  /** Those at hand, by record id. */
  readonly keys: ReadonlyMap<string, ManagedKey>;
  /** The active authority, if it can sign. */
  readonly usable: AuthorityRecord | undefined;
  readonly root: 'active' | 'next';
  readonly signal: AbortSignal;
}

/** A prepared authority, durable and published. */
export interface Prepared {
  readonly record: AuthorityRecord;
  readonly key: ManagedKey;
}

/** Makes the next authority of one role: key, certificate, a look at it as a peer has, then journal and bundle at once. */
export class Preparation {
  readonly #deps: Deps;
  readonly #settings: { readonly role: AuthorityRole; readonly keyType: KeyType };

  constructor(deps: Deps, settings: { readonly role: AuthorityRole; readonly keyType: KeyType }) {
    this.#deps = deps;
    this.#settings = settings;
  }

  /** Takes the place of those that are prepared already. Throws what stands in the way; nothing signs with it yet. */
  async prepare(request: PreparationRequest): Promise<Prepared> {
    const { trustDomain, certifier, keys: slots, onStep, clock, log } = this.#deps;
    const { role, keyType } = this.#settings;
    if (request.root === 'active') await this.#requireLongerLife(request.usable);
    await this.#makeRoom(request.records);
    const kept = request.records.filter(({ state }) => state !== 'prepared');
    const active = request.records.find((r) => r.state === 'active');
    // Where the active key really is; the journal only says where it was made.
    const busy = active === undefined ? [] : [request.keys.get(active.id)?.id ?? active.keyId];
    const { keyId, key } = await slots.newKey({ busy, records: kept }, keyType);
    const certified = await certifier.certify(key, request);
    onStep('certified', role);
    const record = recordOf(certified, { role, keyId, publicKey: key.publicKey, nowMs: clock.now() });
    if (role === 'signing') {
      const { roots } = certified;
      await checkAsPeer({ slot: slotOf(record, key), roots, trustDomain, nowMs: clock.now() });
    }
    await this.#publish(record, certified);
    slots.take();
    log.info({ authorityId: record.id, role, keyId }, 'new authority prepared, its root published');
    return { record, key };
  }

  /** Without this, ever shorter certificates would follow each other towards the end of what stands above. */
  async #requireLongerLife(usable: AuthorityRecord | undefined): Promise<void> {
    const { certifier, clock } = this.#deps;
    const latestMs = await certifier.latestEndMs();
    if (latestMs > (usable?.certificate.notAfterMs ?? clock.now())) return;
    const end = new Date(latestMs).toISOString();
    throw new AppError(
      'failed-precondition',
      `no successor can be made: what stands above it ends at ${end}; give the upstream authority a new certificate`,
    );
  }

  /** They are of no use: else none would be prepared now. Their slot is needed. */
  async #makeRoom(records: readonly AuthorityRecord[]): Promise<void> {
    const { journal, onStep, clock } = this.#deps;
    const prepared = records.filter(({ state }) => state === 'prepared').map(({ id }) => id);
    if (prepared.length === 0) return;
    await journal.forget(prepared, clock.now());
    onStep('forgotten', this.#settings.role);
  }

  async #publish(record: AuthorityRecord, { roots }: Certified): Promise<void> {
    const { journal, bundles, trustDomain, onStep } = this.#deps;
    const x509 = roots.map((certificate) => ({ certificate, tainted: false }));
    const bundle = await journal.prepare(record, trustDomain, (current) =>
      (current ?? bundles.own.value).withAuthorities({ x509, jwt: [] }),
    );
    onStep('prepared', record.role);
    bundles.adopt(bundle);
    onStep('published', record.role);
  }
}

function recordOf(
  { certificate, chain, upstreamKeyId }: Certified,
  made: {
    readonly role: AuthorityRole;
    readonly keyId: string;
    readonly publicKey: Uint8Array;
    readonly nowMs: number;
  },
): AuthorityRecord {
  return {
    id: certificate.subjectKeyId ?? certificate.fingerprint,
    role: made.role,
    keyId: made.keyId,
    publicKey: made.publicKey,
    certificate,
    chain,
    upstreamKeyId,
    state: 'prepared',
    preparedAtMs: made.nowMs,
    activatedAtMs: undefined,
    taintedAtMs: undefined,
    revokedAtMs: undefined,
    svidsEndByMs: made.nowMs,
  };
}
