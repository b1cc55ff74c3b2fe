import { type AppAnswer, startApp } from '../e2e/support/app.ts';
import { EnvoyProcess } from '../e2e/support/envoy.ts';
import { sidecarConfig } from '../e2e/support/envoy-config.ts';
import { fetchOnce, Load } from '../e2e/support/load.ts';
import { createProxyIdentity, type ProxyIdentity } from '../e2e/support/proxy-identity.ts';
import type { Sandbox } from '../e2e/support/sandbox.ts';
import { register } from './control-plane.ts';
import { type Call, type ControlPlane, callerId, type Mesh, requestsPerSecond, serviceId } from './mesh.ts';
import type { Terminal } from './terminal.ts';

export const envoyPicture = `
  caller ── HTTP ──▶ frontend's Envoy ══ mTLS ══▶ backend's Envoy ── HTTP ──▶ app
                             ▲                           ▲
                             └─── SDS ─── agent ─── SDS ─┘    asks the kernel who is calling
                                            ▲
                                         server               signs certificates for who is registered
`;

/** A plain HTTP app and a plain HTTP caller, each with an Envoy that speaks mTLS for it. */
export async function startEnvoyMesh(
  sandbox: Sandbox,
  controlPlane: ControlPlane,
  terminal: Terminal,
): Promise<Mesh> {
  const { frontend, backend } = await startSidecars(sandbox, controlPlane, terminal);
  const url = `http://127.0.0.1:${await frontend.port('outbound')}/`;
  return {
    parties: [frontend, backend].map((envoy) => ({
      name: envoy.identity.name,
      serial: async () => (await envoy.ownCertificates()).at(-1)?.serial,
    })),
    firstCall: await frontend.until('the first answer through both Envoys', () => call(url)),
    servicePort: await backend.port('inbound'),
    commands: [
      {
        about: 'The Envoys: call the app through both, see the certificates that each of them holds',
        commands: [
          `curl -s ${url}`,
          ...[frontend, backend].map(
            ({ identity }) => `curl -s --unix-socket ${identity.dir}/admin.sock http://envoy/certs`,
          ),
        ],
      },
    ],
    startTraffic: () => Load.start({ url, perSecond: requestsPerSecond }),
  };
}

async function startSidecars(sandbox: Sandbox, controlPlane: ControlPlane, terminal: Terminal) {
  const backendIdentity = await createProxyIdentity(sandbox, 'backend');
  const frontendIdentity = await createProxyIdentity(sandbox, 'frontend');
  await register(controlPlane, terminal, [
    { spiffeId: callerId, selectors: selectorsOf(frontendIdentity) },
    { spiffeId: serviceId, selectors: selectorsOf(backendIdentity) },
  ]);
  const agentSocket = controlPlane.agent.socket;
  const backend = await EnvoyProcess.start(
    sandbox,
    backendIdentity,
    sidecarConfig('backend', { agentSocket, upstreamPort: await startApp(sandbox, 'app') }),
  );
  // Its port is known once it is open.
  await backend.waitUntilReady();
  const frontend = await EnvoyProcess.start(
    sandbox,
    frontendIdentity,
    sidecarConfig('frontend', {
      agentSocket,
      upstreamPort: await backend.port('inbound'),
      oneRequestPerConnection: true,
    }),
  );
  await frontend.waitUntilReady();
  const version = /\/(\d+\.\d+\.\d+)\//.exec(await backend.admin('/server_info'))?.[1] ?? '';
  terminal.step('envoys', `run: real Envoys ${version}, configured by envoy-configs/{frontend,backend}.yaml`);
  return { frontend, backend };
}

/** Where the user does not tell a proxy from others, name it all the same: anyone may run that binary. */
function selectorsOf({ selectors, uid }: ProxyIdentity): readonly string[] {
  return uid === undefined ? [`unix:uid:${process.getuid?.()}`, ...selectors] : selectors;
}

/** Calls the app and reads who called whom in the header that the backend's Envoy has set. */
async function call(url: string): Promise<Call> {
  const { status, body } = await fetchOnce(url);
  if (status !== 200) throw new Error(`${status} ${body}`);
  const { headers } = JSON.parse(body) as AppAnswer;
  const header = String(headers['x-forwarded-client-cert']);
  const field = (name: string) => new RegExp(`(?:^|;)${name}=([^;,]*)`).exec(header)?.[1];
  const [caller, called] = [field('URI'), field('By')];
  if (caller === undefined || called === undefined) throw new Error(`x-forwarded-client-cert: ${header}`);
  return { caller, called };
}
