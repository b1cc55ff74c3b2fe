import type { Sandbox } from '../e2e/support/sandbox.ts';
import { startControlPlane } from './control-plane.ts';
import { envoyPicture, startEnvoyMesh } from './envoy-mesh.ts';
import { showCommands } from './look-around.ts';
import {
  type Call,
  latestRenewalSeconds,
  type Mesh,
  requestsPerSecond,
  svidLifetimeSeconds,
} from './mesh.ts';
import { showRefusals } from './refusals.ts';
import { watchRotations } from './rotations.ts';
import type { Settings } from './settings.ts';
import type { Terminal } from './terminal.ts';
import { startTlsMesh, tlsPicture } from './tls-mesh.ts';

/** What the story is told with, and until when. */
export interface Telling extends Settings {
  readonly sandbox: Sandbox;
  readonly terminal: Terminal;
  readonly signal: AbortSignal;
}

/**
 * Starts all of it, shows a call, refusals and rotations; returns when `signal` aborts or the goal is reached, and
 * throws what went wrong, failed requests included.
 */
export async function tellStory(telling: Telling): Promise<void> {
  const { sandbox, terminal, envoy } = telling;
  introduce(telling);
  const controlPlane = await startControlPlane(sandbox, terminal);
  const start = envoy === true ? startEnvoyMesh : startTlsMesh;
  const mesh = await start(sandbox, controlPlane, terminal);
  const seconds = showFirstCall(mesh.firstCall, telling);
  await showRefusals(mesh, controlPlane, terminal);
  showCommands(mesh, controlPlane, { dir: sandbox.dir, terminal });
  const { rotations, requests, failed } = await showRotations(mesh, telling);
  const summary = `${rotations} rotation${rotations === 1 ? '' : 's'}, ${requests} requests, ${failed} failed; first call after ${seconds} s`;
  if (failed > 0) throw new Error(summary);
  terminal.good('summary', summary);
}

function introduce({ terminal, envoy }: Telling): void {
  terminal.write(
    `\n${terminal.style('bold', 'Signet demo: two workloads prove to each other who they are')}`,
  );
  if (envoy !== true) terminal.write(`${envoy.missing}: two small programs show the same.`);
  terminal.write(envoy === true ? envoyPicture : tlsPicture);
}

/** Prints who called whom; returns the seconds since the start. */
function showFirstCall({ caller, called }: Call, { terminal, envoy }: Telling): string {
  const seconds = (performance.now() / 1_000).toFixed(1);
  const how = envoy === true ? 'mTLS through both Envoys' : 'mTLS';
  const source = envoy === true ? 'the app reads in x-forwarded-client-cert' : 'each has verified the other';
  terminal.good(
    'first call',
    `${how}, ${seconds} s after the start; ${source}:`,
    `${terminal.style('bold', caller)} called ${terminal.style('bold', called)}`,
  );
  return seconds;
}

/** Sends requests, and prints each rotation that happens under them. */
async function showRotations(mesh: Mesh, { sandbox, terminal, signal, goal }: Telling) {
  terminal.write(
    `${terminal.style('bold', 'Rotation')}, under ${requestsPerSecond} requests a second, each with a handshake of ` +
      `its own. A certificate lives ${svidLifetimeSeconds} s\nand is replaced after ${latestRenewalSeconds} s at ` +
      `the latest.${goal === Infinity ? ' Ctrl-C ends the demo.' : ''}\n`,
  );
  const check = () => {
    for (const { name, exit } of sandbox.processes) {
      if (exit !== undefined)
        throw new Error(`${name} has ended: ${exit.signal ?? `exit code ${exit.code}`}`);
    }
  };
  const traffic = mesh.startTraffic();
  const rotations = await watchRotations(mesh, traffic, { goal, terminal, signal, check });
  // After Ctrl-C the Envoys are ending too: what is on its way does not count.
  if (!signal.aborted) await traffic.stop();
  const failed = traffic.failures.length;
  return { rotations, requests: traffic.succeeded + failed, failed };
}
