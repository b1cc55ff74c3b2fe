import { AppError } from '../../runtime/error.ts';
import type { LogLimiter } from '../../runtime/log-limiter.ts';
import type { Observable } from '../../runtime/observable.ts';
import type { Clock } from '../../runtime/time.ts';
import type { ProxyPresence, ProxyRecord } from '../proxy-book.ts';
import type { WorkloadView } from '../workload-view.ts';
import type { SecretSource } from './delivery-choice.ts';
import type { DeliveryConnection, DeliveryStream, StreamBooks, StreamListener } from './delivery-stream.ts';
import { foreignText } from './foreign-text.ts';
import type { Offer } from './offer.ts';
import type { ProxyNode } from './proxy-node.ts';
import type { ProxySecret } from './proxy-secret.ts';
import { SecretChooser } from './secret-chooser.ts';
import { SecretLedger } from './secret-ledger.ts';
import type { EncodedSecret } from './secrets.ts';
import { WakeTimer } from './wake-timer.ts';

/** What the agent's settings say about delivery. */
export interface DeliverySettings {
  /** What a proxy gets that loses its entitlement to a trust secret: nothing new, or one that trusts nobody. */
  readonly onWithdraw: 'keep' | 'block';
  /** How long a proxy may take to answer, in ms. */
  readonly ackTimeoutMs: number;
  /** Whether a stream that takes longer is ended. */
  readonly closeStalled: boolean;
}

/** What deliveries to all proxies share. */
export interface DeliveryDeps {
  readonly source: SecretSource;
  readonly settings: DeliverySettings;
  readonly clock: Clock;
  readonly log: LogLimiter;
}

interface Answer {
  readonly name: string;
  readonly version: string;
  readonly error: string | undefined;
}

/** A stream with the names that it asks for. */
interface OpenStream {
  readonly stream: DeliveryStream;
  secrets: readonly ProxySecret[];
  /** Asked for no more, but maybe not answered yet. */
  dropped: readonly ProxySecret[];
}

/**
 * What one proxy is to have, over all its connections and streams. Envoy checks a secret together with all others that it
 * has stored, so that what it says of one may be about another; hence one place that knows what all its streams were
 * sent and answered. Each name has one answer for the whole proxy, found by `SecretChooser`; `lookup` only reads it.
 */
export class ProxyDelivery {
  readonly #record: ProxyRecord;
  readonly #deps: DeliveryDeps;
  readonly #timer: WakeTimer;
  readonly #ledger: SecretLedger;
  readonly #chooser: SecretChooser;
  #node: ProxyNode | undefined;
  #isNodeNoted = false;
  /** As text, while it is gone. */
  #lastIdentities: readonly string[] = [];
  readonly #streams = new Set<DeliveryStream>();
  readonly #connections = new Map<object, DeliveryConnection>();
  readonly #toTell = new Set<DeliveryStream>();
  #unfollow: () => void = () => undefined;

