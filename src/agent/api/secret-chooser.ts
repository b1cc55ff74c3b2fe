import type { Clock } from '../../runtime/time.ts';
import { emptyView, type WorkloadView } from '../workload-view.ts';
import { type ChoiceContext, chooseFor, type SecretSource } from './delivery-choice.ts';
import { leafWaitMs } from './delivery-order.ts';
import type { Offer } from './offer.ts';
import type { ProxySecret } from './proxy-secret.ts';
import type { Resource, ServedResource } from './resource.ts';
import type { ValidatorFlavour } from './sds-names.ts';
import type { SecretLedger } from './secret-ledger.ts';

/** Who chooses, from what, and who is told. */
export interface ChooserDeps {
  readonly source: SecretSource;
  readonly onWithdraw: 'keep' | 'block';
  readonly clock: Clock;
  readonly ledger: SecretLedger;
  /** A trust secret is still open, or a stream still silent, on a connection that asks for this one. */
  isConnectionOpen(secret: ProxySecret): boolean;
  /** Streams that ask for it look up another answer now. */
  changed(secret: ProxySecret): void;
  /** To have `wake` called in so many ms at the latest. */
  wakeWithin(ms: number): void;
}

/**
 * Finds what a proxy is to have under each of its names, and finds it anew when something changes. All names are chosen
 * together, since each depends on the others: certificates wait for trust; and what was refused is tried again alone,
 * trust first, when something else that may have been to blame has come into order.
 */
export class SecretChooser {
  readonly #deps: ChooserDeps;
  #view: { readonly value: WorkloadView } = { value: emptyView };
  flavour: ValidatorFlavour | undefined;
  #chosenFor: WorkloadView | undefined;
  #validUntilMs = Number.POSITIVE_INFINITY;
  /** Those that wait for what the proxy acknowledges. */
  readonly #gated = new Set<ProxySecret>();
  /** Those with refused contents. */
  readonly #troubled = new Set<ProxySecret>();
  /** The one refused content that is tried again now. */
  #trial: { readonly secret: ProxySecret; readonly content: string } | undefined;
  /** A leaf was refused before any bundle was acknowledged (envoy#42438). */
  #isTrustToBeRepeated = false;
  /** Trust to be repeated as soon as it is in order. */
  readonly #toRepeat = new Set<ProxySecret>();
  /** Counts what happens, to tell what came first. */
  #events = 0;

  constructor(deps: ChooserDeps) {
    this.#deps = deps;
  }

  get view(): WorkloadView {
    return this.#view.value;
  }

  /** What the proxy may have; undefined: nothing is kept of it, since it holds private keys. */
  follow(view: { readonly value: WorkloadView } | undefined): void {
    this.#view = view ?? { value: emptyView };
    if (view === undefined) this.#chosenFor = undefined;
  }

