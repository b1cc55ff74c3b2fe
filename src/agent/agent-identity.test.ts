import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { KeyManager } from '../plugin-api/key-manager.ts';
import type { AgentNodeAttestor, ServerNodeAttestor } from '../plugin-api/node-attestor.ts';
import { DiskKeyManager } from '../plugins/key-manager/disk.ts';
import { JoinTokenAgentAttestor } from '../plugins/node-attestor/join-token.ts';
import { AppError } from '../runtime/error.ts';
import { TestIdentity } from '../testing/certificates.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { until } from '../testing/grpc-listener.ts';
import {
  attested,
  fileOf,
  hasProblem,
  identityOf,
  keyFile,
  pass,
  printOf,
  recentClock,
  spkiOf,
  startIdentity as start,
  startAttested,
} from '../testing/running-identity.ts';
import { type Chain, ScriptedServer } from '../testing/scripted-server.ts';
import { tempDir } from '../testing/temp-dir.ts';
import { noAbort, TestServer } from '../testing/test-server.ts';
import { bundleOf } from '../testing/trust-domain.ts';
import type { CertificateRequest } from '../x509/csr.ts';
import { createSoftwareSigner, generatePrivateKey } from '../x509/signature.ts';

const minuteMs = 60_000;
const nowhere = '127.0.0.1:1';

/** Makes a token, and an attestor with it. */
async function invitation(server: TestServer): Promise<AgentNodeAttestor> {
  const { value } = await server.admin.agents.createJoinToken({ ttlSeconds: 600, signal: noAbort });
  return new JoinTokenAgentAttestor({ token: value });
}

