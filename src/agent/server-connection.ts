import { ServerClient } from '../clients/server-client.ts';
import { verifyServerChain } from '../clients/server-verification.ts';
import { type ClientChannel, tlsChannel } from '../rpc/grpc-client.ts';
import { AppError } from '../runtime/error.ts';
import type { Observable } from '../runtime/observable.ts';
import type { Clock } from '../runtime/time.ts';
import type { PostQuantum } from '../runtime/tls-settings.ts';
import type { TrustDomain } from '../spiffe/spiffe-id.ts';
import type { Certificate } from '../x509/certificate.ts';
import type { AgentIdentityState } from './agent-identity.ts';

interface Deps {
  readonly address: string;
  /** `prefer` unless given. */
  readonly postQuantum?: PostQuantum;
  readonly trustDomain: TrustDomain;
  readonly identity: Observable<AgentIdentityState | undefined>;
  readonly clock: Clock;
}

/** The agent's mTLS channel to its server; opened anew when the agent's certificate has changed. */
export class ServerConnection {
  readonly #deps: Deps;
  #open:
    | { readonly serial: string; readonly channel: ClientChannel; readonly client: ServerClient }
    | undefined;
  #keyExchange: string | undefined;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** The key exchange of the newest connection, such as `X25519MLKEM768`. */
  get keyExchange(): string | undefined {
    return this.#keyExchange;
  }

  /** A client that presents the current identity; throws `unavailable` while there is none. */
  client(): ServerClient {
    const state = this.#deps.identity.value;
    if (state === undefined) throw new AppError('unavailable', 'the agent is not attested yet');
    const serial = state.svid.chain[0]?.serialHex ?? '';
    if (this.#open?.serial !== serial) {
      this.close();
      const channel = tlsChannel({
        address: this.#deps.address,
        tls: {
          postQuantum: this.#deps.postQuantum ?? 'prefer',
          onKeyExchange: (group) => {
            this.#keyExchange = group;
          },
          verifyServer: (chain) => this.#verify(chain),
          certificateChainPem: state.svid.chain.map((c) => c.toPem()).join(''),
          privateKeyPem: state.privateKeyPem,
        },
      });
      this.#open = { serial, channel, client: new ServerClient(channel) };
    }
    return this.#open.client;
  }

  close(): void {
    this.#open?.channel.close();
    this.#open = undefined;
  }

  #verify(chain: readonly Certificate[]): void {
    const { trustDomain, identity, clock } = this.#deps;
    verifyServerChain(chain, { trustDomain, bundle: identity.value?.bundle, nowMs: clock.now() });
  }
}