  constructor(record: ProxyRecord, deps: DeliveryDeps) {
    this.#record = record;
    this.#deps = deps;
    this.#timer = new WakeTimer(deps.clock, () => this.#wake());
    this.#ledger = new SecretLedger((secret) => this.#forgotten(secret));
    this.#chooser = new SecretChooser({
      source: deps.source,
      onWithdraw: deps.settings.onWithdraw,
      clock: deps.clock,
      ledger: this.#ledger,
      isConnectionOpen: (secret) => this.#isConnectionOpen(secret),
      changed: (secret) => this.#tell(secret.askers.streams()),
      wakeWithin: (ms) => this.#timer.within(ms),
    });
  }

  /** The view of the proxy's selectors; to be called before `open`, in the same turn. */
  follow(view: Observable<WorkloadView>): void {
    this.#chooser.follow(view);
  }

  /**
   * What it says of itself. An Envoy says the same on each of its connections, so that the first word counts until all
   * are gone: everything is chosen anew for another one.
   */
  noteNode(node: ProxyNode): void {
    if (this.#isNodeNoted) return;
    this.#isNodeNoted = true;
    this.#node = node;
    if (this.#chooser.flavour === node.validator) return;
    this.#chooser.flavour = node.validator;
    this.#chooser.chooseAll();
  }

  /** What the proxy is to have now under a name that was `requested`; undefined while that is held. Cheap. */
  lookup(name: string): EncodedSecret | undefined {
    this.#chooser.refresh();
    return this.#ledger.find(name)?.choice.offer?.secret;
  }

  /** True when it is certain that the proxy may not have it, and nothing is sent in its place. */
  isAbsent(name: string): boolean {
    this.#chooser.refresh();
    const secret = this.#ledger.find(name);
    if (secret !== undefined) return secret.choice.isAbsent ?? false;
    const resource = this.#chooser.resolve(name);
    return resource.kind === 'held' && resource.isAbsent;
  }

  /** Why it gets nothing, or nothing newer; undefined when it is to have what the name stands for now. */
  whyHeld(name: string): string | undefined {
    this.#chooser.refresh();
    const secret = this.#ledger.find(name);
    if (secret !== undefined) return secret.choice.held;
    const resource = this.#chooser.resolve(name);
    if (resource.kind === 'held') return resource.reason;
    return resource.kind === 'unfit' ? resource.problem : 'the proxy asks for too many names';
  }

  /** Every secret of its view once, under one name, in the order to send them. */
  allNames(): readonly string[] {
    return this.#deps.source.allNames(this.#chooser.view);
  }

  /** A stream of this proxy; `key` is the same object for all streams of one connection. */
  open(key: object, listener: StreamListener): StreamBooks {
    if (this.#streams.size === 0) this.#came();
    const connection = this.#connections.get(key) ?? { streams: 0, silent: 0 };
    this.#connections.set(key, connection);
    connection.streams += 1;
    connection.silent += 1;
    const state = { isSilent: true, isClosed: false, isStalled: false };
    const stream: DeliveryStream = { listener, connection, ...state };
    const open: OpenStream = { stream, secrets: [], dropped: [] };
    this.#streams.add(stream);
    const unlessClosed = (act: () => void) => {
      if (!stream.isClosed) act();
    };
    return {
      requested: (names) => unlessClosed(() => this.#requested(open, names)),
      sent: (name, secret) => unlessClosed(() => this.#sent(stream, name, secret)),
      answered: (name, version, error) =>
        unlessClosed(() => this.#answered(stream, { name, version, error })),
      close: () => unlessClosed(() => this.#close(open, key)),
    };
  }

  /** For the book. */
  status(): ProxyPresence {
    const { id = '', cluster = '', version = '' } = this.#node ?? {};
    return {
      identities: this.#streams.size === 0 ? this.#lastIdentities : this.#identities(),
      node: this.#node === undefined ? undefined : { id, cluster, version },
      connections: this.#connections.size,
      streams: this.#streams.size,
      protocols: [...new Set([...this.#streams].map(({ listener }) => listener.protocol))],
      secrets: [...this.#ledger.all()].map((secret) => secret.status()),
    };
  }

  #came(): void {
    this.#record.came();
    this.#isNodeNoted = false;
    this.#unfollow = this.#deps.source.changes.subscribe(() => this.#chooser.chooseAll());
  }

  /** The view is let go of: it holds private keys. */
  #left(): void {
    this.#timer.stop();
    this.#unfollow();
    this.#lastIdentities = this.#identities();
    this.#chooser.follow(undefined);
    this.#record.left();
  }

  #requested(open: OpenStream, names: readonly string[]): void {
    const { stream, secrets } = open;
    const { connection, isSilent } = stream;
    if (isSilent) connection.silent -= 1;
    stream.isSilent = false;
    this.#chooser.refresh();
    const wanted = new Set(names);
    const dropped = secrets.filter(({ name }) => !wanted.has(name));
    const kept = secrets.filter(({ name }) => wanted.delete(name));
    const added = [...wanted].flatMap((name) => this.#ledger.take(name) ?? []);
    open.secrets = [...kept, ...added];
    for (const secret of dropped) this.#chooser.watch(secret, () => secret.unsubscribe(stream));
    for (const secret of dropped) this.#ledger.release(secret);
    open.dropped = [...open.dropped, ...dropped].filter(({ askers }) => askers.unanswered > 0);
    for (const secret of added) secret.askers.subscribe(stream);
    this.#chooser.chooseAdded(added);
    // More to ask for opens no gate; less, or the last stream that was waited for, may.
    if (dropped.length > 0 || (isSilent && connection.silent === 0)) this.#chooser.reconsider();
  }

  #sent(stream: DeliveryStream, name: string, secret: EncodedSecret): void {
    const { clock, settings } = this.#deps;
    const known = this.#ledger.find(name);
    if (known === undefined) return;
    const moment = { nowMs: clock.now(), monotonicMs: clock.monotonic() };
    this.#chooser.watch(known, () => known.sent(stream, secret, moment));
    this.#timer.within(settings.ackTimeoutMs);
  }

  #answered(stream: DeliveryStream, { name, version, error }: Answer): void {
    const secret = this.#ledger.find(name);
    if (secret === undefined) return;
    this.#chooser.watch(secret, () => {
      const offer = secret.askers.answered(stream, { version, isAcknowledged: error === undefined });
      if (offer === undefined) return;
      stream.isStalled = false;
      if (error === undefined) this.#acknowledged(secret, offer);
      else this.#refused(secret, offer, foreignText(error));
    });
    this.#ledger.release(secret);
    this.#chooser.reconsider();
  }

  #acknowledged(secret: ProxySecret, offer: Offer): void {
    const isNew = secret.acknowledged(offer, this.#deps.clock.now());
    this.#chooser.acknowledged(secret, isNew);
    const refused = secret.reconciled(offer);
    if (refused !== undefined) this.#record.noLongerRefused(refused);
  }

  #refused(secret: ProxySecret, offer: Offer, error: string): void {
    const earlier = secret.refusedContent;
    this.#chooser.refused(secret, offer, error);
    if (earlier !== undefined && earlier !== offer.content) this.#record.noLongerRefused(earlier);
    this.#record.refused({ name: foreignText(secret.name), version: offer.content, error });
  }

  #close({ stream, secrets, dropped }: OpenStream, key: object): void {
    const { connection } = stream;
    stream.isClosed = true;
    this.#streams.delete(stream);
    this.#toTell.delete(stream);
    connection.streams -= 1;
    if (stream.isSilent) connection.silent -= 1;
    if (connection.streams === 0) this.#connections.delete(key);
    for (const secret of [...secrets, ...dropped]) {
      this.#chooser.watch(secret, () => secret.closed(stream));
      if (secret.isAskedFor) this.#chooser.choose([secret]);
      this.#ledger.release(secret);
    }
    if (this.#streams.size === 0) this.#left();
    else this.#chooser.reconsider();
  }

  #forgotten(secret: ProxySecret): void {
    this.#chooser.forget(secret);
    if (secret.refusedContent !== undefined) this.#record.noLongerRefused(secret.refusedContent);
  }

  #isConnectionOpen({ askers }: ProxySecret): boolean {
    const connections = new Set<DeliveryConnection>();
    for (const { connection } of askers.streams()) connections.add(connection);
    for (const { silent } of connections) if (silent > 0) return true;
    for (const other of this.#ledger.openTrust()) if (other.askers.isOpenOn(connections)) return true;
    return false;
  }

  #wake(): void {
    const { clock, settings } = this.#deps;
    const sinceMs = clock.monotonic() - settings.ackTimeoutMs;
    let oldestMs: number | undefined;
    for (const secret of this.#ledger.all()) {
      for (const stream of secret.askers.stalledSince(sinceMs)) this.#stalled(stream, secret);
      const unansweredMs = secret.askers.oldestUnansweredMs();
      if (unansweredMs !== undefined) oldestMs = Math.min(oldestMs ?? unansweredMs, unansweredMs);
    }
    // Stalled streams may have been the last ones.
    if (this.#streams.size === 0) return;
    if (oldestMs !== undefined) this.#timer.within(oldestMs - sinceMs);
    this.#chooser.woken();
  }

  #stalled(stream: DeliveryStream, secret: ProxySecret): void {
    if (stream.isStalled || stream.isClosed) return;
    stream.isStalled = true;
    const { settings, log } = this.#deps;
    const { pid, uid } = this.#record.peer;
    const name = foreignText(secret.name);
    const seconds = settings.ackTimeoutMs / 1000;
    const fields = { pid, uid, node: this.#node?.id ?? '', resource: name, seconds };
    log.write('warn', fields, 'the proxy has not answered a secret in time');
    if (!settings.closeStalled) return;
    const message = `secret "${name}" was not acknowledged within ${seconds} s (sds.ackTimeout); connect again`;
    stream.listener.stalled(new AppError('unavailable', message));
  }

  /** Later in this turn, once for all changes of it. */
  #tell(streams: Iterable<DeliveryStream>): void {
    const isIdle = this.#toTell.size === 0;
    for (const stream of streams) this.#toTell.add(stream);
    if (!isIdle || this.#toTell.size === 0) return;
    queueMicrotask(() => {
      const streamsToTell = [...this.#toTell];
      this.#toTell.clear();
      for (const stream of streamsToTell) if (!stream.isClosed) stream.listener.changed();
    });
  }

  #identities(): readonly string[] {
    const { identities } = this.#chooser.view;
    return [...new Set(identities.map(({ entry }) => entry.spiffeId.toString()))];
  }
}