describe('the first attestation', () => {
  it('gives the agent the identity that the server recorded', async () => {
    const clock = recentClock();
    const server = await TestServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address, attestor: await invitation(server) });
    const { svid, bundle } = agent.state.value!;
    expect((await server.store.agents.list()).map(({ id, serial }) => [String(id), serial])).toEqual([
      [svid.id.toString(), svid.leaf.serialDecimal],
    ]);
    expect(bundle.equals(await server.admin.bundles.getOwn({ signal: noAbort }))).toBe(true);
    expect(agent.identity.problem).toBeUndefined();
  });

  it('is on disk, with its key, before anybody can use it', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await start({ clock, address: server.address });
    const found: unknown[] = [];
    agent.state.subscribe(() => {
      const { svid, privateKeyPem } = agent.state.value!;
      const { certificateChain } = JSON.parse(fileOf(agent.dataDir));
      found.push([
        certificateChain === svid.leaf.toPem(),
        readFileSync(keyFile(agent.dataDir, 'a'), 'utf8') === privateKeyPem,
      ]);
    });
    await attested(agent);
    expect(found).toEqual([[true, true]]);
  });

  it('is not used when it cannot be stored, and tried again', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const dataDir = tempDir();
    const { attest } = server.script;
    server.script.attest = (csr, payload) => {
      // Nothing can be renamed over a directory.
      mkdirSync(join(dataDir, 'agent.json'));
      return attest(csr, payload);
    };
    const agent = await start({ clock, address: server.address, dataDir });
    await hasProblem(agent);
    expect(agent.state.value).toBeUndefined();
    rmSync(join(dataDir, 'agent.json'), { recursive: true });
    server.script.attest = attest;
    await clock.advance(500);
    await attested(agent);
  });

  describe('whose answer is lost', () => {
    /** A server that notes the keys asked for, and fails the first time after the token was redeemed. */
    async function losingServer(clock: FakeClock) {
      const keys: string[] = [];
      const joinToken = (real: ServerNodeAttestor): ServerNodeAttestor => ({
        async verify(payload, context) {
          const node = await real.verify(payload, context);
          keys.push(Buffer.from(context.publicKey).toString('hex'));
          if (keys.length === 1) throw new AppError('unavailable', 'the answer is lost');
          return node;
        },
      });
      return { keys, server: await TestServer.start({ clock, joinToken }) };
    }

    it('is repeated with the same key, for which the server takes the token again', async () => {
      const clock = recentClock();
      const { server, keys } = await losingServer(clock);
      const agent = await start({ clock, address: server.address, attestor: await invitation(server) });
      await hasProblem(agent);
      expect(agent.identity.problem).toContain('the answer is lost');
      await clock.advance(500);
      const state = await attested(agent);
      expect(keys).toEqual([spkiOf(state), spkiOf(state)]);
      await until(() => agent.identity.problem === undefined, 'the problem is gone');
    });

    it('is repeated with the same key after a restart too', async () => {
      const clock = recentClock();
      const { server, keys } = await losingServer(clock);
      const attestor = await invitation(server);
      const first = await start({ clock, address: server.address, attestor });
      await hasProblem(first);
      await first.stop();
      const second = await startAttested({
        clock,
        address: server.address,
        attestor,
        dataDir: first.dataDir,
      });
      expect(keys).toEqual([spkiOf(second.state.value), spkiOf(second.state.value)]);
    });
  });

  it('says what to do when the token is spent, and takes a new one without a restart', async () => {
    const clock = recentClock();
    const server = await TestServer.start({ clock });
    const spent = await invitation(server);
    await (await startAttested({ clock, address: server.address, attestor: spent })).stop();
    const tokenFile = join(tempDir(), 'token');
    writeFileSync(tokenFile, await spent.payload());
    const attestor = new JoinTokenAgentAttestor({ tokenFile });
    const agent = await start({ clock, address: server.address, attestor });
    await hasProblem(agent);
    expect(agent.identity.problem).toContain('signet token create');
    writeFileSync(tokenFile, await (await invitation(server)).payload());
    await clock.advance(500);
    await attested(agent);
  });

  it('does not ask for a token when the mistake is another', async () => {
    const clock = recentClock();
    const agent = await start({ clock, address: 'no port' });
    await hasProblem(agent);
    expect(agent.identity.problem).toContain('expected HOST:PORT');
    expect(agent.identity.problem).not.toContain('token');
  });

  it('is tried for ever, with growing and then bounded waits', async () => {
    const waits: number[] = [];
    class ObservedClock extends FakeClock {
      override sleep(ms: number, signal?: AbortSignal): Promise<void> {
        waits.push(ms);
        return super.sleep(ms, signal);
      }
    }
    const clock = new ObservedClock();
    const attestor = {
      payload: () => Promise.reject(new AppError('unavailable', 'no proof today')),
      answer: () => Promise.reject(new Error('there is no challenge')),
    };
    const agent = await start({ clock, address: nowhere, attestor });
    for (let attempt = 1; attempt <= 60; attempt += 1) {
      await clock.untilSleepers(1);
      expect(waits).toHaveLength(attempt);
      const ceilingMs = Math.min(30_000, 500 * 2 ** (attempt - 1));
      expect(waits.at(-1)).toBeLessThanOrEqual(ceilingMs);
      expect(waits.at(-1)).toBeGreaterThanOrEqual(ceilingMs / 10);
      expect(agent.identity.problem).toBe('no proof today');
      await clock.advance(waits.at(-1)!);
    }
  });
});

