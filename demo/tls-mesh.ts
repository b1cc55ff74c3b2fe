import { copyFile, link, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RunningProcess } from '../e2e/support/process.ts';
import type { Sandbox } from '../e2e/support/sandbox.ts';
import { register } from './control-plane.ts';
import {
  type ControlPlane,
  callerId,
  type Mesh,
  type Party,
  requestsPerSecond,
  serviceId,
  type Traffic,
} from './mesh.ts';
import type { Terminal } from './terminal.ts';

export const tlsPicture = `
  frontend (demo/tls-caller.ts) ══════ mTLS ══════▶ backend (demo/tls-service.ts)
      ▲                                                 ▲
      └──── Workload API ──── agent ──── Workload API ──┘    asks the kernel who is calling
                                ▲
                             server                          signs certificates for who is registered
`;

/** Two programs that take their identities from the Workload API and speak mTLS by themselves. */
export async function startTlsMesh(
  sandbox: Sandbox,
  controlPlane: ControlPlane,
  terminal: Terminal,
): Promise<Mesh> {
  const [callerNode, serviceNode] = [await ownNode(sandbox, 'frontend'), await ownNode(sandbox, 'backend')];
  const selectorsOf = (node: string) => [`unix:uid:${process.getuid?.()}`, `unix:path:${node}`];
  await register(controlPlane, terminal, [
    { spiffeId: callerId, selectors: selectorsOf(callerNode) },
    { spiffeId: serviceId, selectors: selectorsOf(serviceNode) },
  ]);

  const env = { SPIFFE_ENDPOINT_SOCKET: `unix://${controlPlane.agent.socket}` };
  const service = await sandbox.start({
    name: 'backend',
    command: serviceNode,
    args: [fileURLToPath(import.meta.resolve('./tls-service.ts')), callerId],
    env,
  });
  const [, port = ''] = (await service.waitForLine(/^port /)).split(' ');
  const caller = await sandbox.start({
    name: 'frontend',
    command: callerNode,
    args: [fileURLToPath(import.meta.resolve('./tls-caller.ts')), port, serviceId, `${requestsPerSecond}`],
    env,
  });
  const traffic = countTraffic(caller);
  terminal.step('programs', 'run: each asks the agent for its certificate and uses it with node:tls');

  const [, called = '', , knownAs = ''] = (await caller.waitForLine(/^called /)).split(' ');
  return {
    parties: [party('frontend', caller), party('backend', service)],
    firstCall: { caller: knownAs, called },
    servicePort: Number(port),
    commands: [],
    startTraffic: () => traffic,
  };
}

/** A Node of its own for a program: the path of its binary is what the kernel tells about it. */
async function ownNode(sandbox: Sandbox, name: string): Promise<string> {
  const dir = join(sandbox.dir, name);
  await mkdir(dir);
  const node = join(dir, 'node');
  await link(process.execPath, node).catch(async () => await copyFile(process.execPath, node));
  return node;
}

/** A program that prints `serial HEX` for each new certificate. */
function party(name: string, started: RunningProcess): Party {
  let latest = started.lines.findLast((line) => line.startsWith('serial '));
  started.onLine((line) => {
    if (line.startsWith('serial ')) latest = line;
  });
  return { name, serial: async () => latest?.split(' ')[1] };
}

/** Counts what the caller prints of its calls. */
function countTraffic(caller: RunningProcess): Traffic {
  const failures: { reason: string }[] = [];
  let succeeded = 0;
  const stop = caller.onLine((line) => {
    if (line.startsWith('called ')) succeeded += 1;
    if (line.startsWith('failed: ')) failures.push({ reason: line.slice('failed: '.length) });
  });
  return {
    get succeeded() {
      return succeeded;
    },
    failures,
    stop: async () => stop(),
  };
}
