import { createPrivateKey } from 'node:crypto';
import { readFileSync, renameSync } from 'node:fs';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { WorkloadClient } from '../src/clients/workload-client.ts';
import { describeWithSoftHsm } from '../src/testing/soft-hsm.ts';
import { signetBinary } from './support/checkout.ts';
import { hsmIn, keyManagerOf, moduleProcessOf } from './support/hsm.ts';
import { startMesh } from './support/mesh.ts';
import { describeWith } from './support/parts.ts';
import { SignetAgent, SignetServer, trySignet } from './support/signet.ts';
import { testSandbox } from './support/test-sandbox.ts';

/** Ways in which a private key may get into a text: lines of its PEM, and its secret number in what prints bytes. */
function formsOf(pem: string): readonly string[] {
  const lines = pem.split('\n').filter((line) => line.length >= 16 && !line.startsWith('-----'));
  const { d = '' } = createPrivateKey(pem).export({ format: 'jwk' });
  const secret = Buffer.from(d, 'base64url');
  return [...lines, d, secret.toString('hex'), secret.toString('base64'), [...secret].join(',')];
}

async function filesBelow(dir: string): Promise<readonly string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

async function privateKeysBelow(dir: string): Promise<readonly string[]> {
  const texts = await Promise.all((await filesBelow(dir)).map((path) => readFile(path, 'latin1')));
  return texts.flatMap(
    (text) => text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? [],
  );
}

/** What every user of the machine may read of the files in a folder, by path. */
async function openToAll(dir: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const path of await filesBelow(dir)) {
    if (((await stat(path)).mode & 0o004) !== 0) found.set(path, await readFile(path, 'latin1'));
  }
  return found;
}

/** Arguments and environment of a process. */
function startOf(pid: number): string {
  return ['cmdline', 'environ'].map((name) => readFileSync(`/proc/${pid}/${name}`, 'latin1')).join('\n');
}

/** Fails with the name of the secret that a text holds in any form. */
function expectNone(text: string, secrets: ReadonlyMap<string, string>): void {
  for (const [name, secret] of secrets) {
    const forms = secret.startsWith('-----BEGIN') ? formsOf(secret) : [secret];
    expect(forms.length).toBeGreaterThan(0);
    for (const form of forms) expect([name, text.includes(form)]).toEqual([name, false]);
  }
}