describe('after a restart', () => {
  /** The data directory of an agent that has attested and stopped. */
  async function usedDirectory(clock: FakeClock) {
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    await agent.stop();
    return { server, dataDir: agent.dataDir, before: agent.state.value! };
  }

  it('the stored identity is used without the server', async () => {
    const clock = recentClock();
    const { dataDir, before } = await usedDirectory(clock);
    const { state } = await start({ clock, address: nowhere, dataDir });
    expect(printOf(state.value)).toBe(printOf(before));
    expect(state.value?.privateKeyPem).toBe(before.privateKeyPem);
    expect(state.value?.bundle.equals(before.bundle)).toBe(true);
  });

  it('it is kept while the clock of the machine is not set yet', async () => {
    const clock = recentClock();
    const { dataDir, before, server } = await usedDirectory(clock);
    const { state } = await start({ clock: new FakeClock(0), address: server.address, dataDir });
    expect(printOf(state.value)).toBe(printOf(before));
    expect(server.calls).toEqual(['AttestAgent', 'GetBundle']);
  });

  const unusable: readonly { name: string; spoil: (dataDir: string) => void }[] = [
    { name: 'is damaged', spoil: (dataDir) => writeFileSync(join(dataDir, 'agent.json'), '{"version":') },
    { name: 'has lost its key', spoil: (dataDir) => rmSync(keyFile(dataDir, 'a')) },
    {
      name: 'belongs to another key',
      spoil: (dataDir) => {
        const json = JSON.parse(fileOf(dataDir));
        cpSync(keyFile(dataDir, 'a'), keyFile(dataDir, 'b'));
        rmSync(keyFile(dataDir, 'a'));
        writeFileSync(join(dataDir, 'agent.json'), JSON.stringify(json));
      },
    },
    {
      name: 'does not verify under its bundle',
      spoil: (dataDir) => {
        const json = JSON.parse(fileOf(dataDir));
        writeFileSync(join(dataDir, 'agent.json'), JSON.stringify({ ...json, bundle: '{"keys":[]}' }));
      },
    },
  ];
  it.each(unusable)('an identity that $name is set aside, and the agent attests anew', async ({ spoil }) => {
    const clock = recentClock();
    const { dataDir, before, server } = await usedDirectory(clock);
    spoil(dataDir);
    const spoilt = fileOf(dataDir);
    const agent = await startAttested({ clock, address: server.address, dataDir });
    expect(printOf(agent.state.value)).not.toBe(printOf(before));
    expect(readFileSync(join(dataDir, 'agent.json.unusable'), 'utf8')).toBe(spoilt);
    expect(agent.lines).toContainEqual(expect.objectContaining({ level: 'warn', kept: expect.any(String) }));
    expect(server.calls.filter((call) => call === 'AttestAgent')).toHaveLength(2);
  });

  it('a file that others can read stops the agent instead of costing a token', async () => {
    const clock = recentClock();
    const { dataDir, server } = await usedDirectory(clock);
    chmodSync(join(dataDir, 'agent.json'), 0o644);
    await expect(start({ clock, address: server.address, dataDir })).rejects.toMatchObject({
      code: 'failed-precondition',
      message: expect.stringContaining('chmod 600'),
    });
    expect(server.calls).toEqual(['AttestAgent', 'GetBundle']);
  });
});

