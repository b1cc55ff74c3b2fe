import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AppError } from '../runtime/error.ts';
import { until } from '../testing/grpc-listener.ts';
import {
  fileOf,
  hasProblem,
  pass,
  passUntil,
  printOf,
  type RunningIdentity,
  recentClock,
  spkiOf,
  startAttested,
  startIdentity,
} from '../testing/running-identity.ts';
import { ScriptedServer } from '../testing/scripted-server.ts';

const minuteMs = 60_000;
const nowhere = '127.0.0.1:1';
const refusal = (reason: string) =>
  new AppError('permission-denied', `the server says ${reason}`, { reason });
const attestations = ({ calls }: ScriptedServer) => calls.filter((call) => call === 'AttestAgent').length;

/** An attested agent, a while after its attestation. */
async function attestedAgo(agoMs: number, options: { readonly reattestable?: boolean } = {}) {
  const clock = recentClock();
  const server = await ScriptedServer.start({ clock });
  server.script.reattestable = options.reattestable ?? true;
  const agent = await startAttested({ clock, address: server.address });
  // The identity is there a moment before it is done.
  await until(() => agent.lines.some(({ message }) => message === 'attested'), 'attested');
  await clock.advance(agoMs);
  return { clock, server, agent, before: agent.state.value! };
}

/** Tells it of a refusal of a call that it made as itself. */
const refuse = ({ identity, state }: RunningIdentity, reason: string) =>
  identity.noteRefusal(refusal(reason), state.value!.svid);

describe('a refusal by the server', () => {
  it.each(['AGENT_EXPIRED', 'AGENT_NOT_ATTESTED', 'AGENT_NOT_ACTIVE', 'AGENT_MUST_REATTEST'])(
    'of %s has the agent attest again at once, and it has its identity all the time',
    async (reason) => {
      const { agent, server, before } = await attestedAgo(11 * minuteMs);
      const states: unknown[] = [];
      agent.state.subscribe(() => states.push(printOf(agent.state.value)));
      await refuse(agent, reason);
      await until(
        () => printOf(agent.state.value) !== printOf(before),
        `attested; ${agent.identity.problem}`,
      );
      expect(states).toEqual([printOf(agent.state.value)]);
      expect(spkiOf(agent.state.value)).not.toBe(spkiOf(before));
      expect(attestations(server)).toBe(2);
      expect(agent.bans()).toBe(0);
    },
  );

  it('is over when the server accepts the same identity again, such as once its clock is right', async () => {
    const { clock, agent, server, before } = await attestedAgo(11 * minuteMs, { reattestable: false });
    server.script.attest = () => {
      throw new AppError('invalid-argument', 'the token has been used');
    };
    await refuse(agent, 'AGENT_EXPIRED');
    await until(() => agent.identity.problem !== undefined && attestations(server) > 1, 'tried to attest');
    agent.identity.noteAccepted(before.svid);
    expect(agent.identity.problem).toBeUndefined();
    const tried = attestations(server);
    await clock.advance(5 * minuteMs);
    expect(attestations(server)).toBe(tried);
    await clock.advance(15 * minuteMs);
    await until(() => server.calls.includes('RenewAgent'), 'renewed when that was due');
  });

  it('is acted on once, however many calls report it', async () => {
    const { clock, agent, server, before } = await attestedAgo(11 * minuteMs);
    const { svid } = before;
    const report = () => agent.identity.noteRefusal(refusal('AGENT_NOT_ACTIVE'), svid);
    await Promise.all([report(), report(), report()]);
    await until(() => printOf(agent.state.value) !== printOf(before), 'attested again');
    await report();
    await clock.advance(5 * minuteMs);
    expect(attestations(server)).toBe(2);
  });

  it('that follows an attestation soon is not answered at once again: two agents may share an identity', async () => {
    const { clock, agent, server } = await attestedAgo(minuteMs);
    const waits: number[] = [];
    for (let time = 0; time < 12; time += 1) {
      const before = printOf(agent.state.value);
      await refuse(agent, 'AGENT_NOT_ACTIVE');
      const startMs = clock.monotonic();
      while (printOf(agent.state.value) === before) await clock.advance(1_000);
      waits.push(clock.monotonic() - startMs);
    }
    // Full jitter below five minutes, of which at least a tenth is waited.
    expect(waits.at(-1)).toBeGreaterThanOrEqual(30_000);
    expect(attestations(server)).toBe(13);
  });

  it.each<{ name: string; error: unknown }>([
    { name: 'without a reason', error: new AppError('permission-denied', 'agent is banned') },
    { name: 'of another kind', error: new AppError('unavailable', 'x', { reason: 'AGENT_BANNED' }) },
    { name: 'for a reason that nobody knows', error: refusal('constructor') },
    { name: 'that is no AppError', error: Object.assign(new Error('x'), { reason: 'AGENT_BANNED' }) },
  ])('$name changes nothing', async ({ error }) => {
    const { clock, agent, server, before } = await attestedAgo(minuteMs);
    await agent.identity.noteRefusal(error, before.svid);
    await clock.advance(minuteMs);
    expect(agent.state.value).toBe(before);
    expect(attestations(server)).toBe(1);
    expect(agent.bans()).toBe(0);
  });

  it('of a call that was made as an earlier identity changes nothing', async () => {
    const { clock, agent, before } = await attestedAgo(minuteMs, { reattestable: false });
    await pass(clock, 31 * minuteMs);
    await until(() => printOf(agent.state.value) !== printOf(before), 'renewed');
    const renewed = agent.state.value;
    for (const reason of ['AGENT_BANNED', 'AGENT_NOT_ACTIVE']) {
      await agent.identity.noteRefusal(refusal(reason), before.svid);
    }
    await clock.advance(minuteMs);
    expect(agent.state.value).toBe(renewed);
  });

  it('of an agent that cannot attest again costs nothing that it has, and says once what to do', async () => {
    const { clock, agent, server, before } = await attestedAgo(11 * minuteMs, { reattestable: false });
    const { attest } = server.script;
    server.script.attest = () => Promise.reject(new AppError('invalid-argument', 'the token is spent'));
    await refuse(agent, 'AGENT_NOT_ATTESTED');
    await hasProblem(agent);
    while (attestations(server) < 6) await clock.advance(1_000);
    expect(printOf(agent.state.value)).toBe(printOf(before));
    const lines = agent.lines.filter(({ level }) => level === 'warn' || level === 'error');
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatchObject({ reason: 'AGENT_NOT_ATTESTED' });
    expect(lines[0]?.['nextStep']).toContain('`signet token create`');
    expect(agent.identity.problem).toContain('`signet token create`');
    server.script.attest = attest;
    await passUntil(clock, () => printOf(agent.state.value) !== printOf(before), 'attested with a new token');
  });
});

