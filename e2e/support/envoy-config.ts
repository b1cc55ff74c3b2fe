import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { checkout, type EnvoyVersion } from './checkout.ts';

/** Files for the folder an Envoy runs in, by name; the one it is started with is `envoy.yaml`. */
export type EnvoyFiles = Readonly<Record<string, string>> & { readonly 'envoy.yaml': string };

/** The parts of an Envoy configuration that are replaced or looked at here. */
export interface EnvoyConfig {
  admin: { address: Address };
  dynamic_resources?: { ads_config?: { api_type: string }; lds_config?: object };
  static_resources: { listeners?: Listener[]; clusters: Cluster[] };
}

type Address = { socket_address: { address: string; port_value: number } } | { pipe: { path: string } };

/** A listener of which more than this is known only to Envoy. */
export interface Listener {
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

/** The ways in which an Envoy can ask for its secrets. */
export const sdsVariants = ['sotw', 'delta', 'ads-sotw', 'ads-delta'] as const;

/** One of them. */
export type SdsVariant = (typeof sdsVariants)[number];

/** What a test or the demo puts in the place of the literals of a shipped configuration. */
export interface SidecarSettings {
  /** The agent's socket. */
  readonly agentSocket: string;
  /** Where the sidecar sends its requests: `app` of the backend, `backend` of the frontend; a port of 127.0.0.1. */
  readonly upstreamPort: number;
  /** How the secrets are asked for; `sotw` when left out. */
  readonly variant?: SdsVariant;
  /** The Envoy that is to read it, when it is not the pinned one: what that does not know is left out. */
  readonly version?: EnvoyVersion;
  /** SDS name of the sidecar's own certificate; `default` when left out. */
  readonly certificateName?: string;
  /** SPIFFE IDs in the place of others, such as the caller that is let in. */
  readonly ids?: Readonly<Record<string, string>>;
  /** `tls_params` of every TLS context, besides the versions that are in them. */
  readonly tlsParams?: object;
  /** How long Envoy waits for the secrets before it opens its ports; `0s` is for ever. */
  readonly initialFetchTimeout?: string;
  /** True: a new mTLS connection, and so a handshake, for every request of the frontend. */
  readonly oneRequestPerConnection?: boolean;
  /** True: the listeners come from the file `listeners.json`; see `EnvoyProcess.replaceListeners`. */
  readonly hasListenerFile?: boolean;
}

/** The configurations in `envoy-configs/`, with the cluster that leads on. */
const upstreamClusters = { backend: 'app', frontend: 'backend' } as const;

/** A shipped sidecar configuration. */
export type Sidecar = keyof typeof upstreamClusters;

const suffixes: Readonly<Record<SdsVariant, string>> = {
  sotw: '',
  delta: '-delta',
  'ads-sotw': '-ads',
  'ads-delta': '-ads',
};

/** What Envoy does not know before 1.39. */
const newerFields = ['max_connection_duration_jitter'];

/**
 * The shipped configuration of a sidecar for use in a test: admin on the socket `admin.sock` of the folder Envoy runs
 * in, listeners on free ports of 127.0.0.1, the rest as `settings` say. JSON, which Envoy reads as YAML.
 */
export function sidecarConfig(sidecar: Sidecar, settings: SidecarSettings): EnvoyFiles {
  const { variant = 'sotw', hasListenerFile = false } = settings;
  const main = `${sidecar}${suffixes[variant]}`;
  const config = readShipped(main, settings) as EnvoyConfig;
  const files: Record<string, string> = {};
  const ads = config.dynamic_resources?.ads_config;
  if (ads !== undefined) ads.api_type = variant === 'ads-delta' ? 'DELTA_GRPC' : 'GRPC';
  config.admin.address = { pipe: { path: 'admin.sock' } };
  for (const listener of config.static_resources.listeners ?? []) listener.address = loopback(0);
  const { clusters } = config.static_resources;
  setUpstream(getCluster(clusters, 'signet_agent'), { pipe: { path: settings.agentSocket } });
  if (sidecar === 'frontend' && ads !== undefined) {
    const resources = readShipped(`${main}-clusters`, settings) as { resources: Cluster[] };
    adaptUpstream(getCluster(resources.resources, upstreamClusters[sidecar]), settings);
    files[`${main}-clusters.yaml`] = toJson(resources);
  } else {
    adaptUpstream(getCluster(clusters, upstreamClusters[sidecar]), settings);
  }
  if (hasListenerFile) {
    files['listeners.json'] = listenerFile(config.static_resources.listeners ?? []);
    delete config.static_resources.listeners;
    config.dynamic_resources = {
      ...config.dynamic_resources,
      lds_config: { resource_api_version: 'V3', path_config_source: { path: './listeners.json' } },
    };
  }
  return { ...files, 'envoy.yaml': toJson(config) };
}

/** The text of `listeners.json`. */
export function listenerFile(listeners: readonly Listener[]): string {
  const type = 'type.googleapis.com/envoy.config.listener.v3.Listener';
  return toJson({ resources: listeners.map((listener) => ({ '@type': type, ...listener })) });
}

/** The listeners of a `listeners.json`. */
export function parseListenerFile(text: string): readonly Listener[] {
  return (JSON.parse(text) as { resources: Listener[] }).resources;
}

/** A copy of any part of a configuration in which every `initial_fetch_timeout` is another. */
export function withFetchTimeout<T>(part: T, initialFetchTimeout: string): T {
  return replaceValues(part, (key, value) =>
    key === 'initial_fetch_timeout' ? initialFetchTimeout : value,
  ) as T;
}

/** A file of `envoy-configs/`, with what `settings` say in the place of its literals. */
function readShipped(name: string, settings: SidecarSettings): unknown {
  const { ids = {}, initialFetchTimeout, certificateName, tlsParams = {}, version = '1.40' } = settings;
  const text = readFileSync(`${checkout}envoy-configs/${name}.yaml`, 'utf8');
  const config = replaceValues(parse(text), (key, value) => {
    if (key === 'initial_fetch_timeout' && initialFetchTimeout !== undefined) return initialFetchTimeout;
    if (key === 'name' && value === 'default' && certificateName !== undefined) return certificateName;
    return typeof value === 'string' ? (ids[value] ?? value) : value;
  });
  allowLongAnswers(config);
  addTlsParams(config, tlsParams);
  return version === '1.40' ? config : withoutFields(config, newerFields);
}

function loopback(port: number): Address {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}

function getCluster(clusters: readonly Cluster[], name: string): Cluster {
  const cluster = clusters.find((candidate) => candidate.name === name);
  if (cluster === undefined) throw new Error(`the configuration has no cluster "${name}"`);
  return cluster;
}

function adaptUpstream(upstream: Cluster, settings: SidecarSettings): void {
  setUpstream(upstream, loopback(settings.upstreamPort));
  if (!settings.oneRequestPerConnection) return;
  const [options] = Object.values(upstream.typed_extension_protocol_options ?? {});
  if (options === undefined) throw new Error(`cluster "${upstream.name}" has no HTTP options`);
  options.common_http_protocol_options = {
    ...options.common_http_protocol_options,
    max_requests_per_connection: 1,
  };
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

function addTlsParams(value: unknown, params: object): void {
  if (typeof value !== 'object' || value === null) return;
  if ('tls_params' in value && typeof value.tls_params === 'object') {
    value.tls_params = { ...value.tls_params, ...params };
  }
  for (const inner of Object.values(value)) addTlsParams(inner, params);
}

/** A deep copy with every value that is no list and no object replaced. */
function replaceValues(value: unknown, replace: (key: string, value: unknown) => unknown, key = ''): unknown {
  if (Array.isArray(value)) return value.map((item) => replaceValues(item, replace, key));
  if (typeof value !== 'object' || value === null) return replace(key, value);
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, replaceValues(item, replace, name)]),
  );
}

/** A deep copy without the fields of these names, at whatever depth. */
function withoutFields(value: unknown, names: readonly string[]): unknown {
  if (Array.isArray(value)) return value.map((item) => withoutFields(item, names));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, item]) =>
      names.includes(name) ? [] : [[name, withoutFields(item, names)]],
    ),
  );
}

function toJson(value: unknown): string {
  return JSON.stringify(value, undefined, 2);
}