describeWith({ envoy: true, linux: true }, 'secrets', () => {
  it('are in no log and no output of a whole run, not even at level trace', async () => {
    const sandbox = await testSandbox();
    const log = { level: 'trace' };
    const mesh = await startMesh(sandbox, {
      server: { log, authority: { caTtl: '60s', x509SvidTtl: '6s', agentTtl: '6s' } },
      agent: { log },
    });
    const { server, agent } = mesh;
    const secrets = new Map<string, string>();
    const outputs: string[] = [];
    const run = async (...args: string[]) => {
      const { stdout, stderr } = await trySignet(args);
      outputs.push(stdout, stderr);
    };

    // A token that is not redeemed yet, one that was, and one that is wrong, as the agent's own configuration says.
    const config = await readFile(agent.configPath, 'utf8');
    const [, spent = ''] = /token: (\S+)/.exec(config) ?? [];
    const fresh = await server.createToken('spiffe://example.org/node/fresh');
    expect([spent, fresh]).toEqual([expect.stringMatching(/^\S{43}$/), expect.stringMatching(/^\S{43}$/)]);
    secrets.set('spent token', spent).set('fresh token', fresh);
    for (const [i, join_token] of [
      `{ token: ${fresh}`,
      fresh,
      `{ tokn: ${fresh} }`,
      `[${fresh}]`,
    ].entries()) {
      const wrong = join(sandbox.dir, `wrong-${i}.yaml`);
      await writeFile(wrong, config.replace(/join_token:[\s\S]*?\n(?=\S)/, `join_token: ${join_token}\n`));
      await run('agent', 'check', '--config', wrong);
      expect(outputs.at(-1)).toMatch(/^signet: .*wrong-/);
    }
    const thief = await SignetAgent.prepare(sandbox, {
      name: 'thief',
      server,
      config: { log, nodeAttestor: { join_token: { token: spent } } },
    });
    await thief.launch();
    await thief.process.waitForLine(/attestation failed/);
    await run('health', '--socket', thief.adminSocket);

    // An identity of this very program, and a rotation of it; what the agent gave is known here.
    const socket = ['--socket', agent.socket];
    const selectors = [`unix:path:${process.execPath}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/me', parent: agent.alias, selectors });
    const client = WorkloadClient.connect(`unix://${agent.socket}`);
    sandbox.onDispose(() => client.close());
    for await (const update of client.watchX509Svids(AbortSignal.timeout(30_000))) {
      for (const { privateKeyPem } of update.svids)
        secrets.set(`workload key ${secrets.size}`, privateKeyPem);
      if (secrets.size >= 4) break;
    }
    const watch = await sandbox.start({
      name: 'workload x509 --watch',
      command: signetBinary,
      args: ['workload', 'x509', '--watch', '-o', 'yaml', ...socket],
    });
    await watch.waitForLine(/notAfter/);
    await watch.stop({ signal: 'SIGINT' });
    await run('workload', 'x509', ...socket);
    await run('workload', 'x509', '-o', 'json', ...socket);
    const admin = ['--socket', server.adminSocket];
    for (const args of [['bundle', 'show', '-o', 'json'], ['entry', 'list', '-o', 'json'], ['health']]) {
      await run(...args, ...admin);
    }
    await agent.process.waitForLine(/agent SVID renewed/);
    await mesh.sidecars.firstAnswer();

    const serverFiles = await filesBelow(server.dataDir);
    const stored = await Promise.all(serverFiles.map((path) => readFile(path, 'latin1')));
    for (const [i, pem] of (await privateKeysBelow(server.dataDir)).entries())
      secrets.set(`server key ${i}`, pem);
    for (const [i, pem] of (await privateKeysBelow(agent.dataDir)).entries())
      secrets.set(`agent key ${i}`, pem);
    expect([...secrets.keys()]).toEqual(
      expect.arrayContaining(['server key 0', 'agent key 0', 'workload key 2', 'workload key 3']),
    );
    for (const process of sandbox.processes) {
      await process.stop();
      // Longer outputs would have lost lines.
      expect(process.lines.length).toBeLessThan(4_000);
      outputs.push(...process.lines);
    }

    const text = outputs.join('\n');
    expect(text).toContain('"level":"debug"');
    expect(text).toContain('join token redeemed');
    expectNone(text, secrets);
    // Tokens are stored as hashes only, from the first day on.
    expect(serverFiles).toContain(join(server.dataDir, 'signet.db'));
    for (const token of [spent, fresh]) expect(stored.some((content) => content.includes(token))).toBe(false);
  });
});

describeWithSoftHsm('the PIN of an HSM and the keys of its users', () => {
  it('are in no output, argument, environment, core dump or file that is open to all', async () => {
    const sandbox = await testSandbox();
    const hsm = await hsmIn(sandbox);
    const log = { level: 'trace' };
    const secrets = new Map([['pin', hsm.pin]]);
    const outputs: string[] = [];
    const run = async (...args: string[]) => {
      const { stdout, stderr } = await trySignet(args);
      outputs.push(stdout, stderr);
      return `${stdout}${stderr}`;
    };
    const server = await SignetServer.prepare(sandbox, {
      config: {
        log,
        ...keyManagerOf(hsm, { signTimeout: '1s' }),
        upstreamAuthority: { local_root: { ...keyManagerOf(hsm), rootTtl: '30d' } },
      },
    });
    const check = ['server', 'check', '--config', server.configPath];
    // Wrong in ways that end in different errors.
    for (const wrong of ['wrong-pin-1234', 'two\nlines-of-pin']) {
      secrets.set(`wrong pin ${secrets.size}`, wrong.split('\n').at(-1)!);
      await writeFile(hsm.pinFile, wrong);
      expect(await run(...check)).toMatch(/^signet: /);
    }
    await writeFile(hsm.pinFile, hsm.pin);
    await server.start();

    const agent = await SignetAgent.join(sandbox, { server, config: { log } });
    const selectors = [`unix:path:${process.execPath}`];
    await server.createEntry({ spiffeId: 'spiffe://example.org/me', parent: agent.alias, selectors });
    const client = WorkloadClient.connect(`unix://${agent.socket}`);
    sandbox.onDispose(() => client.close());
    const fetching = () => client.fetchX509Svids({ signal: AbortSignal.timeout(10_000) });
    const { svids } = await agent.process.until('an SVID', fetching);
    for (const [i, { privateKeyPem }] of svids.entries()) secrets.set(`workload key ${i}`, privateKeyPem);
    const minted = await server.mint('spiffe://example.org/minted', { ttlSeconds: 60 });
    secrets.set('minted key', minted.key);

    // The processes as they are, and then in trouble: the module's is killed, the token away, the PIN refused.
    const processes = [server.process.pid, moduleProcessOf(server), agent.process.pid];
    for (const pid of processes) outputs.push(startOf(pid));
    for (const pid of processes.slice(0, 2)) {
      expect(readFileSync(`/proc/${pid}/limits`, 'utf8')).toMatch(/^Max core file size +0 +0 /m);
    }
    const health = ['health', '--socket', server.adminSocket];
    renameSync(hsm.tokenDir, `${hsm.tokenDir}.away`);
    await writeFile(hsm.pinFile, 'wrong-pin-1234');
    process.kill(moduleProcessOf(server), 'SIGKILL');
    await expect(server.mint('spiffe://example.org/minted', { ttlSeconds: 60 })).rejects.toThrow(
      /token "ca"/,
    );
    outputs.push(await run(...health));
    renameSync(`${hsm.tokenDir}.away`, hsm.tokenDir);
    await server.process.waitForLine(/CKR_PIN_INCORRECT/);
    await run(...health);
    await run('authority', 'x509', 'show', '-o', 'json', '--socket', server.adminSocket);

    for (const [i, pem] of (await privateKeysBelow(sandbox.dir)).entries())
      secrets.set(`stored key ${i}`, pem);
    expect([...secrets.keys()]).toEqual(expect.arrayContaining(['workload key 0', 'stored key 0']));
    for (const { lines } of sandbox.processes) {
      // Longer outputs would have lost lines.
      expect(lines.length).toBeLessThan(4_000);
      outputs.push(...lines);
    }
    const files = await openToAll(sandbox.dir);
    expect([...files.keys()]).toContain(join(sandbox.dir, 'hsm', 'softhsm2.conf'));
    expect(outputs.join('\n')).toContain('"level":"debug"');
    expectNone([...outputs, ...files.values()].join('\n'), secrets);
    expect(await privateKeysBelow(server.dataDir)).toEqual([]);
  });
});
