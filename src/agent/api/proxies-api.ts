import {
  type ListProxiesRequest,
  Protocol,
  ProxiesService,
  Secret_Kind as WireKind,
  type Proxy as WireProxy,
  type Secret as WireSecret,
  SecretState as WireState,
} from '../../gen/signet/proxy/v1/proxy.ts';
import { type GrpcService, serverStream, serviceOf } from '../../rpc/handlers.ts';
import { AppError } from '../../runtime/error.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/spiffe-id.ts';
import type { ProxyProtocol, ProxyStatus, SecretStatus } from '../proxy-book.ts';
import { foreignText } from './foreign-text.ts';
import type { SdsNames } from './sds-names.ts';
import { nextStepFor } from './secret-advice.ts';

/** What the admin service about proxies is made of. */
export interface ProxiesApiDeps {
  readonly book: { statuses(): readonly ProxyStatus[] };
  readonly trustDomain: TrustDomain;
  /** The agent's own ID; undefined until it has joined. */
  readonly agentId: () => SpiffeId | undefined;
  readonly names: SdsNames;
}

/** A message must not outgrow what clients take (4 MiB by default), whatever a proxy asks for and is labelled with. */
const maxSecrets = 4_000;
const maxTextBytes = 128 * 1024;

const wireProtocol = {
  sotw: Protocol.SOTW,
  delta: Protocol.DELTA,
  'ads-sotw': Protocol.ADS_SOTW,
  'ads-delta': Protocol.ADS_DELTA,
} as const satisfies Record<ProxyProtocol, Protocol>;

/** `signet.proxy.v1.Proxies`: reads the books that the agent keeps about its proxies. For administrators only. */
export function proxiesApi(deps: ProxiesApiDeps): GrpcService {
  return serviceOf(ProxiesService, {
    listProxies: serverStream(async function* (request) {
      checkRequest(request);
      const found = deps.book
        .statuses()
        .filter((proxy) => matches(proxy, request))
        .sort((a, b) => a.connectedAtMs - b.connectedAtMs || a.pid - b.pid);
      for (const proxy of found) yield toWire(proxy, request, deps);
    }),
  });
}

function checkRequest({ pid, withState }: ListProxiesRequest): void {
  if (pid < 0) throw new AppError('invalid-argument', `expected a process ID as pid, got ${pid}`);
  const isState = (state: number) => state >= WireState.ACKNOWLEDGED && state <= WireState.REFUSED;
  const unknown = withState.find((state) => !isState(state));
  if (unknown === undefined) return;
  throw new AppError('invalid-argument', `expected states of secrets as with_state, got ${unknown}`);
}

function matches(proxy: ProxyStatus, request: ListProxiesRequest): boolean {
  const { pid, nodeId, spiffeId, withState } = request;
  return (
    (request.includeGone || proxy.connections > 0) &&
    (pid === 0 || proxy.pid === pid) &&
    // It may be asked for as it is shown, or as it is in Envoy's configuration.
    (nodeId === '' || (proxy.node && foreignText(proxy.node.id)) === foreignText(nodeId)) &&
    (spiffeId === '' || proxy.identities.includes(spiffeId)) &&
    withState.every((state) => askedFor(proxy).some((secret) => stateOf(secret) === state))
  );
}

/** What it has let go of may still be in its book; of one that is gone that is all there is. */
function askedFor({ secrets, streams }: ProxyStatus): readonly SecretStatus[] {
  return streams === 0 ? secrets : secrets.filter((secret) => secret.streams > 0);
}

/** What needs attention comes before what is merely so. */
function stateOf({ sent, acknowledged, refused, held, isStalled }: SecretStatus): WireState {
  if (refused !== undefined) return WireState.REFUSED;
  if (isStalled) return WireState.STALLED;
  if (held !== undefined) return WireState.HELD;
  return acknowledged !== undefined && acknowledged.version === sent?.version
    ? WireState.ACKNOWLEDGED
    : WireState.PENDING;
}

function toWire(proxy: ProxyStatus, { includeSecrets }: ListProxiesRequest, deps: ProxiesApiDeps): WireProxy {
  const { node } = proxy;
  const [selectors, identities] = [firstOf(proxy.selectors), firstOf(proxy.identities)];
  const states = askedFor(proxy).map(stateOf);
  const count = (wanted: WireState) => states.filter((state) => state === wanted).length;
  return {
    pid: proxy.pid,
    uid: proxy.uid,
    gid: proxy.gid,
    selectors,
    identities,
    node: node && {
      id: foreignText(node.id),
      cluster: foreignText(node.cluster),
      version: foreignText(node.version),
    },
    connectedAtMs: BigInt(Math.floor(proxy.connectedAtMs)),
    connections: proxy.connections,
    streams: proxy.streams,
    protocols: proxy.protocols.map((protocol) => wireProtocol[protocol]),
    counts: {
      acknowledged: count(WireState.ACKNOWLEDGED),
      pending: count(WireState.PENDING),
      held: count(WireState.HELD),
      stalled: count(WireState.STALLED),
      refused: count(WireState.REFUSED),
    },
    secrets: includeSecrets ? secretsOf(proxy, deps) : [],
    secretsOmitted: includeSecrets ? Math.max(0, states.length - maxSecrets) : 0,
    selectorsOmitted: proxy.selectors.length - selectors.length,
    identitiesOmitted: proxy.identities.length - identities.length,
  };
}

function firstOf(texts: readonly string[]): string[] {
  let bytes = 0;
  const tooMany = texts.findIndex((text) => {
    bytes += Buffer.byteLength(text);
    return bytes > maxTextBytes;
  });
  return texts.slice(0, tooMany === -1 ? texts.length : tooMany);
}

/** Worst first, so that whoever asks for very many names cannot push what is wrong out of sight. */
function secretsOf(proxy: ProxyStatus, deps: ProxiesApiDeps): WireSecret[] {
  const context = { ...deps, agentId: deps.agentId(), selectors: proxy.selectors };
  return askedFor(proxy)
    .map((secret) => ({ secret, state: stateOf(secret) }))
    .sort((a, b) => b.state - a.state || compareText(a.secret.name, b.secret.name))
    .slice(0, maxSecrets)
    .map(({ secret, state }) => secretToWire(secret, state, nextStepFor(secret, context)));
}

function secretToWire(secret: SecretStatus, state: WireState, nextStep: string): WireSecret {
  const { sent, acknowledged, refused, kind } = secret;
  const versionAt = ({ version, atMs }: { readonly version: string; readonly atMs: number }) => ({
    version,
    atMs: BigInt(Math.floor(atMs)),
  });
  return {
    name: foreignText(secret.name),
    state,
    kind: kind === undefined ? WireKind.KIND_UNSPECIFIED : wireKind[kind],
    streams: secret.streams,
    sent: sent && { ...versionAt(sent), bytes: sent.bytes },
    acknowledged: acknowledged && versionAt(acknowledged),
    refused: refused && { ...versionAt(refused), error: foreignText(refused.error) },
    held: foreignText(secret.held ?? ''),
    nextStep,
  };
}

const wireKind = { certificate: WireKind.CERTIFICATE, trust: WireKind.TRUST } as const;

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
