import {
  Protocol,
  ProxiesService,
  Secret_Kind as WireKind,
  type Proxy as WireProxy,
  type Secret as WireSecret,
  SecretState as WireState,
} from '../gen/signet/proxy/v1/proxy.ts';
import { type ClientChannel, callServerStream } from '../rpc/grpc-client.ts';
import { wholeNumber } from '../rpc/messages.ts';
import { type ClientCall, limits, received } from './answers.ts';

/** What a proxy's secret is like; the first one of the list that is true. */
export const secretStates = ['refused', 'stalled', 'held', 'pending', 'acknowledged'] as const;
export type SecretState = (typeof secretStates)[number];

/** Which proxies are meant; absent = any. A proxy must meet all that is named. */
export interface ProxyQuery {
  readonly pid?: number | undefined;
  readonly nodeId?: string | undefined;
  /** One it is entitled to now. */
  readonly spiffeId?: string | undefined;
  /** It has a secret in each of these states. */
  readonly states?: readonly SecretState[];
  /** Also those that have no connection any more, as long as the agent remembers them. */
  readonly includeGone?: boolean;
  readonly includeSecrets?: boolean;
}

/** One name that a proxy asks for. Times in Unix ms. */
export interface ProxySecret {
  readonly name: string;
  readonly state: SecretState | 'unknown';
  readonly kind: 'certificate' | 'trust' | undefined;
  readonly streams: number;
  readonly sent: { readonly version: string; readonly atMs: number; readonly bytes: number } | undefined;
  readonly acknowledged: { readonly version: string; readonly atMs: number } | undefined;
  readonly refused: { readonly version: string; readonly atMs: number; readonly error: string } | undefined;
  /** Why it is held; empty when it is not. */
  readonly held: string;
  readonly nextStep: string;
}

/** A proxy on the agent's workload socket, as `signet.proxy.v1.Proxy` describes it. */
export interface ConnectedProxy {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly selectors: readonly string[];
  readonly identities: readonly string[];
  /** What it says of itself. */
  readonly node: { readonly id: string; readonly cluster: string; readonly version: string } | undefined;
  readonly connectedAtMs: number;
  readonly connections: number;
  readonly streams: number;
  readonly protocols: readonly string[];
  readonly counts: Readonly<Record<SecretState, number>>;
  readonly secrets: readonly ProxySecret[];
  /** How many secrets, selectors and identities the agent left out. */
  readonly omitted: { readonly secrets: number; readonly selectors: number; readonly identities: number };
}

const wireStates = {
  refused: WireState.REFUSED,
  stalled: WireState.STALLED,
  held: WireState.HELD,
  pending: WireState.PENDING,
  acknowledged: WireState.ACKNOWLEDGED,
} as const satisfies Record<SecretState, WireState>;

const protocolNames: Readonly<Record<number, string>> = {
  [Protocol.SOTW]: 'sotw',
  [Protocol.DELTA]: 'delta',
  [Protocol.ADS_SOTW]: 'ads-sotw',
  [Protocol.ADS_DELTA]: 'ads-delta',
};

/** `signet.proxy.v1.Proxies` of an agent, for administrators. */
export class ProxiesClient {
  readonly #channel: ClientChannel;

  constructor(channel: ClientChannel) {
    this.#channel = channel;
  }

  /** The proxies that match, longest connected first. Throws `unimplemented` where no agent of this kind answers. */
  async list(query: ClientCall & ProxyQuery): Promise<readonly ConnectedProxy[]> {
    const { pid = 0, nodeId = '', spiffeId = '', states = [] } = query;
    const { includeGone = false, includeSecrets = false } = query;
    const withState = states.map((state) => wireStates[state]);
    const request = { pid, nodeId, spiffeId, withState, includeGone, includeSecrets };
    const found: ConnectedProxy[] = [];
    const answers = callServerStream(this.#channel, ProxiesService.listProxies, request, limits(query));
    for await (const proxy of answers) found.push(received(proxyFromWire, proxy));
    return found;
  }
}

function proxyFromWire(wire: WireProxy): ConnectedProxy {
  const { pid, uid, gid, selectors, identities, node, connections, streams, counts } = wire;
  return {
    ...{ pid, uid, gid, selectors, identities, node, connections, streams },
    connectedAtMs: wholeNumber(wire.connectedAtMs, 'connected_at_ms'),
    protocols: wire.protocols.map((protocol) => protocolNames[protocol] ?? 'unknown'),
    counts: counts ?? { acknowledged: 0, pending: 0, held: 0, stalled: 0, refused: 0 },
    secrets: wire.secrets.map(secretFromWire),
    omitted: {
      secrets: wire.secretsOmitted,
      selectors: wire.selectorsOmitted,
      identities: wire.identitiesOmitted,
    },
  };
}

function secretFromWire(wire: WireSecret): ProxySecret {
  const { name, streams, sent, acknowledged, refused, held, nextStep } = wire;
  return {
    ...{ name, streams, held, nextStep },
    state: secretStates.find((state) => wireStates[state] === wire.state) ?? 'unknown',
    kind: kindFromWire(wire.kind),
    sent: sent && { ...sent, atMs: wholeNumber(sent.atMs, 'sent.at_ms') },
    acknowledged: acknowledged && {
      ...acknowledged,
      atMs: wholeNumber(acknowledged.atMs, 'acknowledged.at_ms'),
    },
    refused: refused && { ...refused, atMs: wholeNumber(refused.atMs, 'refused.at_ms') },
  };
}

function kindFromWire(wire: WireKind): ProxySecret['kind'] {
  if (wire === WireKind.CERTIFICATE) return 'certificate';
  return wire === WireKind.TRUST ? 'trust' : undefined;
}