describe('renewal', () => {
  it('comes at half of the life, with a new key, and the server then knows the new certificate', async () => {
    const clock = recentClock();
    const server = await TestServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address, attestor: await invitation(server) });
    const before = agent.state.value!;
    await pass(clock, 29 * minuteMs);
    expect(printOf(agent.state.value)).toBe(printOf(before));
    await pass(clock, 2 * minuteMs);
    await until(() => printOf(agent.state.value) !== printOf(before), `renewed; ${agent.identity.problem}`);
    const after = agent.state.value!;
    expect(after.svid.id.toString()).toBe(before.svid.id.toString());
    expect(spkiOf(after)).not.toBe(spkiOf(before));
    expect((await server.store.agents.find(after.svid.id))?.newSerial).toBe(after.svid.leaf.serialDecimal);
    expect(JSON.parse(fileOf(agent.dataDir))).toMatchObject({
      keyId: 'agent-svid-b',
      certificateChain: after.svid.leaf.toPem(),
    });
    await until(() => !existsSync(keyFile(agent.dataDir, 'a')), 'the old key is deleted');
    expect(readFileSync(keyFile(agent.dataDir, 'b'), 'utf8')).toBe(after.privateKeyPem);
  });

  it('goes on with the slots in turn', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    for (const slot of ['b', 'a'] as const) {
      const before = printOf(agent.state.value);
      await pass(clock, 31 * minuteMs);
      await until(() => printOf(agent.state.value) !== before, `renewed; ${agent.identity.problem}`);
      expect(JSON.parse(fileOf(agent.dataDir)).keyId).toBe(`agent-svid-${slot}`);
    }
  });

  it('of a very short life does not come without pause', async () => {
    const clock = new FakeClock(Date.now());
    const server = await ScriptedServer.start({ clock });
    // Certificates start ten seconds in the past: at half of this one's life it had not been made yet.
    const short = async (csr: CertificateRequest) => [
      await server.issue('spiffe://example.org/spire/agent/a', csr.spki, { ttlMs: 6_000 }),
    ];
    Object.assign(server.script, { attest: short, renew: short });
    const agent = await startAttested({ clock, address: server.address });
    await clock.untilSleepers(1);
    const before = printOf(agent.state.value);
    await clock.advance(2_000);
    expect(printOf(agent.state.value)).toBe(before);
    expect(server.calls).toEqual(['AttestAgent', 'GetBundle']);
    await clock.advance(1_500);
    await until(() => printOf(agent.state.value) !== before, 'renewed');
  });

  it('may crash at any moment before the new state is on disk: the old one is usable', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const dataDir = tempDir();
    const copies: Record<string, string> = {};
    const copyAs = (moment: string) => {
      copies[moment] = tempDir();
      cpSync(dataDir, copies[moment], { recursive: true, preserveTimestamps: true });
    };
    const keys = await DiskKeyManager.open({ dataDir });
    const keyManager: KeyManager = {
      findKey: (id) => keys.findKey(id),
      listKeys: () => keys.listKeys(),
      deleteKey: (id) => keys.deleteKey(id),
      exportKey: async (id) => {
        if (id === 'agent-svid-b') copyAs('after the answer');
        return keys.exportKey(id);
      },
      generateKey: async (id, type) => {
        const key = await keys.generateKey(id, type);
        if (id === 'agent-svid-b') copyAs('after the new key');
        return key;
      },
    };
    const { renew } = server.script;
    server.script.renew = (csr) => {
      copyAs('while the server signs');
      return renew(csr);
    };
    const agent = await startAttested({ clock, address: server.address, dataDir, keyManager });
    const before = agent.state.value!;
    await pass(clock, 31 * minuteMs);
    await until(() => printOf(agent.state.value) !== printOf(before), 'renewed');
    expect(Object.keys(copies)).toEqual(['after the new key', 'while the server signs', 'after the answer']);
    for (const copy of Object.values(copies)) {
      chmodSync(copy, 0o700);
      const { state } = await start({ clock, address: nowhere, dataDir: copy });
      expect(printOf(state.value)).toBe(printOf(before));
      expect(state.value?.privateKeyPem).toBe(before.privateKeyPem);
    }
  });

  it('keeps the old identity when the new one cannot be stored', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const before = printOf(agent.state.value);
    rmSync(join(agent.dataDir, 'agent.json'));
    mkdirSync(join(agent.dataDir, 'agent.json'));
    await pass(clock, 31 * minuteMs);
    await hasProblem(agent);
    expect(printOf(agent.state.value)).toBe(before);
    expect(existsSync(keyFile(agent.dataDir, 'a'))).toBe(true);
    rmSync(join(agent.dataDir, 'agent.json'), { recursive: true });
    await clock.advance(500);
    await until(() => printOf(agent.state.value) !== before, 'renewed');
  });

  it('and a new bundle at the same time do not undo each other', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const before = printOf(agent.state.value);
    const next = await TestIdentity.root('example.org', { notAfterMs: Date.now() + 60 * minuteMs });
    const bundle = bundleOf('example.org', [server.root.certificate, next.certificate], 2);
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
    const stored = agent.identity.setBundle(bundle);
    answer.resolve();
    await stored;
    await until(() => printOf(agent.state.value) !== before, 'renewed');
    expect(agent.state.value?.bundle.equals(bundle)).toBe(true);
    const { state } = await start({ clock, address: nowhere, dataDir: agent.dataDir });
    expect(printOf(state.value)).toBe(printOf(agent.state.value));
    expect(state.value?.bundle.equals(bundle)).toBe(true);
  });

  it('that fails does not end the identity: it is tried again until it works', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const before = printOf(agent.state.value);
    const { renew } = server.script;
    server.script.renew = () => Promise.reject(new AppError('unavailable', 'too busy'));
    await pass(clock, 31 * minuteMs);
    await hasProblem(agent);
    expect(agent.identity.problem).toBe('too busy');
    expect(printOf(agent.state.value)).toBe(before);
    server.script.renew = renew;
    await clock.advance(500);
    await until(() => printOf(agent.state.value) !== before, 'renewed');
    await until(() => agent.identity.problem === undefined, 'the problem is gone');
  });
});

