import type { RawBidiHandler, RawCallContext } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import type { Clock } from '../../runtime/time.ts';
import type { ProxyProtocol } from '../proxy-book.ts';
import type { AttestedCaller } from './attested-caller.ts';
import { ownReasons } from './delivery-choice.ts';
import type { StreamBooks } from './delivery-stream.ts';
import { foreignText } from './foreign-text.ts';
import type { ProxyDelivery } from './proxy-delivery.ts';
import type { ProxyNode } from './proxy-node.ts';
import { type ReadRequest, sdsDialects } from './sds-dialects.ts';
import { parseSecretName, type SdsNames, wantedKeyTypes } from './sds-names.ts';
import { bytesPerName, type SdsAnswer, type SdsLimits, type SdsSend, SdsSession } from './sds-session.ts';
import { type Dialect, removalResponse, secretTypeUrl, withNonce } from './secrets.ts';

/** What all streams of one connection share. */
export interface ProxyConnection {
  /** As the first request told it; later ones are not read. */
  node: ProxyNode | undefined;
  /** Names whose absence has been logged. */
  readonly heldNames: Set<string>;
}

/** How a stream is spoken: over SDS or ADS, in which dialect. */
export interface SdsVariant {
  readonly protocol: ProxyProtocol;
  readonly dialect: Dialect;
  /** An aggregated stream may ask for other types too, which are not served here. */
  readonly isAggregated: boolean;
}

/** A gRPC stream of bytes. */
export type ByteStream = Parameters<RawBidiHandler<Buffer, Buffer>['handle']>[0];

/** What all streams share. */
export interface SdsStreamSettings {
  readonly names: SdsNames;
  readonly unknownNames: 'hold' | 'fail';
  readonly limits: SdsLimits;
  /** What Envoy shows as its control plane. */
  readonly identifier: string;
  readonly clock: Clock;
}

/** What a stream is made of. */
export interface SdsStreamParts {
  readonly settings: SdsStreamSettings;
  readonly variant: SdsVariant;
  readonly caller: AttestedCaller;
  readonly connection: ProxyConnection;
  readonly delivery: ProxyDelivery;
}

/** Envoy opens a stream per name: this many are named in the log, for each connection. */
const maxHeldNamesLogged = 20;
/** Names that nobody is ever served: so many of a stream are in the book, for whoever looks for the mistake. */
const maxUnknownNoted = 8;
/** How often secrets are sent again, unchanged, over ADS Delta. */
const repetitionMs = { least: 60_000, spread: 60_000 };

/**
 * One stream of secrets. A loop over two sources, requests and changes (of the view, or of what the books say the
 * proxy may have), that never waits for either: both feed the session, then `#pump` writes what the session has due,
 * as long as the transport takes it. A private key is written only in the very turn in which the caller was found to
 * be the program it was.
 */
export class SdsStream {
  readonly #call: ByteStream;
  readonly #context: RawCallContext;
  readonly #parts: SdsStreamParts;
  readonly #session: SdsSession;
  readonly #read: ReadRequest;
  readonly #unknown = new Set<string>();
  #books: StreamBooks | undefined;
  /** Until its first request for secrets. */
  #isSilent = true;
  #isVerified = false;
  #isVerifying = false;

  constructor(
    transport: { readonly call: ByteStream; readonly context: RawCallContext },
    parts: SdsStreamParts,
  ) {
    this.#call = transport.call;
    this.#context = transport.context;
    this.#parts = parts;
    const { limits, names } = parts.settings;
    const { tellsAbsence, reader } = sdsDialects[parts.variant.dialect];
    this.#session = new SdsSession(worldOf(parts.delivery, names), { limits, tellsAbsence });
    this.#read = reader(this.#session);
  }