  /** Brings all up to date when the view is another one, or its time is over. Cheap when nothing is to do. */
  refresh(): void {
    const isOtherView = this.#view.value !== this.#chosenFor;
    // Streams follow the view themselves.
    if (isOtherView) this.#chooseAll(() => undefined);
    else if (this.#deps.clock.now() >= this.#validUntilMs) this.chooseAll();
  }

  /** Chooses all names anew and tells of changes. */
  chooseAll(): void {
    this.#chooseAll((secret) => this.#deps.changed(secret));
  }

  /** After something that the proxy said or did: others may depend on it. */
  reconsider(): void {
    if (this.#gated.size === 0 && this.#troubled.size === 0) return;
    const affected = [...this.#gated, ...[...this.#troubled].filter((secret) => !this.#gated.has(secret))];
    this.#chooseTogether(affected, (secret) => this.#deps.changed(secret));
  }

  /** Chooses names that only one stream asks for, which knows that it does. */
  chooseAdded(secrets: readonly ProxySecret[]): void {
    this.#chooseThese(secrets, () => undefined);
  }

  /** Chooses these names. */
  choose(secrets: readonly ProxySecret[]): void {
    this.#chooseThese(secrets, (secret) => this.#deps.changed(secret));
  }

  forget(secret: ProxySecret): void {
    this.#gated.delete(secret);
    this.#troubled.delete(secret);
    this.#toRepeat.delete(secret);
  }

  resolve(name: string): Resource {
    return this.#deps.source.resolve(name, this.#view.value, this.flavour);
  }

  /** Does what changes the state of this name; once it is in order again, it may have been to blame for other refusals. */
  watch(secret: ProxySecret, change: () => void): void {
    const wasInOrder = secret.isInOrder;
    const at = this.#nextEvent();
    change();
    if (wasInOrder) {
      if (!secret.isInOrder) secret.outOfOrderSince = at;
      return;
    }
    if (!secret.isInOrder) return;
    if (this.#toRepeat.has(secret)) this.#repeat(secret);
    for (const other of this.#troubled) {
      if (other !== secret) other.quarantine.absolveSince(secret.outOfOrderSince);
    }
  }

  acknowledged(secret: ProxySecret, isNew: boolean): void {
    if (isNew)
      for (const other of this.#troubled) if (other !== secret) other.quarantine.absolveForSomethingNew();
    if (secret.kind === 'certificate' && this.#isTrustToBeRepeated) this.#repeatTrust();
  }

  refused(secret: ProxySecret, offer: Offer, error: string): void {
    const all = [...this.#deps.ledger.all()];
    const isCulprit = all.every((other) => other === secret || other.isInOrder);
    const isTrusted = all.some((other) => other.kind === 'trust' && other.isAcknowledged);
    if (secret.kind === 'certificate' && !isTrusted) this.#isTrustToBeRepeated = true;
    secret.refused(offer, { at: this.#nextEvent(), nowMs: this.#deps.clock.now(), error, isCulprit });
    this.#troubled.add(secret);
  }

  /** Other bytes of the same trust revive the listeners that a refused leaf has left dead. */
  #repeatTrust(): void {
    this.#isTrustToBeRepeated = false;
    for (const secret of this.#deps.ledger.all()) {
      if (secret.kind === 'trust' && secret.lastSent !== undefined) this.#toRepeat.add(secret);
    }
    for (const secret of this.#toRepeat) if (secret.isInOrder) this.#repeat(secret);
  }

  #repeat(secret: ProxySecret): void {
    this.#toRepeat.delete(secret);
    if (secret.lastSent !== undefined) secret.quarantine.useOtherBytes(secret.lastSent.content);
    this.choose([secret]);
  }

  #nextEvent(): number {
    this.#events += 1;
    return this.#events;
  }

  #chooseAll(tell: (secret: ProxySecret) => void): void {
    this.#chosenFor = this.#view.value;
    this.#validUntilMs = Number.POSITIVE_INFINITY;
    this.#chooseTogether([...this.#deps.ledger.all()], tell);
  }

  /** All that depend on each other. */
  #chooseTogether(secrets: readonly ProxySecret[], tell: (secret: ProxySecret) => void): void {
    const wanted = secrets.filter(({ isAskedFor }) => isAskedFor);
    this.#chooseThese(wanted, tell);
    // Whether it is their turn shows only when all others are chosen.
    const waiting = wanted.filter(({ choice }) => choice.waitsFor === 'turn');
    for (const secret of waiting) this.#chooseOne(secret, this.resolve(secret.name), tell);
    for (const secret of this.#troubled) if (!secret.quarantine.hasRefusals) this.#troubled.delete(secret);
    this.#startTrial(tell);
  }

  /** Trust first: certificates wait for what is chosen there. */
  #chooseThese(secrets: readonly ProxySecret[], tell: (secret: ProxySecret) => void): void {
    const resolved = secrets.map((secret) => ({ secret, resource: this.resolve(secret.name) }));
    const isLeaf = ({ resource }: { readonly resource: Resource }) => resource.kind === 'certificate';
    const ordered = [...resolved.filter((one) => !isLeaf(one)), ...resolved.filter(isLeaf)];
    for (const { secret, resource } of ordered) this.#chooseOne(secret, resource, tell);
  }

  #chooseOne(secret: ProxySecret, resource: Resource, tell: (secret: ProxySecret) => void): void {
    if (resource.kind === 'held' && resource.isAbsent) secret.forgetGood();
    const choice = chooseFor(secret, resource, this.#context());
    const { waitsFor, validMs } = choice;
    if (waitsFor !== undefined) this.#gated.add(secret);
    else this.#gated.delete(secret);
    if (validMs !== undefined) {
      this.#validUntilMs = Math.min(this.#validUntilMs, this.#deps.clock.now() + validMs);
      this.#deps.wakeWithin(validMs);
    }
    if (secret.choose(choice)) tell(secret);
  }

  #context(): ChoiceContext {
    return {
      source: this.#deps.source,
      view: this.#view.value,
      flavour: this.flavour,
      onWithdraw: this.#deps.onWithdraw,
      nowMs: this.#deps.clock.now(),
      isOnTrial: (secret, content) => this.#isOnTrial(secret) && this.#trial?.content === content,
      isBusyElsewhere: (secret) => this.#isBusyBut(secret) || this.#isLastInTheWay(secret),
      leafWaitMs: (secret, has) => this.#leafWaitMs(secret, has),
    };
  }

  #leafWaitMs(secret: ProxySecret, has: ServedResource | undefined): number {
    const monotonicMs = this.#deps.clock.monotonic();
    secret.waitingSinceMs ??= monotonicMs;
    return leafWaitMs({
      has: has?.kind === 'certificate' ? has.held.svid : undefined,
      isTrustOpen: this.#isTrustOpenBut(undefined),
      isConnectionOpen: has === undefined && this.#deps.isConnectionOpen(secret),
      waitedMs: monotonicMs - secret.waitingSinceMs,
      nowMs: this.#deps.clock.now(),
    });
  }

  #isTrustOpenBut(secret: ProxySecret | undefined): boolean {
    for (const other of this.#deps.ledger.all()) {
      if (other !== secret && other.kind === 'trust' && other.askers.open > 0) return true;
    }
    return false;
  }

  /** Certificates wait for trust, and this is all the trust they would have to wait for. */
  #isLastInTheWay(secret: ProxySecret): boolean {
    const isWaiting = [...this.#gated].some((other) => other !== secret && other.choice.waitsFor === 'trust');
    return isWaiting && !this.#isTrustOpenBut(secret);
  }

  /** Something is due to the proxy or not answered, on streams that answer at all. */
  #isBusyBut(secret: ProxySecret | undefined): boolean {
    for (const other of this.#deps.ledger.all())
      if (other !== secret && other.askers.awaited > 0) return true;
    return false;
  }

  /** One at a time, and only while nothing else is under way: else it would not be known what the answer is about. */
  #startTrial(tell: (secret: ProxySecret) => void): void {
    const troubled = [...this.#troubled].filter(({ isAskedFor }) => isAskedFor);
    if (troubled.some((secret) => this.#isOnTrial(secret) && secret.choice.retry === this.#trial?.content))
      return;
    this.#trial = undefined;
    if (troubled.length === 0) return;
    if (this.#isBusyBut(undefined)) return;
    const next = firstTrustOf(troubled.filter(({ choice }) => choice.retry)) ?? this.#doubtful(troubled);
    const content = next?.choice.retry;
    if (next === undefined || content === undefined) return;
    this.#trial = { secret: next, content };
    this.#chooseOne(next, this.resolve(next.name), tell);
  }

  /**
   * When all that are out of order wait for each other to come into order, the newest version of the one that was tried
   * least is tried again: it may be good, and only what Envoy had stored with it was not.
   */
  #doubtful(troubled: readonly ProxySecret[]): ProxySecret | undefined {
    const triesOf = ({ isDirty, choice, quarantine }: ProxySecret) =>
      isDirty && choice.newest !== undefined ? quarantine.doubtfulTries(choice.newest) : undefined;
    const tries = troubled.map(triesOf).filter((count) => count !== undefined);
    const least = Math.min(...tries);
    const next = firstTrustOf(troubled.filter((secret) => triesOf(secret) === least));
    if (next?.choice.newest === undefined) return undefined;
    next.quarantine.absolveDoubtful(next.choice.newest);
    this.#chooseOne(next, this.resolve(next.name), () => undefined);
    return next;
  }

  #isOnTrial(secret: ProxySecret): boolean {
    if (this.#trial?.secret !== secret) return false;
    return secret.quarantine.verdictOn(this.#trial.content) === 'retry';
  }
}

function firstTrustOf(secrets: readonly ProxySecret[]): ProxySecret | undefined {
  return secrets.find(({ kind }) => kind === 'trust') ?? secrets[0];
}
