import { AppError } from '../../runtime/error.ts';
import type { SecretStatus } from '../proxy-book.ts';
import type { DeliveryStream } from './delivery-stream.ts';
import { foreignText } from './foreign-text.ts';
import type { Offer } from './offer.ts';
import { Quarantine } from './quarantine.ts';
import { SecretAskers } from './secret-askers.ts';
import type { EncodedSecret } from './secrets.ts';

/** What a proxy is to have under a name. */
export interface Choice {
  /** Undefined: nothing is sent. */
  readonly offer?: Offer | undefined;
  /** Why nothing, or nothing newer, is sent. */
  readonly held?: string;
  readonly isAbsent?: boolean;
  /** The content that the name stands for now, sent or not. */
  readonly newest?: string;
  /** A refused content that may be tried again when nothing else is under way. */
  readonly retry?: string | undefined;
  /** It holds at most for so long, in ms. */
  readonly validMs?: number | undefined;
  /** It waits for the proxy's answers: for trust to be acknowledged, or for its turn. */
  readonly waitsFor?: 'trust' | 'turn';
}

/** When something happens, by the wall clock and by the monotonic one. */
export interface Moment {
  readonly nowMs: number;
  readonly monotonicMs: number;
}

/** One name of one proxy: what it is to have, what it was sent, and what it said to that. */
export class ProxySecret {
  readonly name: string;
  readonly quarantine = new Quarantine();
  readonly askers: SecretAskers;
  /** When a first certificate began to wait for trust; monotonic. */
  waitingSinceMs: number | undefined;
  /** Since when it was out of order last, as counted by the proxy's events. */
  outOfOrderSince = 0;
  #choice: Choice = {};
  #kind: SecretStatus['kind'];
  #lastSent: Offer | undefined;
  #lastGood: Offer | undefined;
  /** The one before, until all streams have acknowledged the last one. */
  #earlierGood: Offer | undefined;
  #isDirty = false;
  readonly #changed: () => void;
  #refusedContent: string | undefined;
  #sent: SecretStatus['sent'];
  #acknowledged: SecretStatus['acknowledged'];
  #refused: SecretStatus['refused'];

  /** `changed` is called when it may have come into order or out of it, be open or not any more. */
  constructor(name: string, changed: () => void) {
    this.name = name;
    this.#changed = changed;
    this.askers = new SecretAskers(changed);
  }

  get choice(): Choice {
    return this.#choice;
  }

  get kind(): SecretStatus['kind'] {
    return this.#choice.offer?.secret.kind ?? this.#kind;
  }

  get isAskedFor(): boolean {
    return this.askers.subscribed > 0;
  }

  get wasSent(): boolean {
    return this.#sent !== undefined;
  }

  get isAcknowledged(): boolean {
    return this.#acknowledged !== undefined;
  }

  /** What Envoy has stored may be bad: the bytes sent last were refused, or lost with their stream. */
  get isDirty(): boolean {
    return this.#isDirty;
  }

  /** False while Envoy may have something bad stored under this name. */
  get isInOrder(): boolean {
    return !this.#isDirty && this.askers.unanswered === 0;
  }

  /** As long as nothing has made up for it. */
  get refusedContent(): string | undefined {
    return this.#refusedContent;
  }