describe('at half of its life', () => {
  it('an agent that can attest again does so instead of renewing', async () => {
    const { clock, agent, server, before } = await attestedAgo(minuteMs);
    await pass(clock, 31 * minuteMs);
    await until(() => printOf(agent.state.value) !== printOf(before), 'attested again');
    expect(server.calls.filter((call) => call === 'RenewAgent')).toEqual([]);
    expect(attestations(server)).toBe(2);
  });

  it('an agent that the server wants to attest again does so at once', async () => {
    const { clock, agent, server, before } = await attestedAgo(minuteMs, { reattestable: false });
    server.script.renew = () => Promise.reject(refusal('AGENT_MUST_REATTEST'));
    await clock.advance(31 * minuteMs);
    await until(() => printOf(agent.state.value) !== printOf(before), 'attested again');
    expect(server.calls.filter((call) => call === 'RenewAgent')).toHaveLength(1);
  });

  it('an agent that cannot attest right now keeps what it has', async () => {
    const { clock, agent, server, before } = await attestedAgo(minuteMs);
    const { attest } = server.script;
    server.script.attest = () => Promise.reject(refusal('AGENT_BANNED'));
    await pass(clock, 31 * minuteMs);
    await hasProblem(agent);
    await clock.advance(10 * minuteMs);
    expect(printOf(agent.state.value)).toBe(printOf(before));
    expect(agent.bans()).toBe(0);
    server.script.attest = attest;
    await passUntil(clock, () => printOf(agent.state.value) !== printOf(before), 'attested again');
  });
});

