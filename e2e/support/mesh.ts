import { startApp } from './app.ts';
import { type EnvoyVersion, getEnvoy } from './checkout.ts';
import { EnvoyProcess } from './envoy.ts';
import { type SdsVariant, sidecarConfig } from './envoy-config.ts';
import { fetchOnce } from './load.ts';
import { createProxyIdentity, type ProxyIdentity } from './proxy-identity.ts';
import type { Sandbox } from './sandbox.ts';
import { SignetAgent, SignetServer } from './signet.ts';

/** The identities of the two sidecars, as the shipped configurations name them. */
export const sidecarIds = {
  backend: 'spiffe://example.org/backend',
  frontend: 'spiffe://example.org/frontend',
} as const;

/** How the two Envoys are configured; what is left out is as shipped. */
export interface SidecarOptions {
  readonly variant?: SdsVariant;
  /** Of the Envoys that `who` runs. */
  readonly version?: EnvoyVersion;
  readonly initialFetchTimeout?: string;
  readonly tlsParams?: object;
  readonly oneRequestPerConnection?: boolean;
}

/** Two Envoys in front of one application: a request to `url` goes through the frontend's, then the backend's. */
export class Sidecars {
  readonly backend: EnvoyProcess;
  readonly frontend: EnvoyProcess;
  /** The outbound listener of the frontend's sidecar. */
  readonly url: string;
  /** Port of the backend's inbound listener. */
  readonly inboundPort: number;

  private constructor(parts: Pick<Sidecars, 'backend' | 'frontend' | 'url' | 'inboundPort'>) {
    this.backend = parts.backend;
    this.frontend = parts.frontend;
    this.url = parts.url;
    this.inboundPort = parts.inboundPort;
  }

  /** Starts the application and both Envoys; does not wait for any secret, nor for an agent at `agentSocket`. */
  static async start(
    sandbox: Sandbox,
    who: { readonly backend: ProxyIdentity; readonly frontend: ProxyIdentity },
    {
      agentSocket,
      oneRequestPerConnection = false,
      ...options
    }: SidecarOptions & { readonly agentSocket: string },
  ): Promise<Sidecars> {
    const appPort = await startApp(sandbox, 'backend');
    const backend = await EnvoyProcess.start(
      sandbox,
      who.backend,
      sidecarConfig('backend', { agentSocket, upstreamPort: appPort, ...options }),
    );
    // Envoy binds its ports at once, and listens on them when it has its secrets.
    const inboundPort = await backend.until('an inbound port', () => backend.port('inbound'));
    const frontend = await EnvoyProcess.start(
      sandbox,
      who.frontend,
      sidecarConfig('frontend', {
        agentSocket,
        upstreamPort: inboundPort,
        oneRequestPerConnection,
        ...options,
      }),
    );
    const port = await frontend.until('an outbound port', () => frontend.port('outbound'));
    return new Sidecars({ backend, frontend, inboundPort, url: `http://127.0.0.1:${port}/` });
  }

  get all(): readonly EnvoyProcess[] {
    return [this.backend, this.frontend];
  }

  /** Waits for a 200 through both Envoys; returns the application's answer. */
  async firstAnswer(timeoutMs = 15_000): Promise<string> {
    return await this.frontend.until(
      '200 through both Envoys',
      async () => {
        const { status, body } = await fetchOnce(this.url);
        return status === 200 ? body : Promise.reject(new Error(`${status} ${body}`));
      },
      { timeoutMs },
    );
  }
}

/** Users, or binaries, of the two sidecars; `prefix` tells those of one pair from another's. */
export async function createSidecarIdentities(
  sandbox: Sandbox,
  prefix = '',
  version: EnvoyVersion = '1.40',
): Promise<{ backend: ProxyIdentity; frontend: ProxyIdentity }> {
  const program = getEnvoy(version);
  return {
    backend: await createProxyIdentity(sandbox, `${prefix}backend`, program),
    frontend: await createProxyIdentity(sandbox, `${prefix}frontend`, program),
  };
}

/** A whole mesh: server, agent, both sidecars with an entry each. */
export interface Mesh {
  readonly server: SignetServer;
  readonly agent: SignetAgent;
  readonly sidecars: Sidecars;
  readonly who: { readonly backend: ProxyIdentity; readonly frontend: ProxyIdentity };
  /** Ids of their entries. */
  readonly entries: { readonly backend: string; readonly frontend: string };
}

/** Starts all of it; returns when a request has gone through both Envoys. */
export async function startMesh(
  sandbox: Sandbox,
  {
    server: serverConfig = {},
    agent: agentConfig = {},
    ...options
  }: SidecarOptions & { readonly server?: object; readonly agent?: object } = {},
): Promise<Mesh> {
  const who = await createSidecarIdentities(sandbox);
  const server = await SignetServer.start(sandbox, { config: serverConfig });
  const [agent, entries] = await Promise.all([
    SignetAgent.join(sandbox, { server, config: agentConfig }),
    registerSidecars(server, SignetAgent.aliasOf(server), who),
  ]);
  const sidecars = await Sidecars.start(sandbox, who, { agentSocket: agent.socket, ...options });
  await sidecars.firstAnswer();
  return { server, agent, sidecars, who, entries };
}

/** Gives each sidecar its identity; returns the entries' ids. */
export async function registerSidecars(
  server: SignetServer,
  parent: string,
  who: { readonly backend: ProxyIdentity; readonly frontend: ProxyIdentity },
  options: { readonly x509Ttl?: string } = {},
): Promise<{ readonly backend: string; readonly frontend: string }> {
  const [backend, frontend] = await Promise.all(
    (['backend', 'frontend'] as const).map((name) =>
      server.createEntry({
        spiffeId: sidecarIds[name],
        parent,
        selectors: who[name].selectors,
        ...options,
      }),
    ),
  );
  return { backend: backend ?? '', frontend: frontend ?? '' };
}