  /** What it was sent last, or what it acknowledged before it refused that. */
  get known(): Offer | undefined {
    const isRefused = this.quarantine.verdictOn(this.#lastSent?.content ?? '') !== 'sendable';
    return isRefused ? (this.#lastGood ?? this.#lastSent) : this.#lastSent;
  }

  get lastSent(): Offer | undefined {
    return this.#lastSent;
  }

  /** Returns whether its streams are to be told: they look up another answer now. */
  choose(choice: Choice): boolean {
    const before = this.#choice;
    this.#choice = choice;
    if (choice.waitsFor !== 'trust') this.waitingSinceMs = undefined;
    this.askers.setDue(choice.offer?.secret.version);
    this.#changed();
    const isSame = before.offer?.secret === choice.offer?.secret;
    return !isSame || (before.isAbsent ?? false) !== (choice.isAbsent ?? false);
  }

  /** It is withdrawn: what it had is not to come back. */
  forgetGood(): void {
    this.#lastGood = undefined;
    this.#earlierGood = undefined;
    if (this.#lastSent?.resource.kind === 'certificate') this.#lastSent = undefined;
  }

  /** The stream asks for it no more. When none does, Envoy has dropped what it had stored. */
  unsubscribe(stream: DeliveryStream): void {
    this.askers.unsubscribe(stream);
    if (!this.isAskedFor) this.#setDirty(false);
  }

  /** `secret` is what was chosen; throws `internal` for another one. */
  sent(stream: DeliveryStream, secret: EncodedSecret, { nowMs, monotonicMs }: Moment): void {
    const { offer } = this.#choice;
    if (offer?.secret !== secret) {
      throw new AppError('internal', `secret "${foreignText(this.name)}" was sent without being due`);
    }
    const forgotten = this.askers.sent(stream, offer, monotonicMs);
    // Its answer will not be understood any more, so it must not matter.
    if (forgotten !== undefined) this.quarantine.useOtherBytes(forgotten.content);
    this.#lastSent = offer;
    const { version, bytes, kind } = secret;
    this.#kind = kind;
    if (this.#sent?.version !== version) this.#sent = { version, atMs: nowMs, bytes };
  }

  /** Returns whether the proxy has something now that it did not have before. */
  acknowledged(offer: Offer, nowMs: number): boolean {
    const { content, salt } = offer;
    const { version } = offer.secret;
    // What was refused on another stream is no success here.
    if (!this.quarantine.accept(content, salt)) return false;
    if (version === this.#sent?.version) this.#setDirty(false);
    const isNew = this.#lastGood?.content !== content;
    // One stream may acknowledge an older version after another one has the newest.
    if (
      this.#lastGood?.secret.version !== version &&
      this.#lastGood?.secret.version !== this.#sent?.version
    ) {
      this.#earlierGood = this.#lastGood;
      this.#lastGood = offer;
    }
    if (this.#acknowledged?.version !== version) this.#acknowledged = { version, atMs: nowMs };
    if (this.askers.open === 0) this.#earlierGood = undefined;
    return isNew;
  }

  /** Takes back what it said of an earlier refusal, if this makes up for it; returns the content that was refused. */
  reconciled({ content }: Offer): string | undefined {
    const refused = this.#refusedContent;
    if (refused === undefined || (content !== refused && content !== this.#choice.newest)) return undefined;
    this.#refusedContent = undefined;
    this.#refused = undefined;
    return refused;
  }

  /** `at` counts events; `error` must be fit to print; `isCulprit`: nothing else of this proxy can be to blame. */
  refused(
    offer: Offer,
    why: { readonly at: number; readonly nowMs: number; readonly error: string; readonly isCulprit: boolean },
  ): void {
    const { version } = offer.secret;
    const { at, nowMs, error, isCulprit } = why;
    this.quarantine.refuse(offer.content, offer.salt, { at, isCulprit });
    this.#refused = { version, atMs: nowMs, error };
    this.#refusedContent = offer.content;
    if (version === this.#sent?.version) this.#setDirty(true);
    if (isCulprit && version === this.#lastGood?.secret.version) {
      this.#lastGood = this.#earlierGood;
      this.#earlierGood = undefined;
    }
  }

  /** The stream has gone, and with it what it would have answered. */
  closed(stream: DeliveryStream): void {
    const { unanswered, isSubscribed } = this.askers.close(stream);
    for (const offer of unanswered) if (this.#doubt(offer) && isSubscribed) this.#setDirty(true);
  }

  status(): SecretStatus {
    return {
      name: this.name,
      kind: this.kind,
      streams: this.askers.subscribed,
      sent: this.#sent,
      acknowledged: this.#acknowledged,
      refused: this.#refused,
      held: this.#choice.held,
      isStalled: this.askers.stalled > 0,
    };
  }

  #setDirty(isDirty: boolean): void {
    this.#isDirty = isDirty;
    this.#changed();
  }

  /**
   * There will be no answer. It may have been refused, and Envoy would acknowledge the same bytes then without a look at
   * them: the next time they are others. Returns false when they are known to be good, or another stream will answer.
   */
  #doubt({ content, secret: { version } }: Offer): boolean {
    const isGood = [this.#lastGood, this.#earlierGood].some((good) => good?.secret.version === version);
    if (isGood || this.askers.isUnanswered(version)) return false;
    this.quarantine.useOtherBytes(content);
    return true;
  }
}