describe('a banned agent', () => {
  /** Every byte below a directory. */
  const bytesIn = (dir: string): string =>
    readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'))
      .join('\n');

  async function banned() {
    const parts = await attestedAgo(minuteMs);
    const { attest } = parts.server.script;
    parts.server.script.attest = () => Promise.reject(refusal('AGENT_BANNED'));
    await refuse(parts.agent, 'AGENT_BANNED');
    return { ...parts, attest };
  }

  it('loses its identity in memory and on the disk, but not the bundle by which it knows the server', async () => {
    const { agent, before } = await banned();
    expect(agent.state.value).toBeUndefined();
    expect(agent.bans()).toBe(1);
    const bytes = bytesIn(agent.dataDir);
    expect(bytes).not.toContain('PRIVATE KEY');
    expect(bytes).not.toContain(before.svid.leaf.toPem().slice(40, 100));
    expect(await agent.keyManager.listKeys()).toEqual([]);
    expect(JSON.parse(fileOf(agent.dataDir))).toMatchObject({ certificateChain: '' });
    expect(fileOf(agent.dataDir)).toContain(before.bundle.certificates()[0]!.der.toString('base64'));
  });

  it('goes on running and asks again slowly, and says who was banned and what to do', async () => {
    const { clock, agent, server, before } = await banned();
    const startMs = clock.monotonic();
    while (attestations(server) < 5) await clock.advance(1_000);
    // Full jitter below one, two, four and five minutes, of which at least a tenth is waited.
    expect(clock.monotonic() - startMs).toBeGreaterThanOrEqual(72_000);
    expect(agent.identity.bannedId).toEqual(before.svid.id);
    expect(agent.lines).toContainEqual(
      expect.objectContaining({ level: 'error', nextStep: `signet agent evict ${before.svid.id}` }),
    );
  });

  it('comes back by itself once an administrator has let it', async () => {
    const { clock, agent, server, attest } = await banned();
    await clock.advance(minuteMs);
    server.script.attest = attest;
    await passUntil(clock, () => agent.state.value !== undefined, 'attested');
    await until(() => agent.identity.problem === undefined, 'the problem is gone');
    expect(agent.identity.bannedId).toBeUndefined();
  });

  it('still knows its server after a restart, and no other', async () => {
    const { clock, agent, server, attest } = await banned();
    await agent.stop();
    const { dataDir } = agent;
    const impostor = await ScriptedServer.start({ clock });
    const misled = await startIdentity({ clock, address: impostor.address, dataDir });
    await hasProblem(misled);
    expect(attestations(impostor)).toBe(0);
    await misled.stop();
    server.script.attest = attest;
    await startAttested({ clock, address: server.address, dataDir });
    expect(existsSync(join(dataDir, 'agent.json.unusable'))).toBe(false);
  });

  it('does not get its identity back from a renewal that was under way', async () => {
    const { clock, agent, server, before } = await attestedAgo(minuteMs, { reattestable: false });
    const { renew } = server.script;
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    server.script.renew = async (csr) => {
      asked.resolve();
      await answer.promise;
      return renew(csr);
    };
    await pass(clock, 31 * minuteMs);
    await asked.promise;
    await agent.identity.noteRefusal(refusal('AGENT_BANNED'), before.svid);
    answer.resolve();
    await until(() => agent.identity.problem?.includes('dropped') === true, 'the answer came too late');
    expect(agent.state.value).toBeUndefined();
    expect(bytesIn(agent.dataDir)).not.toContain(before.svid.leaf.toPem().slice(40, 100));
  });

  it('of whom the disk cannot be cleaned is banned all the same', async () => {
    const { agent } = await attestedAgo(minuteMs);
    agent.keyManager.deleteKey = () => Promise.reject(new Error('read-only file system'));
    await refuse(agent, 'AGENT_BANNED');
    expect(agent.state.value).toBeUndefined();
    expect(agent.bans()).toBe(1);
    expect(agent.lines).toContainEqual(
      expect.objectContaining({ level: 'error', message: expect.stringContaining('disk') }),
    );
  });
});

it('an agent that never had an identity has nothing to lose', async () => {
  const clock = recentClock();
  const server = await ScriptedServer.start({ clock });
  const agent = await startIdentity({ clock, address: nowhere });
  await hasProblem(agent);
  expect(attestations(server)).toBe(0);
  expect(agent.bans()).toBe(0);
});
