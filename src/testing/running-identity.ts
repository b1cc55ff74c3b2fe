import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { AgentIdentity, type AgentIdentityState } from '../agent/agent-identity.ts';
import { Bootstrap } from '../agent/bootstrap.ts';
import type { AgentConfig } from '../agent/config.ts';
import { ServerConnection } from '../agent/server-connection.ts';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor } from '../plugin-api/node-attestor.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { Observable } from '../runtime/observable.ts';
import { TrustDomain } from '../spiffe/spiffe-id.ts';
import { eventually } from './eventually.ts';
import { FakeClock } from './fake-clock.ts';
import { memoryLogger, until } from './grpc-listener.ts';
import { tempDir } from './temp-dir.ts';

const trustDomain = TrustDomain.parse('example.org');
const minuteMs = 60_000;

/** TLS looks at the clock of the machine: certificates of an hour are valid at both for two renewals. */
export const recentClock = () => new FakeClock(Date.now() - 50 * minuteMs);

/** What a test chooses of an agent; the rest is as in `agent.ts`. */
export interface TestIdentityOptions {
  readonly clock: FakeClock;
  readonly address: string;
  readonly dataDir?: string;
  readonly trust?: Pick<AgentConfig, 'trustBundle' | 'insecureBootstrap'>;
  readonly attestor?: AgentNodeAttestor;
  readonly keyManager?: KeyManager;
}

/** An agent's identity, not yet running, as the agent makes it. */
export async function identityOf(options: TestIdentityOptions) {
  const { clock, address, dataDir = tempDir() } = options;
  const { trust = { insecureBootstrap: true } } = options;
  const state = new Observable<AgentIdentityState | undefined>(undefined);
  const connection = new ServerConnection({ address, trustDomain, identity: state, clock });
  onTestFinished(() => connection.close());
  const keyManager = options.keyManager ?? (await DiskKeyManager.open({ dataDir }));
  const { log, lines } = memoryLogger();
  let bans = 0;
  const identity = new AgentIdentity({
    trustDomain,
    state,
    dataDir,
    attestorType: 'join_token',
    attestor: options.attestor ?? new JoinTokenAgentAttestor({ token: 'a token that nobody looks at' }),
    keyManager,
    bootstrap: new Bootstrap(trustDomain, { server: address, ...trust }, clock),
    client: () => connection.client(),
    onBanned: () => {
      bans += 1;
    },
    clock,
    log,
  });
  return { identity, state, keyManager, dataDir, lines, bans: () => bans };
}

/** Runs it until the test ends, or `stop` is called; resolves when it has read what is on disk. */
export async function startIdentity(options: TestIdentityOptions) {
  const agent = await identityOf(options);
  const stopping = new AbortController();
  const ready = Promise.withResolvers<void>();
  const running = agent.identity.run(stopping.signal, ready.resolve);
  running.catch(ready.reject);
  const stop = async () => {
    stopping.abort();
    await running;
  };
  onTestFinished(async () => {
    await stop().catch(() => undefined);
  });
  await ready.promise;
  return { ...agent, stop };
}

/** An agent's identity that runs, with what it works on. */
export type RunningIdentity = Awaited<ReturnType<typeof startIdentity>>;

/** Runs it until it has its identity. */
export async function startAttested(options: TestIdentityOptions) {
  const agent = await startIdentity(options);
  await attested(agent);
  return agent;
}

/** Resolves when it has its identity. */
export async function attested({ state, identity }: RunningIdentity): Promise<AgentIdentityState> {
  await until(() => state.value !== undefined, `attested; ${identity.problem}`);
  return state.value!;
}

/** Resolves when an attempt has failed. */
export const hasProblem = ({ identity }: RunningIdentity) =>
  until(() => identity.problem !== undefined, 'a problem is noted');

/** Lets time pass without a tick for each second of it: first the date, then what waits. */
export async function pass(clock: FakeClock, ms: number): Promise<void> {
  clock.stepWallClock(ms - minuteMs);
  await clock.advance(minuteMs);
}

/** Time passes until `isSo`: an attempt that is under way may fail and begin to wait only later. */
export async function passUntil(clock: FakeClock, isSo: () => boolean, what: string): Promise<void> {
  await eventually(async () => {
    await clock.advance(10_000);
    if (!isSo()) throw new Error(`it did not come to this: ${what}`);
  });
}

/** What an agent's data directory says. */
export const fileOf = (dataDir: string) => readFileSync(join(dataDir, 'agent.json'), 'utf8');
/** Where the key of a slot is. */
export const keyFile = (dataDir: string, slot: 'a' | 'b') => join(dataDir, 'keys', `agent-svid-${slot}.pem`);
/** The certificate in few characters. */
export const printOf = (state: AgentIdentityState | undefined) => state?.svid.leaf.fingerprint;
/** The key, as text. */
export const spkiOf = (state: AgentIdentityState | undefined) => state?.svid.leaf.spki.toString('hex');
