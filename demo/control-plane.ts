import type { Sandbox } from '../e2e/support/sandbox.ts';
import { SignetAgent, SignetServer } from '../e2e/support/signet.ts';
import { type ControlPlane, svidLifetimeSeconds, trustDomain } from './mesh.ts';
import type { Terminal } from './terminal.ts';

/** Starts a server, and an agent that joins it. */
export async function startControlPlane(sandbox: Sandbox, terminal: Terminal): Promise<ControlPlane> {
  const server = await SignetServer.start(sandbox, { trustDomain });
  terminal.step('server', `runs: the CA and registry of trust domain ${trustDomain}, on ${server.address}`);
  const agent = await SignetAgent.join(sandbox, { server });
  terminal.step('agent', 'runs: joined with a one-time token, from now on it has a certificate of its own');
  return { server, agent };
}

/** Registers workloads: which SPIFFE ID belongs to processes with which selectors. */
export async function register(
  { server, agent }: ControlPlane,
  terminal: Terminal,
  workloads: readonly { readonly spiffeId: string; readonly selectors: readonly string[] }[],
): Promise<void> {
  const x509Ttl = `${svidLifetimeSeconds}s`;
  await Promise.all(
    workloads.map((workload) => server.createEntry({ ...workload, parent: agent.alias, x509Ttl })),
  );
  terminal.step(
    'registered',
    ...workloads.flatMap(({ spiffeId, selectors }) => {
      const processes = `for processes with ${selectors.join(' ')}`;
      return selectors.length === 1 ? [`${spiffeId} ${processes}`] : [spiffeId, `  ${processes}`];
    }),
  );
}