describe('what the server sends is refused, and nothing replaced by it,', () => {
  const agentId = 'spiffe://example.org/spire/agent/test';
  const otherKey = async () => createSoftwareSigner(await generatePrivateKey('ec-p256')).publicKey;
  const answers: readonly {
    name: string;
    says: string;
    answer: (server: ScriptedServer, csr: CertificateRequest) => Promise<Chain>;
  }[] = [
    {
      name: 'when it signed another key',
      says: 'another key',
      answer: async (server) => [await server.issue(agentId, await otherKey())],
    },
    {
      name: 'when it names a workload',
      says: 'spiffe://example.org/web',
      answer: async (server, csr) => [await server.issue('spiffe://example.org/web', csr.spki)],
    },
    {
      name: 'when it names the server',
      says: '/spire/server',
      answer: async (server, csr) => [await server.issue('spiffe://example.org/spire/server', csr.spki)],
    },
    {
      name: 'when it is of another trust domain',
      says: 'other.org',
      answer: async (server, csr) => [await server.issue('spiffe://other.org/spire/agent/a', csr.spki)],
    },
    {
      name: 'when it comes from another CA',
      says: '',
      answer: async (server, csr) => {
        const issuer = await TestIdentity.root('example.org', { notAfterMs: Date.now() + 60 * minuteMs });
        return [await server.issue(agentId, csr.spki, { issuer })];
      },
    },
    {
      name: 'when it has expired',
      says: '',
      answer: async (server, csr) => [await server.issue(agentId, csr.spki, { ttlMs: -1_000 })],
    },
    {
      name: 'when it is a CA',
      says: '',
      answer: async (server) => [server.root.certificate],
    },
  ];

  it.each(answers)('at attestation $name', async ({ answer, says }) => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const { attest } = server.script;
    server.script.attest = (csr) => answer(server, csr);
    const agent = await start({ clock, address: server.address });
    await hasProblem(agent);
    expect(agent.identity.problem).toContain(says);
    expect(agent.state.value).toBeUndefined();
    expect(existsSync(join(agent.dataDir, 'agent.json'))).toBe(false);
    server.script.attest = attest;
    await clock.advance(500);
    await attested(agent);
  });

  it.each([
    ...answers,
    {
      name: 'when it names another agent',
      says: agentId,
      answer: async (server: ScriptedServer, csr: CertificateRequest) => [
        await server.issue('spiffe://example.org/spire/agent/another', csr.spki),
      ],
    },
  ])('at renewal $name', async ({ answer, says }) => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const before = printOf(agent.state.value);
    const file = fileOf(agent.dataDir);
    const { renew } = server.script;
    server.script.renew = (csr) => answer(server, csr);
    await pass(clock, 31 * minuteMs);
    await hasProblem(agent);
    expect(agent.identity.problem).toContain(says);
    expect(printOf(agent.state.value)).toBe(before);
    expect(fileOf(agent.dataDir)).toBe(file);
    expect(existsSync(keyFile(agent.dataDir, 'a'))).toBe(true);
    server.script.renew = renew;
    await clock.advance(500);
    await until(() => printOf(agent.state.value) !== before, 'renewed');
  });
});

