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
  /** Those to which something has happened since they were chosen. */
  readonly #touched = new Set<ProxySecret>();
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

  /**
   * After something that the proxy said or did: others may depend on it. Only those are chosen anew for which it can
   * make a difference, since there may be thousands, and as many answers.
   */
  reconsider(): void {
    const touched = [...this.#touched].filter((one) => this.#gated.has(one) || this.#troubled.has(one));
    this.#touched.clear();
    if (this.#gated.size === 0 && this.#troubled.size === 0) return;
    this.#chooseTogether(touched, (secret) => this.#deps.changed(secret));
  }

  /** After some time: `wakeWithin` is forgotten once it was kept. */
  woken(): void {
    this.refresh();
    this.reconsider();
    const leftMs = this.#validUntilMs - this.#deps.clock.now();
    if (Number.isFinite(leftMs)) this.#deps.wakeWithin(leftMs);
  }

  /** Chooses names that a stream asks for now, which knows that it does. Others that ask for them may not. */
  chooseAdded(secrets: readonly ProxySecret[]): void {
    this.#chooseThese(secrets, (secret) => {
      if (secret.askers.subscribed > 1) this.#deps.changed(secret);
    });
  }

  /** Chooses these names. */
  choose(secrets: readonly ProxySecret[]): void {
    this.#chooseThese(secrets, (secret) => this.#deps.changed(secret));
  }

  forget(secret: ProxySecret): void {
    this.#gated.delete(secret);
    this.#troubled.delete(secret);
    this.#touched.delete(secret);
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
    this.#touched.add(secret);
    if (wasInOrder) {
      if (!secret.isInOrder) secret.outOfOrderSince = at;
      return;
    }
    if (!secret.isInOrder) return;
    if (this.#toRepeat.has(secret)) this.#repeat(secret);
    for (const other of this.#troubled) {
      if (other !== secret && other.quarantine.absolveSince(secret.outOfOrderSince)) this.#touched.add(other);
    }
  }

  acknowledged(secret: ProxySecret, isNew: boolean): void {
    for (const other of isNew ? this.#troubled : []) {
      if (other !== secret && other.quarantine.absolveForSomethingNew()) this.#touched.add(other);
    }
    if (secret.kind === 'certificate' && this.#isTrustToBeRepeated) this.#repeatTrust();
  }

  refused(secret: ProxySecret, offer: Offer, error: string): void {
    const isCulprit = !this.#deps.ledger.isOutOfOrderBut(secret);
    if (secret.kind === 'certificate' && !this.#isTrusted()) this.#isTrustToBeRepeated = true;
    secret.refused(offer, { at: this.#nextEvent(), nowMs: this.#deps.clock.now(), error, isCulprit });
    this.#troubled.add(secret);
  }

  /** The proxy has acknowledged some trust. */
  #isTrusted(): boolean {
    for (const { kind, isAcknowledged } of this.#deps.ledger.all()) {
      if (kind === 'trust' && isAcknowledged) return true;
    }
    return false;
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
    this.#touched.clear();
    this.#chooseTogether([...this.#deps.ledger.all()], tell);
  }

  /** These, and those that may have waited for them. */
  #chooseTogether(secrets: readonly ProxySecret[], tell: (secret: ProxySecret) => void): void {
    const wanted = secrets.filter(({ isAskedFor }) => isAskedFor);
    this.#chooseThese(wanted, tell);
    // Whether their time has come shows only when the others are chosen.
    const waiting = [...this.#gated].filter((secret) => secret.isAskedFor && this.#mayGo(secret));
    this.#chooseThese(waiting, tell);
    for (const secret of secrets) if (!secret.quarantine.hasRefusals) this.#troubled.delete(secret);
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
      isBusyElsewhere: (secret) => this.#deps.ledger.isBusyBut(secret) || this.#isLastInTheWay(secret),
      leafWaitMs: (secret, has) => this.#leafWaitMs(secret, has),
    };
  }

  /** False when what it waits for has certainly not come. Times that are over are no matter of answers. */
  #mayGo(secret: ProxySecret): boolean {
    const { ledger } = this.#deps;
    if (secret.choice.waitsFor === 'turn') return !ledger.isBusyBut(secret);
    return secret.known === undefined || !ledger.isTrustOpenBut();
  }

  #leafWaitMs(secret: ProxySecret, has: ServedResource | undefined): number {
    const monotonicMs = this.#deps.clock.monotonic();
    secret.waitingSinceMs ??= monotonicMs;
    return leafWaitMs({
      has: has?.kind === 'certificate' ? has.held.svid : undefined,
      isTrustOpen: this.#deps.ledger.isTrustOpenBut(),
      isConnectionOpen: has === undefined && this.#deps.isConnectionOpen(secret),
      waitedMs: monotonicMs - secret.waitingSinceMs,
      nowMs: this.#deps.clock.now(),
    });
  }

  /** Certificates wait for trust, and this is all the trust they would have to wait for. */
  #isLastInTheWay(secret: ProxySecret): boolean {
    const isWaiting = [...this.#gated].some((other) => other !== secret && other.choice.waitsFor === 'trust');
    return isWaiting && !this.#deps.ledger.isTrustOpenBut(secret);
  }

  /** One at a time, and only while nothing else is under way: else it would not be known what the answer is about. */
  #startTrial(tell: (secret: ProxySecret) => void): void {
    const troubled = [...this.#troubled].filter(({ isAskedFor }) => isAskedFor);
    if (troubled.some((secret) => this.#isOnTrial(secret) && secret.choice.retry === this.#trial?.content))
      return;
    this.#trial = undefined;
    if (troubled.length === 0) return;
    if (this.#deps.ledger.isBusyBut()) return;
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