  /** Serves until the call is over, which it must not be yet, then releases the caller's view. */
  start(): void {
    const { signal } = this.#context;
    const { caller, delivery, connection, variant } = this.#parts;
    const changed = () => this.#step(() => this.#worldChanged());
    const books = delivery.open(connection, {
      protocol: variant.protocol,
      changed,
      stalled: (error) => this.#context.end(error),
    });
    this.#books = books;
    const unsubscribe = caller.view.subscribe(changed);
    const onAbort = () => {
      unsubscribe();
      books.close();
      caller.release();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.#call.on('drain', () => this.#step(() => undefined));
    this.#call.on('end', () => this.#context.end());
    // Last: from here on requests flow.
    this.#call.on('data', (bytes: Buffer) => this.#step(() => this.#receive(bytes)));
    if (variant.protocol === 'ads-delta') void this.#repeat();
  }

  /** Does something that may make a response due, then writes; whatever is thrown ends this stream only. */
  #step(change: () => void): void {
    if (this.#context.signal.aborted) return;
    try {
      change();
      this.#pump();
    } catch (error) {
      this.#context.end(error);
    }
  }

  #receive(bytes: Buffer): void {
    const { connection, delivery, variant } = this.#parts;
    const { limits } = this.#parts.settings;
    const request = this.#read(bytes, { readNode: connection.node === undefined, limits });
    if (request.node !== undefined) {
      connection.node ??= request.node;
      delivery.noteNode(connection.node);
    }
    if (!isForSecrets(request.typeUrl, variant)) {
      this.#logOtherType(request.typeUrl);
      return;
    }
    const { answer, isSubscriptionChanged } = request.apply();
    if (isSubscriptionChanged || this.#isSilent) this.#noteSubscription(request.asked);
    this.#isSilent = false;
    if (answer !== undefined) this.#note(answer);
    if (answer !== undefined && !isSubscriptionChanged) return;
    this.#refuseUnknown(request.asked);
    this.#logHeld(request.asked);
  }

  #noteSubscription(asked: readonly string[]): void {
    const { caller, variant } = this.#parts;
    const { names } = this.#parts.settings;
    if (variant.dialect === 'sotw') this.#unknown.clear();
    for (const name of asked) {
      if (this.#unknown.size >= maxUnknownNoted) break;
      if (name !== '' && parseSecretName(name, names) === undefined) this.#unknown.add(foreignText(name));
    }
    const subscribed = this.#session.names();
    let bytes = this.#session.namedBytes();
    for (const name of this.#unknown) bytes += Buffer.byteLength(name) + bytesPerName;
    caller.holdNames(bytes);
    caller.wantKeyTypes(wantedKeyTypes(subscribed, names));
    this.#books?.requested([...subscribed, ...this.#unknown]);
  }

  #worldChanged(): void {
    this.#session.worldChanged();
    if (this.#session.followsAll) this.#noteSubscription([]);
    this.#refuseUnknown([]);
    this.#logHeld([]);
  }

  #pump(): void {
    while (!this.#call.writableNeedDrain) {
      const due = this.#session.peek();
      if (due === undefined) return;
      const isKey =
        due.version !== undefined && this.#parts.delivery.lookup(due.name)?.kind === 'certificate';
      if (isKey && !this.#isVerified) {
        this.#verifyThenPump();
        return;
      }
      const send = this.#session.next();
      if (send !== undefined) this.#write(send);
    }
  }

  #verifyThenPump(): void {
    if (this.#isVerifying) return;
    this.#isVerifying = true;
    this.#parts.caller.verifyStillSame().then(
      () => {
        this.#isVerifying = false;
        this.#isVerified = true;
        this.#step(() => undefined);
        this.#isVerified = false;
      },
      (error: unknown) => this.#context.end(error),
    );
  }