describe('an identity that has expired', () => {
  it('is replaced by attesting again, with a new key, under the bundle that it knew', async () => {
    // Nobody presents the expired certificate, so the clock of the machine does not matter.
    const clock = new FakeClock(Date.now() - 180 * minuteMs);
    const server = await TestServer.start({ clock });
    const { address } = server;
    const bundleFile = join(tempDir(), 'bundle.pem');
    writeFileSync(bundleFile, (await server.admin.bundles.getOwn({ signal: noAbort })).toPem());
    const trust = { trustBundle: { file: bundleFile }, insecureBootstrap: false };
    const first = await startAttested({ clock, address, trust, attestor: await invitation(server) });
    await first.stop();
    rmSync(bundleFile);
    await pass(clock, 70 * minuteMs);
    const { dataDir } = first;
    const second = await start({ clock, address, trust, dataDir, attestor: await invitation(server) });
    expect(printOf(second.state.value)).toBe(printOf(first.state.value));
    await until(
      () => printOf(second.state.value) !== printOf(first.state.value),
      `attested again; ${second.identity.problem}`,
    );
    expect(spkiOf(second.state.value)).not.toBe(spkiOf(first.state.value));
    expect(second.state.value?.svid.notAfterMs).toBeGreaterThan(clock.now());
    expect(await server.store.agents.list()).toHaveLength(2);
  });

  it('attests again while the agent runs, when renewal failed for too long', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const before = printOf(agent.state.value);
    server.script.renew = () => Promise.reject(new AppError('permission-denied', 'agent is not active'));
    await pass(clock, 50 * minuteMs);
    await hasProblem(agent);
    expect(printOf(agent.state.value)).toBe(before);
    await pass(clock, 11 * minuteMs);
    await until(() => printOf(agent.state.value) !== before, 'attested again');
    expect(server.calls.filter((call) => call === 'AttestAgent')).toHaveLength(2);
  });
});

describe('a new bundle', () => {
  it('is on disk before anybody can use it, and the identity stays', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const next = await TestIdentity.root('example.org');
    const bundle = bundleOf('example.org', [server.root.certificate, next.certificate], 2);
    const stored: boolean[] = [];
    const encoded = next.certificate.der.toString('base64');
    agent.state.subscribe(() => stored.push(JSON.parse(fileOf(agent.dataDir)).bundle.includes(encoded)));
    await agent.identity.setBundle(bundle);
    await agent.identity.setBundle(bundleOf('example.org', bundle.certificates(), 3));
    expect(stored).toEqual([true]);
    expect(agent.state.value?.bundle).toBe(bundle);
  });

  it('of another trust domain is refused', async () => {
    const clock = recentClock();
    const server = await ScriptedServer.start({ clock });
    const agent = await startAttested({ clock, address: server.address });
    const foreign = bundleOf('other.org', [server.root.certificate], 2);
    await expect(agent.identity.setBundle(foreign)).rejects.toMatchObject({ code: 'internal' });
    expect(agent.state.value?.bundle.trustDomain.name).toBe('example.org');
  });

  it('means nothing before there is an identity', async () => {
    const agent = await identityOf({ clock: recentClock(), address: nowhere });
    await agent.identity.setBundle(bundleOf('example.org', [], 2));
    expect(agent.state.value).toBeUndefined();
  });
});

it('stops at once, whatever it waits for', async () => {
  const clock = recentClock();
  const server = await ScriptedServer.start({ clock });
  const asked = Promise.withResolvers<void>();
  server.script.attest = () => {
    asked.resolve();
    return new Promise(() => undefined);
  };
  const agent = await start({ clock, address: server.address });
  await asked.promise;
  await agent.stop();
  expect(agent.state.value).toBeUndefined();
});
