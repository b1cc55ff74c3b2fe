import type { SignetAgent, SignetServer } from '../e2e/support/signet.ts';

/** The trust domain of the demo, and the two that talk in it. */
export const trustDomain = 'example.org';
export const callerId = `spiffe://${trustDomain}/frontend`;
export const serviceId = `spiffe://${trustDomain}/backend`;

/** How long an SVID lives here: short, so that many rotations are seen. */
export const svidLifetimeSeconds = 20;

/** The agent renews after 60 % of the lifetime at the latest (`svid.renewWindow`). */
export const latestRenewalSeconds = svidLifetimeSeconds * 0.6;

/** Requests per second, each on an mTLS connection of its own. */
export const requestsPerSecond = 20;

/** The server and an agent that has joined it. */
export interface ControlPlane {
  readonly server: SignetServer;
  readonly agent: SignetAgent;
}

/** Who called and who answered, as each side has proved it to the other. */
export interface Call {
  readonly caller: string;
  readonly called: string;
}

/** One that holds an SVID. */
export interface Party {
  readonly name: string;
  /** Serial number (hex) of the certificate it uses now. */
  serial(): Promise<string | undefined>;
}

/** The requests from the caller to the service. */
export interface Traffic {
  readonly succeeded: number;
  /** Why the others failed. */
  readonly failures: readonly { readonly reason: string }[];
  stop(): Promise<void>;
}

/** Two workloads that talk with mTLS: through two Envoys, or by themselves. */
export interface Mesh {
  readonly parties: readonly Party[];
  readonly firstCall: Call;
  /** Where the service speaks mTLS, on 127.0.0.1. */
  readonly servicePort: number;
  /** Commands to look at it. */
  readonly commands: readonly CommandGroup[];
  startTraffic(): Traffic;
}

/** Commands to copy, and what they are good for. */
export interface CommandGroup {
  readonly about: string;
  readonly commands: readonly string[];
}