  #write({ name, version, nonce }: SdsSend): void {
    const { delivery, settings, variant } = this.#parts;
    if (version === undefined) {
      this.#call.write(withNonce(removalResponse(name, settings.identifier), nonce));
    } else {
      const secret = delivery.lookup(name);
      if (secret?.version !== version)
        throw new AppError('internal', `secret "${foreignText(name)}" changed in between`);
      this.#call.write(withNonce(secret.response(variant.dialect), nonce));
      this.#books?.sent(name, secret);
    }
    const what = version === undefined ? 'secret said to be absent' : 'secret sent';
    this.#context.log.debug({ ...this.#proxy(), resource: foreignText(name), version }, what);
  }

  #note({ kind, name, version, error }: SdsAnswer): void {
    const fields = { ...this.#proxy(), resource: foreignText(name), version };
    if (kind === 'ack') this.#context.log.debug(fields, 'secret acknowledged');
    else this.#context.limitedLog.write('warn', { ...fields, refusal: error }, 'secret refused by the proxy');
    // Older Envoys refuse the news that a secret does not exist; nothing follows from that.
    if (version !== undefined) this.#books?.answered(name, version, kind === 'nack' ? error : undefined);
  }

  /**
   * A second provider for a secret that Envoy watches already sends no request over ADS Delta and waits for its
   * listener's timeout (envoy#47309). What Envoy has, it skips by its hash.
   */
  async #repeat(): Promise<void> {
    const { clock } = this.#parts.settings;
    const { signal } = this.#context;
    while (!signal.aborted) {
      await clock.sleep(repetitionMs.least + Math.random() * repetitionMs.spread, signal);
      this.#step(() => this.#session.repeat());
    }
  }

  /** As SPIRE does where the setting says so. */
  #refuseUnknown(asked: readonly string[]): void {
    const { caller, delivery } = this.#parts;
    const { names, unknownNames } = this.#parts.settings;
    if (unknownNames === 'hold' || !caller.view.value.isSynced) return;
    const unknown = asked.filter((name) => name !== '' && parseSecretName(name, names) === undefined);
    const absent = this.#session.names().filter((name) => delivery.isAbsent(name));
    const refused = [...unknown, ...absent].slice(0, 5).map((name) => `"${foreignText(name)}"`);
    if (refused.length === 0) return;
    throw new AppError(
      'invalid-argument',
      `workload is not authorized for the requested identities [${refused.join(' ')}]`,
    );
  }

  /** Says once for a connection and name why the proxy waits: the first thing that its users look for. */
  #logHeld(asked: readonly string[]): void {
    const { caller, connection, delivery } = this.#parts;
    const { names } = this.#parts.settings;
    const { heldNames } = connection;
    if (heldNames.size >= maxHeldNamesLogged) return;
    const unknown = asked.filter((name) => name !== '' && parseSecretName(name, names) === undefined);
    // At the start nothing else is known yet; it is looked at again with the next view.
    for (const name of caller.view.value.isSynced ? [...unknown, ...this.#session.held()] : unknown) {
      const reason = delivery.whyHeld(name);
      if (reason === undefined || ownReasons.has(reason)) continue;
      const resource = foreignText(name);
      if (heldNames.has(resource)) continue;
      if (heldNames.size >= maxHeldNamesLogged) return;
      heldNames.add(resource);
      const fields = { ...this.#proxy(), resource, reason };
      this.#context.limitedLog.write('info', fields, 'secret held; it is sent once it is there');
    }
  }

  #logOtherType(typeUrl: string): void {
    const resource = foreignText(typeUrl);
    const { heldNames } = this.#parts.connection;
    if (heldNames.has(resource) || heldNames.size >= maxHeldNamesLogged) return;
    heldNames.add(resource);
    const fields = { ...this.#proxy(), typeUrl: resource };
    this.#context.limitedLog.write('warn', fields, 'the proxy asks for what is no secret; it gets none');
  }

  #proxy(): object {
    return { pid: this.#parts.caller.pid, node: this.#parts.connection.node?.id ?? '' };
  }
}

function worldOf(delivery: ProxyDelivery, names: SdsNames) {
  return {
    lookup: (name: string) => delivery.lookup(name),
    isAbsent: (name: string) => delivery.isAbsent(name),
    canBeServed: (name: string) => parseSecretName(name, names) !== undefined,
    allNames: () => delivery.allNames(),
  };
}

/** False for another type on an aggregated stream, where that is Envoy's right; throws where it is not. */
function isForSecrets(typeUrl: string, { isAggregated }: SdsVariant): boolean {
  if (isAggregated) return typeUrl === secretTypeUrl;
  checkTypeUrl(typeUrl);
  return true;
}

/** A stream of secrets has secrets only; empty is allowed, since the service implies the type. Throws `invalid-argument`. */
export function checkTypeUrl(typeUrl: string): void {
  if (typeUrl === '' || typeUrl === secretTypeUrl) return;
  throw new AppError(
    'invalid-argument',
    `type_url is "${foreignText(typeUrl)}"; only "${secretTypeUrl}" is served here`,
    { reason: 'WRONG_TYPE_URL' },
  );
}
