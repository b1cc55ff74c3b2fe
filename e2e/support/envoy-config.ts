import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { checkout } from './checkout.ts';

/** The parts of an Envoy configuration that are replaced here. */
export interface EnvoyConfig {
  admin: { address: Address };
  static_resources: { listeners: Listener[]; clusters: Cluster[] };
}

type Address = { socket_address: { address: string; port_value: number } } | { pipe: { path: string } };

interface Listener {
  name: string;
  address: Address;
}

interface Cluster {
  name: string;
  load_assignment: { endpoints: [{ lb_endpoints: [{ endpoint: { address: Address } }] }] };
  typed_extension_protocol_options?: Record<
    string,
    { common_http_protocol_options?: Record<string, unknown> }
  >;
}

/** What a test or the demo puts in the place of the literals of a shipped configuration. */
export interface SidecarSettings {
  /** The agent's socket. */
  readonly agentSocket: string;
  /** Where the sidecar sends its requests: `app` of the backend, `backend` of the frontend; a port of 127.0.0.1. */
  readonly upstreamPort: number;
  /** SDS name of the sidecar's own certificate; `default` when left out. */
  readonly certificateName?: string;
  /** SPIFFE IDs in the place of others, such as the caller that is let in. */
  readonly ids?: Readonly<Record<string, string>>;
  /** How long Envoy waits for the secrets before it opens its ports; `0s` is for ever. */
  readonly initialFetchTimeout?: string;
  /** True: a new mTLS connection, and so a handshake, for every request of the frontend. */
  readonly oneRequestPerConnection?: boolean;
}

/** The configurations in `envoy-configs/`, with the cluster that leads on. */
const upstreamClusters = { backend: 'app', frontend: 'backend' } as const;

/** A shipped sidecar configuration. */
export type Sidecar = keyof typeof upstreamClusters;

/**
 * The shipped configuration of a sidecar for use in a test: admin on the socket `admin.sock` of the folder Envoy runs
 * in, listeners on free ports of 127.0.0.1, the rest as `settings` say. JSON, which Envoy reads as YAML.
 */
export function sidecarConfig(sidecar: Sidecar, settings: SidecarSettings): string {
  const { ids = {}, initialFetchTimeout, certificateName } = settings;
  const text = readFileSync(`${checkout}envoy-configs/${sidecar}.yaml`, 'utf8');
  const config = replaceValues(parse(text), (key, value) => {
    if (key === 'initial_fetch_timeout' && initialFetchTimeout !== undefined) return initialFetchTimeout;
    if (key === 'name' && value === 'default' && certificateName !== undefined) return certificateName;
    return typeof value === 'string' ? (ids[value] ?? value) : value;
  }) as EnvoyConfig;
  allowLongAnswers(config);
  config.admin.address = { pipe: { path: 'admin.sock' } };
  for (const listener of config.static_resources.listeners) listener.address = loopback(0);
  setUpstream(getCluster(config, 'signet_agent'), { pipe: { path: settings.agentSocket } });
  const upstream = getCluster(config, upstreamClusters[sidecar]);
  setUpstream(upstream, loopback(settings.upstreamPort));
  if (settings.oneRequestPerConnection) {
    const [options] = Object.values(upstream.typed_extension_protocol_options ?? {});
    if (options === undefined)
      throw new Error(`cluster "${upstream.name}" of ${sidecar}.yaml has no HTTP options`);
    options.common_http_protocol_options = {
      ...options.common_http_protocol_options,
      max_requests_per_connection: 1,
    };
  }
  return JSON.stringify(config, undefined, 2);
}

function loopback(port: number): Address {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}

function getCluster(config: EnvoyConfig, name: string): Cluster {
  const cluster = config.static_resources.clusters.find((candidate) => candidate.name === name);
  if (cluster === undefined) throw new Error(`the configuration has no cluster "${name}"`);
  return cluster;
}

function setUpstream(cluster: Cluster, address: Address): void {
  cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address = address;
}

/** Envoy ends an answer that is not complete after 15 s, unless its route says otherwise. */
function allowLongAnswers(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  if ('route' in value && typeof value.route === 'object') value.route = { ...value.route, timeout: '0s' };
  for (const inner of Object.values(value)) allowLongAnswers(inner);
}

/** A deep copy with every value that is no list and no object replaced. */
function replaceValues(value: unknown, replace: (key: string, value: unknown) => unknown, key = ''): unknown {
  if (Array.isArray(value)) return value.map((item) => replaceValues(item, replace, key));
  if (typeof value !== 'object' || value === null) return replace(key, value);
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, replaceValues(item, replace, name)]),
  );
}
