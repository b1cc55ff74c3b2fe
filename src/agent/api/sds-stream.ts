import type { RawBidiHandler, RawCallContext } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import type { AttestedCaller } from './attested-caller.ts';
import { decodeDiscoveryRequest } from './discovery-request.ts';
import { foreignText } from './foreign-text.ts';
import type { ProxyNode } from './proxy-node.ts';
import { carriesPrivateKey, parseSecretName } from './sds-names.ts';
import type { SdsResources } from './sds-resources.ts';
import { type SdsAnswer, type SdsLimits, type SdsSend, SdsSession, type SdsWorld } from './sds-session.ts';
import { secretTypeUrl, withNonce } from './secrets.ts';

/** What all streams of one connection share. */
export interface ProxyConnection {
  /** As the first request told it; later ones are not read. */
  node: ProxyNode | undefined;
  /** Names whose absence has been logged. */
  readonly heldNames: Set<string>;
}

/** A gRPC stream of bytes. */
export type ByteStream = Parameters<RawBidiHandler<Buffer, Buffer>['handle']>[0];

/** Envoy opens a stream per name: this many are named in the log, for each connection. */
const maxHeldNamesLogged = 20;

/**
 * One StreamSecrets call. A loop over two sources, requests and changes of the view, that never waits for either:
 * both feed the session, then `#pump` writes what the session has due, as long as the transport takes it. A private
 * key is written only in the very turn in which the caller was found to be the program it was.
 */
export class SdsStream {
  readonly #call: ByteStream;
  readonly #context: RawCallContext;
  readonly #caller: AttestedCaller;
  readonly #connection: ProxyConnection;
  readonly #resources: SdsResources;
  readonly #limits: SdsLimits;
  readonly #session: SdsSession;
  #isVerified = false;
  #isVerifying = false;

  constructor(
    transport: { readonly call: ByteStream; readonly context: RawCallContext },
    parts: {
      readonly caller: AttestedCaller;
      readonly connection: ProxyConnection;
      readonly resources: SdsResources;
      readonly limits: SdsLimits;
    },
  ) {
    this.#call = transport.call;
    this.#context = transport.context;
    this.#caller = parts.caller;
    this.#connection = parts.connection;
    this.#resources = parts.resources;
    this.#limits = parts.limits;
    this.#session = new SdsSession(worldOf(parts), parts.limits);
  }

  /** Serves until the call is over, then releases the caller's view. */
  start(): void {
    const { signal } = this.#context;
    if (signal.aborted) {
      this.#caller.release();
      return;
    }
    const unsubscribe = this.#caller.view.subscribe(() => this.#step(() => this.#worldChanged()));
    signal.addEventListener(
      'abort',
      () => {
        unsubscribe();
        this.#caller.release();
      },
      { once: true },
    );
    this.#call.on('drain', () => this.#step(() => undefined));
    this.#call.on('end', () => this.#context.end());
    // Last: from here on requests flow.
    this.#call.on('data', (bytes: Buffer) => this.#step(() => this.#receive(bytes)));
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
    const request = decodeDiscoveryRequest(bytes, {
      readNode: this.#connection.node === undefined,
      limits: this.#limits,
    });
    checkTypeUrl(request.typeUrl);
    this.#connection.node ??= request.node;
    const answer = this.#session.receive(request);
    this.#caller.holdNames(this.#session.namedBytes());
    if (answer === undefined) this.#logHeld(request.names);
    else this.#note(answer);
  }

  #worldChanged(): void {
    this.#session.worldChanged();
    this.#logHeld();
  }

  #pump(): void {
    while (!this.#call.writableNeedDrain) {
      const due = this.#session.peek();
      if (due === undefined) return;
      if (carriesPrivateKey(due.name, this.#resources.names) && !this.#isVerified) {
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
    this.#caller.verifyStillSame().then(
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
    const secret = this.#resources.find(name, this.#caller.view.value, this.#connection.node?.validator);
    if (secret?.version !== version)
      throw new AppError('internal', `secret "${foreignText(name)}" changed in between`);
    this.#call.write(withNonce(secret.response, nonce));
    this.#context.log.debug({ ...this.#proxy(), resource: foreignText(name), version }, 'secret sent');
  }

  #note({ kind, name, version, error }: SdsAnswer): void {
    const fields = { ...this.#proxy(), resource: foreignText(name), version };
    if (kind === 'ack') this.#context.log.debug(fields, 'secret acknowledged');
    else this.#context.limitedLog.write('warn', { ...fields, refusal: error }, 'secret refused by the proxy');
  }

  /**
   * Says once for a connection and name why the proxy waits: the first thing that its users look for. `asked` are
   * the names of a request, of which the session forgets those that nobody is ever served.
   */
  #logHeld(asked: readonly string[] = []): void {
    const { heldNames, node } = this.#connection;
    if (heldNames.size >= maxHeldNamesLogged) return;
    const view = this.#caller.view.value;
    const unknown = asked.filter((name) => name !== '' && !canBeServed(name, this.#resources));
    // At the start nothing else is known yet; it is looked at again with the next view.
    for (const name of view.isSynced ? [...unknown, ...this.#session.held()] : unknown) {
      const resource = foreignText(name);
      if (heldNames.has(resource) || heldNames.size >= maxHeldNamesLogged) continue;
      heldNames.add(resource);
      const reason = this.#resources.whyHeld(name, view, node?.validator);
      this.#context.limitedLog.write(
        'info',
        { ...this.#proxy(), resource, reason },
        'secret held; it is sent once it is there',
      );
    }
  }

  #proxy(): object {
    return { pid: this.#caller.pid, node: this.#connection.node?.id ?? '' };
  }
}

/** Secrets of the caller's view, in the form its proxy wants. */
export function worldOf(parts: {
  readonly caller: AttestedCaller;
  readonly connection: ProxyConnection;
  readonly resources: SdsResources;
}): SdsWorld {
  const { caller, connection, resources } = parts;
  return {
    lookup: (name) => resources.find(name, caller.view.value, connection.node?.validator),
    canBeServed: (name) => canBeServed(name, resources),
    allNames: () => resources.allNames(caller.view.value),
  };
}

function canBeServed(name: string, { names }: SdsResources): boolean {
  return parseSecretName(name, names) !== undefined;
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
